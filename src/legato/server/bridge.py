"""EngineClient: the one boundary between HTTP and the engine's process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from enum import StrEnum

import msgspec

from legato import errors
from legato.config import EngineConfig
from legato.constraint.spellings import Spellings
from legato.errors import (
    DeadlineError,
    EngineDeadError,
    EngineError,
    LegatoError,
    RepeatedDeathError,
)
from legato.messages import (
    Add,
    Cancel,
    Check,
    Checked,
    Describe,
    Event,
    Failed,
    Loading,
    ProcessSettings,
    Rank,
    Ready,
    Refused,
    Start,
    Stats,
    Stepped,
)
from legato.models.info import ModelInfo
from legato.request import Output, Request
from legato.server.child import Child
from legato.server.next_engine import like_the_first, need_same_weights
from legato.server.open_request import OpenRequest
from legato.server.spawning import LOADER, Spawned, spawn
from legato.server.suspects import Suspects
from legato.server.watchdog import Watchdog, default_timeout

LOG = logging.getLogger(__name__)
ATTEMPT_DELAYS = (0.0, 0.5, 2.0)  # seconds before each attempt to start an engine
NO_SETTINGS = ProcessSettings()
SECONDS_DEAD = 10.0
"""Between two series of attempts, when all failed."""


class EngineState(StrEnum):
    """What /health tells."""

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    DEAD = "dead"


def error_of(event: Failed | Refused) -> LegatoError:
    """The exception that the engine's process raised."""
    kind: type[LegatoError] = getattr(errors, event.kind)
    if issubclass(kind, (errors.ConfigError, errors.RequestError)):
        return kind(event.message, event.field)
    return kind(event.message)


