"""EngineClient: the one boundary between HTTP and the engine's process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from enum import StrEnum

from legato import errors
from legato.config import EngineConfig
from legato.constraint.spellings import Spellings
from legato.errors import EngineDeadError, EngineError, LegatoError
from legato.messages import (
    Add,
    Cancel,
    Check,
    Checked,
    Describe,
    Event,
    Failed,
    Loading,
    Ready,
    Refused,
    Start,
    Stats,
    Stepped,
)
from legato.models.info import ModelInfo
from legato.request import Output, Request
from legato.server.child import Child

LOG = logging.getLogger(__name__)
ATTEMPT_DELAYS = (0.0, 0.5, 2.0)  # seconds before each attempt to start an engine


class EngineState(StrEnum):
    """What /health tells."""

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    DEAD = "dead"


class Stream:
    """The outputs of an open request, until all its choices are finished."""

    def __init__(self, choices: int) -> None:
        self.unfinished = set(range(choices))
        self._arrived: asyncio.Queue[list[Output] | LegatoError] = asyncio.Queue()

    def put(self, arrived: list[Output] | LegatoError) -> None:
        self._arrived.put_nowait(arrived)

    async def get(self) -> list[Output]:
        """The outputs of the next step; raises what ended the request."""
        arrived = await self._arrived.get()
        if isinstance(arrived, LegatoError):
            self.unfinished.clear()
            raise arrived
        for output in arrived:
            if output.finish_reason is not None:
                self.unfinished.discard(output.index)
        return arrived


def error_of(event: Failed | Refused) -> LegatoError:
    """The exception that the engine's process raised."""
    kind: type[LegatoError] = getattr(errors, event.kind)
    if issubclass(kind, (errors.ConfigError, errors.RequestError)):
        return kind(event.message, event.field)
    return kind(event.message)


class EngineClient:
    """Runs an engine in a process of its own, and another one when it dies.

    ``loader``: what the process loads the model with (module:function). Use from one event loop.
    """

    def __init__(self, config: EngineConfig, *, loader: str = "legato.models:load") -> None:
        self.state = EngineState.LOADING
        self.loading = ""  # what is being done while loading
        self.stats = Stats()
        self._config = config
        self._loader = loader
        self._info: ModelInfo | None = None
        self._child: Child | None = None
        self._loaded: asyncio.Future[Ready] | None = None
        self._spellings: Spellings | None = None
        self._streams: dict[str, Stream] = {}
        self._checks: list[asyncio.Future[Checked]] = []
        self._restart: asyncio.Task[None] | None = None
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

    async def stop(self) -> None:
        """Ends the process; open requests end with EngineDeadError."""
        self._stopped = True
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.wait((self._restart,))
        if self._child is not None:
            await self._child.stop()
        self.state = EngineState.DEAD

    def describe(self, spellings: Spellings) -> None:
        """Tells this engine, and each that follows it, what its tokens spell. Never waits."""
        self._spellings = spellings
        if self.ready and self._child is not None:
            self._child.send(Describe(spellings))

    async def generate(self, request: Request) -> AsyncGenerator[list[Output], None]:
        """The request's outputs, a list for each step that brought some, until all choices are
        finished. Closing the iterator cancels the request.

        Raises RequestError if the engine refuses it, EngineDeadError if its process ends.
        """
        if not self.ready or self._child is None:
            raise EngineDeadError(f"the engine is {self.state}")
        if request.id in self._streams:
            raise errors.RequestError(f"request id {request.id!r} is in use", "request_id")
        stream = self._streams[request.id] = Stream(request.params.n)
        try:
            self._child.send(Add(request))
            while stream.unfinished:
                yield await stream.get()
        finally:
            del self._streams[request.id]
            if stream.unfinished:
                self.cancel(request.id)

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """Stops a request, or one of its choices, which then ends with ABORT. Never waits."""
        if self.ready and self._child is not None:
            self._child.send(Cancel(request_id, index))

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
                self._child = Child(self._loader, self._on_event, self._on_death)
                ready = await self._loaded
                if self._child.has_ended.is_set():
                    raise EngineDeadError(self._child.obituary)
            except EngineDeadError as error:
                last = error
            except OSError as error:
                last = EngineDeadError(f"the engine process cannot be started: {error}")
            except BaseException:
                if self._child is not None:
                    self._child.kill()
                raise
            else:
                self._info, self.stats = ready.info, ready.stats
                if self._spellings is not None:
                    self._child.send(Describe(self._spellings))
                self.state = EngineState.READY
                return
        raise EngineDeadError(f"{last}, {len(ATTEMPT_DELAYS)} times while loading") from last

    async def _relaunch(self) -> None:
        self.state = EngineState.RESTARTING
        try:
            await self._launch()
            LOG.warning("another engine is ready")
        except LegatoError as error:
            self.state = EngineState.DEAD
            LOG.error("no engine could be started: %s", error)  # it says all

    def _on_death(self, child: Child) -> None:
        error = EngineDeadError(child.obituary)
        if self._loaded is not None and not self._loaded.done():
            self._loaded.set_exception(error)
            return
        if self.ready and not self._stopped:
            LOG.error("%s; %d requests were open", error, len(self._streams))
        for stream in self._streams.values():
            stream.put(error)
        for check in self._checks:
            if not check.done():
                check.set_exception(error)
        self._checks.clear()
        if self.ready and not self._stopped:
            self._restart = asyncio.get_running_loop().create_task(self._relaunch())
            self.state = EngineState.RESTARTING

    # -- its events ------------------------------------------------------------------------------
    def _on_event(self, event: Event) -> None:
        match event:
            case Stepped(outputs, stats):
                self.stats = stats
                self._deliver(outputs)
            case Refused(request_id):
                if request_id in self._streams:
                    self._streams[request_id].put(error_of(event))
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
                    self._child.send(Start(self._config))
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
            if request_id in self._streams:
                self._streams[request_id].put(group)
