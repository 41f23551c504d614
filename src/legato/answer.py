"""From the engine's outputs to text: an answer and its choices, as they grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from legato.drafting.prediction import Predictions
from legato.errors import EngineError, LegatoError, RequestError
from legato.request import (
    FinishReason,
    Output,
    Request,
    TokenLogprobs,
)
from legato.text.continuation import Prompt
from legato.text.parting import Parting, given
from legato.text.reasoning_split import Parted
from legato.text.recall import Remembered
from legato.text.stream import TextStream

if TYPE_CHECKING:
    from legato.text.tokenizer import Tokenizer


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
            is_whole = output.finish_reason is FinishReason.STOP
            piece.text += stream.finish(goes_on=not is_whole).text
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
            rest = split.finish(goes_on=piece.finish_reason != FinishReason.STOP.value)
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
