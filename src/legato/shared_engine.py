"""An engine in this process that several callers have answers of: whoever waits for one steps it for all."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from legato.answer import Answer, Piece
from legato.engine import Engine
from legato.request import Output


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-c waits for the end of the block: a step that is left half-way would spoil the cache."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread
        return
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    if asked:
        raise KeyboardInterrupt


class FairLock:
    """Goes to those who wait for it, before whoever just had it takes it again: between two steps of one
    thread the others' requests begin."""

    def __init__(self) -> None:
        self._next = threading.Lock()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._next:
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(self) -> bool:
        """Without waiting; returns whether that went well."""
        return self._lock.acquire(blocking=False)

    def release(self) -> None:
        self._lock.release()


class SharedEngine:
    """``turn``: whoever has it may use the engine, and what callers share beside it."""

    def __init__(self, engine: Engine) -> None:
        self.turn = FairLock()
        self._engine = engine
        self._arrived: dict[str, deque[Output]] = {}  # by request id: not yet taken by its caller
        self._left: deque[str] = deque()  # requests that nobody waits for any more

    @property
    def is_idle(self) -> bool:
        return not (self._engine.has_work or self._arrived or self._left)

    def grow(self, answers: list[Answer]) -> Iterator[tuple[Answer, list[Piece]]]:
        """Steps the engine until all answers are finished; whatever interrupts, cancels."""
        unfinished = {answer.request.id: answer for answer in answers}
        arrived: deque[Output] = deque()
        try:
            with self.turn:
                self._arrived.update(dict.fromkeys(unfinished, arrived))
                for answer in answers:
                    self._engine.add(answer.request)
            while unfinished:
                with self.turn:
                    grown = self._next(unfinished, arrived)
                if grown is not None:
                    yield grown
        finally:
            self._leave(unfinished)

    def _next(
        self, unfinished: dict[str, Answer], arrived: deque[Output]
    ) -> tuple[Answer, list[Piece]] | None:
        """What the next output adds to its answer, after a step if there is none; None for nothing."""
        if not arrived:
            self._step()
            return None
        output = arrived.popleft()
        if output.request_id not in unfinished:
            return None  # others stepped before its stop string was seen
        answer = unfinished[output.request_id]
        pieces = answer.push([output])
        for index in answer.take_stopped():
            self._engine.cancel(answer.request.id, index)
        if answer.finished:
            del unfinished[answer.request.id], self._arrived[answer.request.id]
        return answer, pieces

    def _step(self) -> None:
        """One step of the engine, for everybody: what came waits for whoever asked."""
        self._cancel_left()
        with uninterrupted():
            for output in self._engine.step():
                if output.request_id in self._arrived:
                    self._arrived[output.request_id].append(output)

    def _leave(self, request_ids: Iterable[str]) -> None:
        """Cancels at once, or with the next step: a stream may be closed by the garbage collector, in the
        middle of one."""
        self._left.extend(request_ids)
        if self._left and self.turn.take():
            try:
                self._cancel_left()
            finally:
                self.turn.release()

    def _cancel_left(self) -> None:
        while self._left:
            request_id = self._left.popleft()
            self._engine.cancel(request_id)
            self._arrived.pop(request_id, None)
