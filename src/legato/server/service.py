"""What every endpoint works with: the engine's client, the model's text side, and the settings."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec
from starlette.requests import Request as HttpRequest

from legato.answer import Answer, Piece
from legato.asking import open_answer, spellings_of
from legato.config import ServerConfig
from legato.constraint.spellings import Spellings
from legato.errors import LegatoError, RequestError
from legato.messages import Stats
from legato.models.info import ModelInfo
from legato.request import NO_GUIDANCE, Guidance, Output, Request, SamplingParams
from legato.sampling_params import SeedSource
from legato.server.answer_log import log_answer
from legato.server.asker import ASKER, NOBODY, Asker
from legato.server.bodies import Bodies
from legato.server.bridge import EngineState
from legato.server.calls import CALL
from legato.server.errors import ModelNotFoundError, NotReadyError
from legato.server.grammar_trial import GrammarTrial
from legato.server.kept_streams import MAX_WINDOW, KeptStreams
from legato.server.load import Load, Place
from legato.server.metrics import Metrics, Sources
from legato.server.responses_store import ResponseStore
from legato.server.timeline import Timeline
from legato.text.continuation import Prompt
from legato.text.recall import AnswerMemory
from legato.text.template import ChatTemplate
from legato.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from legato.server.tracing import Tracing

RANKS = 32
"""Steps between two priorities of a request."""
MAX_PRIORITY = 2**31
MAX_NAME = 512
"""Characters of what a client calls its request, or the share of the cache that it may use."""

_SOUND_ID = re.compile(r"[!-.0-~]+")

LONG_TEXT = 20_000
"""Characters from which rendering and tokenising would hold up the streams of other clients."""

Result = TypeVar("Result")


class Engine(Protocol):
    """What the endpoints ask of ``bridge.EngineClient``."""

    @property
    def state(self) -> EngineState: ...
    @property
    def info(self) -> ModelInfo: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def stats(self) -> Stats: ...

    restarts: int
    resumed: int
    on_stats: Callable[[Stats], None]

    def generate(
        self, request: Request, *, timeout: float | None = None
    ) -> AsyncGenerator[list[Output], None]: ...
    def cancel(self, request_id: str, index: int | None = None) -> None: ...
    def rank(self, request_id: str, priority: int) -> None: ...
    def close(self, error: LegatoError) -> None: ...
    def describe(self, spellings: Spellings) -> None: ...


@dataclass(kw_only=True)
class Service:
    """One model behind HTTP. ``tokenizer`` and ``template`` are there once ``loaded``."""

    engine: Engine
    config: ServerConfig
    seeds: SeedSource
    model_name: str
    tokenizer: Tokenizer | None = None
    template: ChatTemplate | None = None
    metrics: Metrics = field(default_factory=Metrics)
    responses: ResponseStore = field(default_factory=ResponseStore)
    load: Load = field(default_factory=Load)
    bodies: Bodies = field(init=False)
    grammars: GrammarTrial = field(init=False)
    streams: KeptStreams = field(default_factory=KeptStreams)
    memory: AnswerMemory = field(default_factory=AnswerMemory)
    tracing: Tracing | None = None
    is_draining: bool = False
    _has_described: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.bodies = Bodies(self.config.max_bodies_bytes)
        self.grammars = GrammarTrial(lambda: self.spellings)
        self.engine.on_stats = self.metrics.stepped
        self.metrics.sources = Sources(
            stats=lambda: self.engine.stats,
            faults=lambda: (self.engine.restarts, self.engine.resumed),
            model=lambda: self.engine.info if self.tokenizer is not None else None,
            tasks=lambda: len(asyncio.all_tasks()),
            streams=lambda: len(self.streams),
            engine_pid=lambda: self.engine.pid,
        )

    @property
    def num_open(self) -> int:
        """Choices that grow."""
        return self.load.open

    @property
    def status(self) -> str:
        """What /health and /ready tell."""
        if self.is_draining:
            return "draining"
        return self.engine.state if self.tokenizer is not None else EngineState.LOADING

    @property
    def accepts(self) -> bool:
        """Requests are taken; while the engine restarts, they wait for it."""
        return self.status in (EngineState.READY, EngineState.RESTARTING)

    @property
    def text(self) -> Tokenizer:
        if self.tokenizer is None:
            raise NotReadyError("the model is still loading; try again in a moment")
        return self.tokenizer

    def text_within(self, cache_salt: str | None) -> Tokenizer:
        """For a request's prompt: fast where one of the same salt had the same texts."""
        return self.text.remembering(cache_salt or "")

    def check_model(self, name: str | None) -> None:
        if name is not None and name != self.model_name:
            raise ModelNotFoundError(
                f"The model `{name}` does not exist; this server has `{self.model_name}`.", "model"
            )

    def check_ready(self) -> None:
        if self.is_draining:
            raise NotReadyError("the server is being shut down: ask another one")
        if not self.accepts:
            raise NotReadyError(f"the engine is {self.status}: try again in a moment")

    def resume_window(self, asked: float | None, *, streamed: bool) -> float:
        """Seconds for which a stream is kept without a reader. Raises RequestError."""
        if asked is None:
            return self.config.resume_window
        if not 0 <= asked <= MAX_WINDOW:
            raise RequestError(
                f"resume_window must be 0 to {MAX_WINDOW:g} seconds, got {asked}", "resume_window"
            )
        if asked and not streamed:
            raise RequestError("resume_window needs stream: true", "resume_window")
        return asked

    def answer(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        request_id: str,
        priority: int,
        cache_salt: str | None,
        field: str,
        guidance: Guidance = NO_GUIDANCE,
    ) -> Answer:
        """An answer that has not begun; RequestError when the request cannot be served."""
        if abs(priority) > MAX_PRIORITY:
            raise RequestError(f"priority must be within 2**31, got {priority}", "priority")
        salt = cache_salt or ""
        if len(salt) > MAX_NAME:
            raise RequestError(
                f"cache_salt has {len(salt)} characters, at most {MAX_NAME} are", "cache_salt"
            )
        answer = open_answer(
            prompt,
            params,
            self.memory,
            self.engine.info,
            self.text,
            self.seeds,
            request_id=request_id,
            priority=priority,
            cache_salt=salt,
            field=field,
            guidance=guidance,
        )
        if answer.request.is_constrained:
            self.describe_tokens()
        return answer

    @cached_property
    def spellings(self) -> Spellings:
        """What the vocabulary's tokens spell; built at the first call, which takes a moment."""
        return spellings_of(self.text, self.engine.info)

    def describe_tokens(self) -> None:
        """Tells the engine what its tokens spell, if it has not been told."""
        if not self._has_described:
            self.engine.describe(self.spellings)
            self._has_described = True

    def admit(self, answers: Sequence[Answer]) -> list[Place]:
        """Places for all answers of a request. Raises TooManyRequestsError, or RequestError for what would
        never be served."""
        return self.load.admit(ASKER.get(), [answer.request.params.n for answer in answers])

    async def pieces(
        self, answer: Answer, place: Place | None = None
    ) -> AsyncGenerator[list[Piece], None]:
        """Lets the answer grow; yields what each engine step added. Closing it cancels.

        ``place``: of ``admit``, if it has one. Raises what that raises before the first, and
        DeadlineError when the request's time is over.
        """
        asker = ASKER.get()
        with place or self.admit([answer])[0] as place:
            timeline = self._timeline(answer, asker)
            try:
                async with aclosing(self._steps(answer.request, place, asker)) as steps:
                    async for outputs in steps:
                        timeline.heard(outputs)
                        pieces = answer.push(outputs)
                        for index in answer.take_stopped():
                            if not answer.finished:  # else closing ``steps`` cancels what is left
                                self.engine.cancel(answer.request.id, index)
                        timeline.tokens(pieces)
                        if pieces:
                            yield pieces
                        if answer.finished:
                            break
            except Exception as error:
                timeline.error = type(error).__name__
                raise
            finally:
                timeline.end()
                self._answered(timeline)

    def _timeline(self, answer: Answer, asker: Asker) -> Timeline:
        arrival = time.monotonic() if asker is NOBODY else asker.arrival
        return Timeline(self.metrics, answer, arrival)

    def _answered(self, timeline: Timeline) -> None:
        self.metrics.answered(timeline)
        log_answer(timeline, prompts=self.config.log_prompts)
        if self.tracing is not None:
            self.tracing.answered(timeline, CALL.get(), self.model_name)

    def _steps(
        self, request: Request, place: Place, asker: Asker
    ) -> AsyncGenerator[list[Output], None]:
        """Within one priority, the engine serves those first who have the least open."""

        def priority(rank: int) -> int:
            return request.priority * RANKS + min(rank, RANKS - 1)

        place.moved = lambda rank: self.engine.rank(request.id, priority(rank))
        ranked = msgspec.structs.replace(request, priority=priority(place.rank))
        left = asker.seconds_left
        if left is None:
            return self.engine.generate(ranked)
        return self.engine.generate(ranked, timeout=max(left, 0.0))

    async def complete(self, answer: Answer) -> Answer:
        """The finished answer."""
        async with aclosing(self.pieces(answer)) as pieces:
            async for _ in pieces:
                pass
        return answer


async def off_loop(length: int, work: Callable[[], Result]) -> Result:
    """``work()``, in a thread when ``length`` characters make it slow."""
    return await asyncio.to_thread(work) if length > LONG_TEXT else work()


def new_id(prefix: str, given: str | None = None) -> str:
    """``given``: the client's ``request_id``. Raises RequestError."""
    if given is not None and len(given) > MAX_NAME:
        raise RequestError(
            f"request_id has {len(given)} characters, at most {MAX_NAME} are", "request_id"
        )
    if given and not _SOUND_ID.fullmatch(given):
        raise RequestError(
            "request_id must be of letters, digits and signs of ASCII, without / and spaces: it "
            "stands in headers and paths",
            "request_id",
        )
    return f"{prefix}-{given or uuid.uuid4().hex}"


def service_of(http: HttpRequest) -> Service:
    service: Service = http.app.state.service
    return service
