"""Who decides whether the last message is continued: every dialect's way of asking, in one table.

The first rule that fits decides. ``docs/continuation.md`` shows the same table, checked by a test.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from legato.errors import RequestError

ContinueFinalMessage = bool | Literal["content", "reasoning_content"]


class Outcome(StrEnum):
    CONTINUE = "continue"  # the answer goes on where the last message ends
    NEW_TURN = "new turn"  # the generation prompt follows the last message
    AS_IT_IS = "as it is"  # the template's text, and no turn is opened
    REFUSE = "400"


@dataclass(frozen=True)
class Signals:
    """What a request says, each as ``true``, ``false`` or ``-`` for nothing."""

    last: str  # "assistant" or "other"
    continue_final_message: str
    add_generation_prompt: str
    prefix: str
    policy: str  # of --assistant-prefill


@dataclass(frozen=True)
class Rule:
    """A cell is one value, or ``any``."""

    last: str
    continue_final_message: str
    add_generation_prompt: str
    prefix: str
    policy: str
    outcome: Outcome
    message: str = ""
    field: str = ""

    def fits(self, signals: Signals) -> bool:
        return all(_fits(getattr(self, name), value) for name, value in vars(signals).items())


_BOTH: Final = "Cannot set both `{mark}` and `add_generation_prompt` to True."
_NOT_ASSISTANT: Final = (
    "Cannot set `{mark}` to True when the last message is not from the assistant."
)
_CONTINUE, _ADD = "continue_final_message", "add_generation_prompt"

# fmt: off
RULES: Final = (
    Rule("any", "true", "true", "any", "any", Outcome.REFUSE, _BOTH.format(mark=_CONTINUE), _CONTINUE),
    Rule("any", "any", "true", "true", "any", Outcome.REFUSE, _BOTH, _ADD),
    Rule("any", "false", "any", "true", "any", Outcome.REFUSE,
         "Cannot set `{mark}` to True and `continue_final_message` to False.", _CONTINUE),
    Rule("other", "true", "any", "any", "any", Outcome.REFUSE, _NOT_ASSISTANT.format(mark=_CONTINUE),
         _CONTINUE),
    Rule("other", "any", "any", "true", "any", Outcome.REFUSE, _NOT_ASSISTANT, "messages"),
    Rule("assistant", "true", "any", "any", "any", Outcome.CONTINUE),
    Rule("assistant", "any", "any", "true", "any", Outcome.CONTINUE),
    Rule("any", "false", "false", "any", "any", Outcome.AS_IT_IS),
    Rule("assistant", "false", "any", "any", "any", Outcome.NEW_TURN),
    Rule("assistant", "-", "true", "any", "any", Outcome.NEW_TURN),
    Rule("assistant", "-", "any", "any", "continue", Outcome.CONTINUE),
    Rule("assistant", "-", "any", "any", "reject", Outcome.REFUSE,
         "the last message is from the assistant, and this server continues it only when asked to: "
         "set `continue_final_message` or `add_generation_prompt`", "messages"),
    Rule("any", "any", "false", "any", "any", Outcome.AS_IT_IS),
    Rule("any", "any", "any", "any", "any", Outcome.NEW_TURN),
)
# fmt: on


def decide(signals: Signals, mark: str = "prefix") -> Outcome:
    """What becomes of the last message; ``mark`` is how the client calls ``prefix``.

    Raises RequestError for a contradiction, naming the field.
    """
    rule = next(rule for rule in RULES if rule.fits(signals))
    if rule.outcome is Outcome.REFUSE:
        raise RequestError(rule.message.format(mark=mark), rule.field)
    return rule.outcome


def said(value: bool | str | None) -> str:
    """A flag as a cell of the table."""
    return "-" if value is None else "true" if value else "false"


def as_markdown() -> str:
    """The table of the docs."""
    head = (
        "| last message | `continue_final_message` | `add_generation_prompt` | `prefix`, `partial` "
        "| `--assistant-prefill` | |\n|---|---|---|---|---|---|\n"
    )
    return head + "".join(_row(rule) for rule in RULES)


def _row(rule: Rule) -> str:
    cells = [rule.last, rule.continue_final_message, rule.add_generation_prompt, rule.prefix]
    shown = ["" if cell == "any" else cell for cell in [*cells, rule.policy]]
    return f"| {' | '.join(shown)} | **{rule.outcome}** |\n"


def _fits(cell: str, value: str) -> bool:
    return cell in ("any", value)
