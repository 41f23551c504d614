"""Why the tokens that a step brought cannot be used."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from legato.constraint.ruling import INCONSISTENT
from legato.errors import EngineError, LegatoError, RequestError
from legato.plan import Part
from legato.sequence import Sequence

if TYPE_CHECKING:
    from legato.constraint.grammar import Grammar

NO_TOKEN = "the logits are not numbers, or no token is allowed"


def fault_of(
    part: Part, tokens: list[int], failed_grammars: dict[Grammar, str]
) -> LegatoError | None:
    """Why a part's tokens cannot be used. Behind a token that is not the drafted one, the rest
    means nothing."""
    constraint = part.sequence.constraint
    if constraint is not None and constraint.grammar in failed_grammars:
        reason = failed_grammars[constraint.grammar]
        if reason == INCONSISTENT:
            return EngineError(f"the grammar went wrong: {reason}")
        # Some limits on what a grammar may cost are met only by what is written under it.
        field = part.sequence.request.grammar_field
        return RequestError(f"{field}: the grammar is too complex: {reason}", field)
    if not part.draft:
        return no_token(part.sequence) if min(tokens, default=0) < 0 else None
    drafted = tokens[part.num_forced :]
    right = sum(
        1
        for _ in takewhile(lambda pair: pair[0] == pair[1], zip(drafted, part.draft, strict=False))
    )
    if any(token < 0 for token in tokens[: part.num_forced + right + part.samples]):
        return no_token(part.sequence)
    return None


def no_token(sequence: Sequence) -> LegatoError:
    if sequence.is_masked and sequence.constraint is not None:
        field = "allowed_token_ids"
        return RequestError(f"{field} has none of the tokens that the grammar allows here", field)
    is_limited = sequence.is_masked or sequence.constraint is not None
    if is_limited and sequence.num_output < sequence.params.min_tokens:
        field = "min_tokens"
        return RequestError(f"{field} forbids to end here, and nothing else is allowed", field)
    return EngineError(NO_TOKEN)
