"""From a prompt to the engine's request, and from the engine's outputs to text.

The server and ``LLM`` both go this way, which is why their answers are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from legato.constraint.spellings import Spellings
from legato.drafting.prediction import Predictions
from legato.errors import ContextLengthError, EngineError, LegatoError, RequestError
from legato.request import (
    NO_GUIDANCE,
    FinishReason,
    Guidance,
    Output,
    Request,
    SamplingParams,
    TokenLogprobs,
)
from legato.sampling_params import SeedSource, check_in_vocabulary, validate
from legato.text.continuation import Prompt
from legato.text.parting import Parting, given, given_content
from legato.text.reasoning_split import Parted
from legato.text.recall import Remembered
from legato.text.resumption import Resumption
from legato.text.stream import TextStream
from legato.text.thinking import resumed

if TYPE_CHECKING:
    from legato.models.info import ModelInfo
    from legato.text.tokenizer import Tokenizer


def keeps_tokens(params: SamplingParams) -> bool:
    """Whoever scores the prompt's tokens, or names those of the answer, thinks in tokens: they stay
    as the tokenizer makes them, neither healed nor remembered."""
    return params.prompt_logprobs is not None or params.allowed_token_ids is not None


def completion_prompt(
    tokenizer: Tokenizer,
    prompt: str | list[int],
    *,
    add_special_tokens: bool = True,
    seam: int | None = None,
) -> Prompt:
    """A prompt that no chat template touches: text, or token ids as they are.

    ``seam``: where the answer begins that the prompt ends with, in characters of a text (as
    ``legato render`` has it), in token ids of a list of them. Raises RequestError where it lies
    outside.
    """
    if seam is not None and not 0 <= seam <= len(prompt):
        raise RequestError(f"seam must be in 0..{len(prompt)}, the prompt's length", "seam")
    if isinstance(prompt, str):
        token_ids = tokenizer.encode(prompt, add_special_tokens=add_special_tokens)
        made = Prompt(text=prompt, token_ids=token_ids, seam=len(prompt), prefill="")
        if seam is None:
            return made
        header = tokenizer.encode(prompt[:seam], add_special_tokens=add_special_tokens)
        return _naming_answer(made, seam, header)
    check_in_vocabulary(prompt, tokenizer.vocab_size, "prompt")
    text = tokenizer.decode(prompt, skip_special_tokens=False)
    made = Prompt(text=text, token_ids=prompt, seam=len(text), prefill="", is_text=False)
    if seam is None:
        return made
    before = tokenizer.decode(prompt[:seam], skip_special_tokens=False)
    return _naming_answer(made, len(before), prompt[:seam])


def _naming_answer(prompt: Prompt, seam: int, header_ids: list[int]) -> Prompt:
    words = prompt.text[seam:]
    return replace(prompt, seam=seam, prefill=words, header_ids=header_ids, names_answer=True)


def spellings_of(tokenizer: Tokenizer, info: ModelInfo) -> Spellings:
    """What the engine must know of the vocabulary to constrain tokens."""
    return Spellings.of(
        tokenizer.all_bytes(info.vocab_size),
        tokenizer.special_ids,
        info.known({*info.eos_token_ids, *tokenizer.eos_token_ids}),
    )


def make_request(
    prompt: Prompt,
    resumption: Resumption,
    params: SamplingParams,
    info: ModelInfo,
    tokenizer: Tokenizer,
    seeds: SeedSource,
    *,
    request_id: str,
    priority: int = 0,
    cache_salt: str = "",
    field: str = "prompt",
    guidance: Guidance = NO_GUIDANCE,
) -> Request:
    """Settle what the client left open: the seed, and how many tokens may come.

    The engine counts the given words of the answer as output, the client's ``max_tokens`` does not.
    Raises RequestError for parameters out of range or tokens that the model does not have,
    ContextLengthError (naming ``field``) when what is asked for does not fit into its context.
    """
    params = validate(params, info.vocab_size, len(resumption.output_token_ids))
    room = _room(resumption.num_tokens, params.max_tokens, info.max_model_len, field)
    most = room if params.max_tokens is None else params.max_tokens
    if tokenizer.vocab_size > info.vocab_size:
        check_in_vocabulary(resumption.token_ids, info.vocab_size, field)
    settled = msgspec.structs.replace(
        params,
        seed=seeds.draw() if params.seed is None else params.seed,
        max_tokens=len(resumption.output_token_ids) + most,
    )
    return Request(
        id=request_id,
        prompt_token_ids=resumption.prompt_token_ids,
        output_token_ids=resumption.output_token_ids,
        pending=resumption.pending,
        draft_token_ids=resumption.draft,
        prediction_token_ids=guidance.prediction_token_ids,
        thinking=guidance.thinking and resumed(guidance.thinking, prompt, resumption, tokenizer),
        grammar=guidance.grammar,
        grammar_field=guidance.grammar_field,
        grammar_text=_kept_content(prompt, resumption, tokenizer) if guidance.grammar else b"",
        params=settled,
        eos_token_ids=sorted(info.known({*info.eos_token_ids, *tokenizer.eos_token_ids})),
        priority=priority,
        cache_salt=cache_salt,
    )


def _kept_content(prompt: Prompt, resumption: Resumption, tokenizer: Tokenizer) -> bytes:
    """What was given of the answer's content, without the part that will be spelled again."""
    content = given_content(prompt, tokenizer).encode()
    return content[: max(0, len(content) - len(resumption.pending))]


