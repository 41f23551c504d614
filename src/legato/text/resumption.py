"""From which tokens an answer goes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resumption:
    """Where the engine goes on.

    ``prompt_token_ids + output_token_ids`` and ``pending`` spell the prompt's text. ``draft`` spells
    ``pending``; a remembered token may go beyond it.
    """

    prompt_token_ids: list[int]  # before the answer's first word
    output_token_ids: list[int]  # of the answer's given words, kept as they are
    pending: bytes  # what the first new tokens must spell; b"": nothing
    draft: list[int]  # how they probably spell it
    is_unhealed: bool = False  # the given words end in tokens that the model need not have chosen

    @property
    def token_ids(self) -> list[int]:
        """All of them, the end as drafted."""
        return [*self.prompt_token_ids, *self.output_token_ids, *self.draft]

    @property
    def num_tokens(self) -> int:
        """With the end spelled as drafted."""
        return len(self.prompt_token_ids) + len(self.output_token_ids) + len(self.draft)
