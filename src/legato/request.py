"""The two shapes that cross rooms: ``Request`` goes in, ``Output`` comes out.

Both are plain msgspec structs, because between server and engine they cross a process border.
Token ids only: text is the business of ``legato.text``.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class FinishReason(StrEnum):
    """Why a sequence ended; the values are OpenAI's."""

    STOP = "stop"  # end-of-sequence token, stop token or stop string
    LENGTH = "length"  # max_tokens or the context length
    ABORT = "abort"  # cancelled by the client
    ERROR = "error"  # the engine failed; Output.error says how


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How to choose tokens. Names and meanings are vLLM's (and OpenAI's where they overlap).

    ``validate()`` in ``legato.sampling_params`` rejects values out of range; the engine trusts them.
    """

    n: int = 1
    max_tokens: int | None = None  # None: up to the context length
    min_tokens: int = 0
    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # 0 or -1: off
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # over prompt and output
    presence_penalty: float = 0.0  # over output
    frequency_penalty: float = 0.0  # over output
    seed: int | None = None  # None: the caller draws one before the engine sees the request
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    stop: list[str] = []  # handled by legato.text.stream, never by the engine
    include_stop_str_in_output: bool = False
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    logprobs: int | None = None  # None: off; k: chosen token and the k best
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True


class Thinking(msgspec.Struct, frozen=True, kw_only=True):
    """The reasoning block of an answer: where it ends, and after how many tokens it must.

    ``is_open``: the answer goes on inside the block; otherwise it may open one with its first tokens.
    """

    opening: bytes
    closing: bytes
    is_open: bool
    budget: int | None = None  # most tokens inside the block; None: no limit
    used: int = 0  # tokens of it that were given with the request
    begun: bytes = b""  # the end of what was given: a beginning of the closing mark may stand there
    closing_ids: list[int] = []  # what closes the block when the budget is used up


class Guidance(msgspec.Struct, frozen=True, kw_only=True):
    """What steers an answer besides its sampling parameters."""

    token_healing: bool = True
    thinking: Thinking | None = None
    grammar: str = ""  # as ``llguidance`` reads it; checked
    grammar_field: str = "grammar"  # what the client called it
    prediction_token_ids: list[int] = []  # of what is expected to come


NO_GUIDANCE = Guidance()


class Progress(msgspec.Struct, kw_only=True):
    """How far a choice has come in an engine that ended: another one goes on behind ``token_ids``."""

    index: int
    token_ids: list[int] = []
    is_announced: bool = False  # its first output is out, with all that only the first tells


class Request(msgspec.Struct, kw_only=True):
    """One prompt to continue, ``params.n`` times.

    Choice ``i`` samples with ``seed + i``; the random numbers of its token at position ``p`` of the
    whole sequence depend on ``(seed + i, p)`` only.
    """

    id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    eos_token_ids: list[int] = []  # end-of-sequence tokens; ignored with params.ignore_eos
    priority: int = 0  # lower is served first (as in vLLM)
    cache_salt: str = ""  # requests share cached blocks only within a salt
    output_token_ids: list[int] = []
    """Output given already (a resumed request): positions, penalties, ``min_tokens`` and
    ``max_tokens`` go on where they stood; only new tokens are reported."""
    pending: bytes = b""
    """Text that the first new tokens must spell, the last of them possibly going on beyond it
    (token healing). Tokens that lie wholly in it do not count against ``max_tokens``."""
    draft_token_ids: list[int] = []
    """How ``pending`` is probably spelled; changes the speed only."""
    prediction_token_ids: list[int] = []
    """Tokens of which many are expected to come, in this order; changes the speed only."""
    thinking: Thinking | None = None
    grammar: str = ""
    """What the content must follow, as ``llguidance`` reads it; it begins after the thoughts."""
    grammar_field: str = "grammar"
    """What the client called it, if it goes wrong later on."""
    grammar_text: bytes = b""
    """The content that was given already, without ``pending``: the grammar is fed with it first."""
    progress: list[Progress] | None = None
    """Of the choices that are not finished, if another engine has begun the request; None: it is new.
    What the tokens led to (healing, thoughts, the grammar, what counts) is gone through again."""

    @property
    def is_constrained(self) -> bool:
        """The engine must know what tokens spell."""
        return bool(self.pending or self.grammar) or self.thinking is not None


class TokenLogprobs(msgspec.Struct):
    """Log-probabilities at one position, of the unmodified distribution (before bias and temperature).

    ``token_ids[0]``/``logprobs[0]`` is the chosen token with its ``rank`` (1 = most likely);
    the rest are the most likely tokens in descending order (they may contain the chosen one again).
    """

    token_ids: list[int]
    logprobs: list[float]
    rank: int


class Output(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one engine step added to one choice of a request."""

    request_id: str
    index: int = 0  # which of the n choices
    token_ids: list[int] = []  # new tokens of this step (a stop token that ended it included)
    logprobs: list[TokenLogprobs] | None = None  # one for each of token_ids, if asked for
    prompt_logprobs: list[TokenLogprobs | None] | None = None  # with the first output; [0]: None
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None  # the token of stop_token_ids / eos that ended it
    cached_tokens: int | None = None  # prompt tokens found in the cache; with the first output
    scheduled_at: float | None = None  # time.monotonic() of its first step; with cached_tokens
    error: str | None = None  # with FinishReason.ERROR
    error_field: str | None = None  # the request's field that is to blame for it, if one is