class EngineClient:
    """Runs an engine in a process of its own, and another one when it dies, which goes on with the
    requests that were open.

    ``first``: a process that was started already. ``loader``: what the others load the model with
    (module:function). ``step_timeout``: seconds without a step after which an engine with work counts
    as dead; None: as its weights suggest. ``settings``: what a process is told besides ``config``.
    Use from one event loop.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        first: Spawned | None = None,
        loader: str = LOADER,
        step_timeout: float | None = None,
        settings: ProcessSettings = NO_SETTINGS,
    ) -> None:
        self.state = EngineState.LOADING
        self.loading = ""  # what is being done while loading
        self.stats = Stats()
        self.restarts = 0  # engines that took over from one that died
        self.resumed = 0  # requests that were sent to another engine, each time
        self.on_stats: Callable[[Stats], None] = lambda stats: None  # with what an engine tells
        self._config = config
        self._first = first
        self._loader = loader
        self._step_timeout = step_timeout
        self._settings = settings
        self._info: ModelInfo | None = None
        self._child: Child | None = None
        self._loaded: asyncio.Future[Ready] | None = None
        self._spellings: Spellings | None = None
        self._open: dict[str, OpenRequest] = {}
        self._suspects = Suspects()
        self._watchdog = Watchdog(self._is_working, self._listen, self._put_down)
        self._checks: list[asyncio.Future[Checked]] = []
        self._restart: asyncio.Task[None] | None = None
        self._closed: LegatoError | None = None
        self._stopped = False

    @property
    def ready(self) -> bool:
        return self.state is EngineState.READY

    @property
    def info(self) -> ModelInfo:
        """Known once the engine has been ready."""
        if self._info is None:
            raise EngineError("the engine has not loaded its model")
        return self._info

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    async def start(self) -> None:
        """Waits until the model is loaded. Raises what loading raised (ModelError, ConfigError),
        EngineDeadError if the process keeps dying."""
        try:
            await self._launch()
        except LegatoError:
            self.state = EngineState.DEAD
            raise

    def close(self, error: LegatoError) -> None:
        """What is open, and what still comes, ends with ``error``."""
        self._closed = error
        self._end_all(error)

    async def stop(self) -> None:
        """Ends the process; open requests end with EngineDeadError."""
        self._stopped = True
        self._watchdog.stop()
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.wait((self._restart,))
        if self._child is not None:
            await self._child.stop(self._settings.stop_seconds)
        self.state = EngineState.DEAD
        self._end_all(EngineDeadError("the server was stopped"))

    def describe(self, spellings: Spellings) -> None:
        """Tells this engine, and each that follows it, what its tokens spell. Never waits."""
        self._spellings = spellings
        if self.ready and self._child is not None:
            self._child.send(Describe(spellings))

    async def generate(
        self, request: Request, *, timeout: float | None = None
    ) -> AsyncGenerator[list[Output], None]:
        """The request's outputs, a list for each step that brought some (of several, for who reads
        slowly), until all choices are finished. Closing the iterator cancels the request.

        When the engine dies, another one goes on behind the last output. Raises RequestError if the
        engine refuses the request, EngineDeadError if no engine can be started, RepeatedDeathError
        if engines died of this request, and DeadlineError after ``timeout`` seconds, when the engine
        has been told to stop.
        """
        if self._closed is not None:
            raise self._closed
        if self.state not in (EngineState.READY, EngineState.RESTARTING):
            raise EngineDeadError(f"the engine is {self.state}")
        if request.id in self._open:
            raise errors.RequestError(f"request id {request.id!r} is in use", "request_id")
        opened = self._open[request.id] = OpenRequest(request)
        self._suspects.add(opened)
        timer = None
        if timeout is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(timeout, self._expire, opened)
        try:
            self._dispatch()
            while outputs := await opened.get():
                yield outputs
        finally:
            if timer is not None:
                timer.cancel()
            if opened.is_open:
                self.cancel(request.id)
            del self._open[request.id]
            self._suspects.remove(opened)
            self._dispatch()

    def _expire(self, opened: OpenRequest) -> None:
        if opened.is_open:
            # before it is cancelled: what ends its choices for want of an engine is no answer
            opened.fail(DeadlineError("the time is over that the request's timeout allows"))
            self.cancel(opened.request.id)

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """Stops a request, or one of its choices, which then ends with ABORT. Never waits."""
        opened = self._open.get(request_id)
        if opened is not None and opened.cancel(index) and self.ready and self._child is not None:
            self._child.send(Cancel(request_id, index))

    def rank(self, request_id: str, priority: int) -> None:
        """Gives an open request another priority. Never waits."""
        opened = self._open.get(request_id)
        if opened is None:
            return
        opened.request = msgspec.structs.replace(opened.request, priority=priority)
        if opened.is_sent and self.ready and self._child is not None:
            self._child.send(Rank(request_id, priority))

    async def check_integrity(self, *, clear_cache: bool = False) -> Stats:
        """Has the engine check its blocks; raises EngineError if they do not balance."""
        if not self.ready or self._child is None:
            raise EngineDeadError(f"the engine is {self.state}")
        answer: asyncio.Future[Checked] = asyncio.get_running_loop().create_future()
        self._checks.append(answer)
        self._child.send(Check(clear_cache))
        checked = await answer
        if checked.problem is not None:
            raise EngineError(checked.problem)
        return checked.stats

    # -- the process's life ----------------------------------------------------------------------
    async def _launch(self) -> None:
        """Starts a process and waits for it; tries again when it dies meanwhile."""
        last: EngineDeadError | None = None
        for delay in ATTEMPT_DELAYS:
            await asyncio.sleep(delay)
            self._loaded = asyncio.get_running_loop().create_future()
            self.loading = ""
            try:
                spawned, self._first = self._first or spawn(self._loader), None
                self._child = Child(spawned, self._on_event, self._on_death)
                ready = await self._loaded
                if self._child.has_ended.is_set():
                    raise EngineDeadError(self._child.obituary)
                if self._info is not None:
                    need_same_weights(self._info, ready.info)
            except EngineDeadError as error:
                last = error
            except OSError as error:
                last = EngineDeadError(f"the engine process cannot be started: {error}")
            except BaseException:
                if self._child is not None:
                    self._child.kill()
                raise
            else:
                self._begin(self._child, ready)
                return
        raise EngineDeadError(f"{last}, {len(ATTEMPT_DELAYS)} times while loading") from last

    def _begin(self, child: Child, ready: Ready) -> None:
        """The engine is there."""
        self._info, self.stats = ready.info, ready.stats
        self._config = like_the_first(self._config, ready.info)
        if self._spellings is not None:
            child.send(Describe(self._spellings))
        self.state = EngineState.READY
        self._watchdog.start(self._step_timeout or default_timeout(ready.info.weight_bytes))
        self._dispatch()

    async def _relaunch(self) -> None:
        """Until there is an engine. Requests wait for the first attempts only."""
        while True:
            try:
                await self._launch()
            except LegatoError as error:
                self.state = EngineState.DEAD
                LOG.error("no engine could be started: %s", error)  # it says all
                self._end_all(EngineDeadError(f"no other engine could be started: {error}"))
                await asyncio.sleep(SECONDS_DEAD)
            else:
                self.restarts += 1
                LOG.warning("another engine is ready; %d requests go on", len(self._open))
                return

    def _on_death(self, child: Child) -> None:
        error = EngineDeadError(child.obituary)
        if self._loaded is not None and not self._loaded.done():
            self._loaded.set_exception(error)
            return
        self._watchdog.stop()
        for check in self._checks:
            if not check.done():
                check.set_exception(error)
        self._checks.clear()
        if self._stopped:
            self._end_all(error)
        elif self.ready:
            LOG.error("%s; %d requests are open", error, len(self._open))
            self.state = EngineState.RESTARTING
            everybody = [*self._open.values()]
            for condemned in self._suspects.lost(everybody, killed=child.was_killed):
                condemned.fail(
                    RepeatedDeathError(
                        f"{condemned.strikes} engines in a row died while this request was open, the "
                        f"last one of it alone ({error}): it is not tried again"
                    )
                )
            self._restart = asyncio.get_running_loop().create_task(self._relaunch())

    def _end_all(self, error: LegatoError) -> None:
        for opened in self._open.values():
            if opened.is_open:
                opened.fail(error)

    # -- what it is told, and tells --------------------------------------------------------------
    def _dispatch(self) -> None:
        """Sends what may be sent."""
        if not self.ready or self._child is None or not self._suspects.waiting:
            return
        if not self._is_working():
            self._watchdog.hear()  # before this it owed nothing
        for opened in self._suspects.take():
            self.resumed += opened.strikes > 0
            self._child.send(Add(opened.sent()))

    def _is_working(self) -> bool:
        return any(opened.is_sent and opened.is_open for opened in self._open.values())

    def _listen(self) -> None:
        if self._child is not None:
            self._child.listen()

    def _put_down(self, silence: float) -> None:
        if self._child is not None:
            self._child.kill(f"hung: no step ended within {silence:.0f} s (--step-timeout)")

    def _on_event(self, event: Event) -> None:
        self._watchdog.hear()
        match event:
            case Stepped(outputs, stats):
                self.stats = stats
                self.on_stats(stats)
                self._deliver(outputs)
            case Refused(request_id):
                if request_id in self._open:
                    self._open[request_id].fail(error_of(event))
            case Checked():
                with suppress(asyncio.InvalidStateError):
                    self._checks.pop(0).set_result(event)
            case _:
                self._on_loading(event)

    def _on_loading(self, event: Event) -> None:
        if self._loaded is None or self._loaded.done() or self._child is None:
            return
        match event:
            case Loading(what):
                if not self.loading:
                    self._child.send(Start(self._config, self._settings))
                self.loading = what
            case Ready():
                self.loading = ""
                self._loaded.set_result(event)
            case Failed():
                self._loaded.set_exception(error_of(event))

    def _deliver(self, outputs: list[Output]) -> None:
        """Each request gets its own outputs of the step."""
        groups: dict[str, list[Output]] = {}
        for output in outputs:
            groups.setdefault(output.request_id, []).append(output)
        for request_id, group in groups.items():
            if request_id in self._open:
                self._open[request_id].put(group)
        self._dispatch()  # somebody may have waited for these
