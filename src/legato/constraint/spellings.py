"""What the tokens of a vocabulary spell, as it crosses the border between processes.

Without numpy, which the server's process does not need for anything else.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate

import msgspec


class Spellings(msgspec.Struct, frozen=True, kw_only=True):
    """``tokens.TokenTable`` searches in it."""

    data: bytes  # the bytes of all tokens, one after the other
    ends: bytes  # int32 [vocabulary]: where each token's bytes end in ``data``
    special_ids: list[int]
    eos_ids: list[int]

    @classmethod
    def of(
        cls, tokens: Sequence[bytes], special_ids: Iterable[int], eos_ids: Iterable[int]
    ) -> Spellings:
        return cls(
            data=b"".join(tokens),
            ends=array("i", accumulate(map(len, tokens))).tobytes(),
            special_ids=sorted(special_ids),
            eos_ids=list(eos_ids),
        )