def _room(prompt_tokens: int, max_tokens: int | None, context: int, field: str) -> int:
    """How many tokens fit after the prompt; checks that those asked for do."""
    if prompt_tokens == 0:
        raise RequestError(f"{field} has no tokens: there is nothing to continue", field)
    room = context - prompt_tokens
    if room < 1 or (max_tokens is not None and max_tokens > room):
        asked = "" if max_tokens is None else f" and max_tokens asks for {max_tokens} more"
        raise ContextLengthError(
            f"the model's context length is {context} tokens, but {field} has "
            f"{prompt_tokens}{asked}",
            field if room < 1 else "max_tokens",
        )
    return room


@dataclass(slots=True)
class Piece:
    """What one engine step added to one choice. ``text`` is what the model wrote, thoughts and all.

    ``overlap``: so many characters at the beginning of the first token were given with the request
    (it was cut there) and are no part of ``text``.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None  # one for each of token_ids, if asked for
    finish_reason: str | None = None
    stop_reason: int | str | None = None  # as in vLLM: the stop string or stop token; None for EOS
    overlap: int = 0
    reasoning: str = ""
    content: str = ""  # all of ``text`` where nothing is parted


@dataclass(slots=True)
class Choice:
    """One of the n answers while it grows."""

    index: int
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    overlap: int = 0  # of the first token, as in ``Piece``

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def reasoning(self) -> str:
        return "".join(self.thoughts)

    @property
    def content(self) -> str:
        return "".join(self.contents)

    def add(self, piece: Piece) -> None:
        self.overlap = self.overlap or piece.overlap
        self.texts.append(piece.text)
        self.thoughts.append(piece.reasoning)
        self.contents.append(piece.content)
        self.token_ids += piece.token_ids
        self.logprobs += piece.logprobs or ()
        self.finish_reason = piece.finish_reason
        self.stop_reason = piece.stop_reason


class Answer:
    """Everything that came back for one request so far.

    ``remembered``: for each choice, where its tokens are kept for a continuation.
    """

    def __init__(
        self,
        prompt: Prompt,
        request: Request,
        tokenizer: Tokenizer,
        remembered: Sequence[Remembered] = (),
        parting: Parting | None = None,
    ) -> None:
        self.prompt = prompt
        self.request = request
        self.choices = [Choice(index) for index in range(request.params.n)]
        self._tokenizer = tokenizer
        self._prompt_token_ids = _given_ids(request, tokenizer)
        self._remembered = remembered
        self._pending = [len(request.pending)] * request.params.n  # bytes still to be spelled
        self.cached_tokens = 0
        self.prompt_logprobs: list[TokenLogprobs | None] | None = None
        self._stopped: list[int] = []
        self._streams = [
            _text_stream(tokenizer, prompt.prefill, request, parting) for _ in self.choices
        ]
        self.predicted = Predictions(request)
        self._parting = parting
        self._splits = [] if parting is None else [parting.split() for _ in self.choices]

    @property
    def prompt_token_ids(self) -> list[int]:
        """What the model was given, the beginning of its answer included."""
        return self._prompt_token_ids

    @property
    def finished(self) -> bool:
        return all(choice.finish_reason for choice in self.choices)

    @property
    def completion_tokens(self) -> int:
        return sum(len(choice.token_ids) for choice in self.choices)

    @property
    def given(self) -> Parted:
        """What the client wrote of the answer."""
        return given(self.prompt, self._parting)

    @property
    def is_cut_behind_thoughts(self) -> bool:
        """The first choice ended between its thoughts and its content."""
        choice = self.choices[0]
        return bool(choice.reasoning) and not choice.content and self._splits[0].is_over

    @property
    def reasoning_tokens(self) -> int:
        return sum(split.reasoning_tokens for split in self._splits)

    def push(self, outputs: list[Output]) -> list[Piece]:
        """The text of one step's outputs; those of a choice that a stop string ended are dropped.

        Raises EngineError if the engine reports that it failed, RequestError if that is the
        request's own fault.
        """
        pieces = []
        for output in outputs:
            if output.error is not None or output.finish_reason is FinishReason.ERROR:
                raise failure(output)
            self._note_once(output)
            choice = self.choices[output.index]
            if choice.finish_reason is None:
                if self._remembered:
                    self._remembered[output.index].extend(output.token_ids)
                piece = self._parted(self._piece(output))
                choice.add(piece)
                self.predicted.push(output.index, piece.token_ids)
                if piece.finish_reason and output.finish_reason is None:
                    self._stopped.append(output.index)
                pieces.append(piece)
        return pieces

    def take_stopped(self) -> list[int]:
        """Choices ended by a stop string since the last call: the engine does not know of it."""
        stopped, self._stopped = self._stopped, []
        return stopped

    def _note_once(self, output: Output) -> None:
        if output.cached_tokens is not None and self.cached_tokens == 0:
            self.cached_tokens = output.cached_tokens
        if output.prompt_logprobs is not None:
            self.prompt_logprobs = output.prompt_logprobs

    def _piece(self, output: Output) -> Piece:
        params = self.request.params
        stream = self._streams[output.index]
        first, overlap = self._given(output)
        hides_last = output.stop_token_id is not None and not params.include_stop_str_in_output
        spoken = output.token_ids[:-1] if hides_last else output.token_ids
        text = ""
        for count, token in enumerate(spoken, 1):
            delta = stream.push([token])
            text += delta.text
            if delta.stop is not None:
                return Piece(
                    output.index,
                    text,
                    output.token_ids[first:count],
                    output.logprobs and output.logprobs[first:count],
                    FinishReason.STOP.value,
                    delta.stop,
                    overlap,
                )
        logprobs = output.logprobs and output.logprobs[first:]
        piece = Piece(output.index, text, output.token_ids[first:], logprobs, overlap=overlap)
        if output.finish_reason is not None:
            piece.text += stream.finish().text
            piece.finish_reason = output.finish_reason.value
            piece.stop_reason = self._stop_reason(output)
        return piece

    def _given(self, output: Output) -> tuple[int, int]:
        """How many of the tokens only spell what was given, and how many characters of the next do."""
        pending = self._pending[output.index]
        for count, token in enumerate(output.token_ids):
            spelled = self._tokenizer.token_bytes(token)
            if len(spelled) > pending:
                self._pending[output.index] = 0
                return count, len(spelled[:pending].decode("utf-8", "replace"))
            pending -= len(spelled)
        self._pending[output.index] = pending
        return len(output.token_ids), 0

    def _parted(self, piece: Piece) -> Piece:
        if not self._splits:
            piece.content = piece.text
            return piece
        split = self._splits[piece.index]
        piece.reasoning, piece.content = split.push(piece.text, len(piece.token_ids))
        if piece.finish_reason is not None:
            rest = split.finish()
            piece.reasoning += rest.reasoning
            piece.content += rest.content
        return piece

    def _stop_reason(self, output: Output) -> int | None:
        token = output.stop_token_id
        asked_for = token in self.request.params.stop_token_ids
        return token if asked_for or token not in self.request.eos_token_ids else None


def failure(output: Output) -> LegatoError:
    """Why the choice of ``output`` ended."""
    said = output.error or "the engine failed"
    return (
        EngineError(said) if output.error_field is None else RequestError(said, output.error_field)
    )


def _given_ids(request: Request, tokenizer: Tokenizer) -> list[int]:
    """A remembered token inside which the client's text ends is not given: its end is an answer."""
    given = request.prompt_token_ids + request.output_token_ids
    left = len(request.pending)
    for id in request.draft_token_ids:
        left -= len(tokenizer.token_bytes(id))
        if left < 0:
            break
        given.append(id)
    return given


def _text_stream(
    tokenizer: Tokenizer, prefill: str, request: Request, parting: Parting | None
) -> TextStream:
    params = request.params
    return TextStream(
        tokenizer,
        prefill=prefill,
        stop=params.stop,
        include_stop=params.include_stop_str_in_output,
        skip_special_tokens=params.skip_special_tokens,
        shown_ids=frozenset() if parting is None else parting.shown_ids,
        min_tokens=params.min_tokens - len(request.output_token_ids),
        pending=len(request.pending),
    )
