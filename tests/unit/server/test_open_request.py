"""A request between its client and an engine: what its client does not read is joined."""

from __future__ import annotations

import msgspec

from legato.request import FinishReason, Output, TokenLogprobs
from legato.server.open_request import join

SCORED = TokenLogprobs(token_ids=[1], logprobs=[-0.5], rank=1)


def test_outputs_that_are_joined_lose_nothing() -> None:
    """What the first one tells stays, what the second one tells is added."""
    first = Output(request_id="a", token_ids=[1], cached_tokens=3, logprobs=[SCORED])
    second = Output(
        request_id="a", token_ids=[2], cached_tokens=4, logprobs=[SCORED], prompt_logprobs=[None],
        finish_reason=FinishReason.STOP, stop_token_id=2, error="odd", error_field="prompt",
    )  # fmt: skip
    join(first, second)
    assert first == msgspec.structs.replace(
        second, token_ids=[1, 2], cached_tokens=3, logprobs=[SCORED] * 2
    )
