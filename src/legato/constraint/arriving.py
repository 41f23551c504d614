"""Requests that wait for their grammar.

Grammars are compiled, and fed with what was given, in a thread, because some take as long as many
steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import msgspec

from legato.constraint.compiling import compile_grammar
from legato.constraint.tokens import TokenTable
from legato.errors import EngineError, LegatoError
from legato.request import FinishReason, Output, Progress, Request

if TYPE_CHECKING:
    from legato.constraint.grammar import Grammar

PATIENCE = 0.005
"""Seconds that a step without other work waits for a grammar, so that commands are heard."""


class Arriving:
    """``add`` a request, ``take`` it when it may begin."""

    def __init__(self) -> None:
        self._table: TokenTable | None = None
        self._pool = ThreadPoolExecutor(1, "grammar")
        self._waiting: dict[str, tuple[Request, Future[list[Grammar]]]] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._waiting)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting

    def describe(self, table: TokenTable) -> None:
        self._table = table

    def add(self, request: Request) -> None:
        assert self._table is not None
        self._waiting[request.id] = request, self._pool.submit(_grammars, request, self._table)

    def rank(self, request_id: str, priority: int) -> None:
        """It has this priority, if it is here."""
        if request_id in self._waiting:
            request, future = self._waiting[request_id]
            ranked = msgspec.structs.replace(request, priority=priority)
            self._waiting[request_id] = ranked, future

    def cancel(self, request_id: str, index: int | None = None) -> list[Output]:
        """What ends the request, or one of its choices, if it is here."""
        if request_id not in self._waiting:
            return []
        request, future = self._waiting[request_id]
        left = [one for one in open_choices(request) if index not in (None, one.index)]
        if left:
            rest = msgspec.structs.replace(request, progress=left)
            self._waiting[request_id] = rest, future
        else:
            future.cancel()
            del self._waiting[request_id]
        return ends(request, FinishReason.ABORT, index=index)

    def take(self, *, waits: bool) -> Iterator[tuple[Request, list[Grammar] | LegatoError]]:
        """Requests that may begin, with a grammar for each choice, fed with what was given; or what is
        wrong with it.

        ``waits``: for a moment, if there are none.
        """
        if waits:
            wait([future for _, future in self._waiting.values()], PATIENCE, FIRST_COMPLETED)
        done = [id for id, (_, future) in self._waiting.items() if future.done()]
        for request, future in [self._waiting.pop(id) for id in done]:
            yield request, _result(future)


def _grammars(request: Request, table: TokenTable) -> list[Grammar]:
    """One for each choice that is open now. Raises RequestError if the grammar cannot be used."""
    grammar = compile_grammar(request.grammar, table)
    if not (request.thinking is not None and request.thinking.is_open):
        grammar.feed(request.grammar_text)
    return [grammar, *(grammar.copy() for _ in open_choices(request)[1:])]


def _result(future: Future[list[Grammar]]) -> list[Grammar] | LegatoError:
    try:
        return future.result()
    except MemoryError:  # nobody's fault
        raise
    except LegatoError as error:
        return error
    except Exception as error:  # whatever it is, it is this request's
        return EngineError(f"the grammar could not be made ready: {error!r}")


def open_choices(request: Request) -> list[Progress]:
    """How far each choice has come that is not finished."""
    return request.progress or [Progress(index=i) for i in range(request.params.n)]


def ends(
    request: Request, reason: FinishReason, error: str | None = None, index: int | None = None
) -> list[Output]:
    """Ends every choice of a request that has not begun, or the one of that ``index``."""
    return [
        Output(request_id=request.id, index=one.index, finish_reason=reason, error=error)
        for one in open_choices(request)
        if index in (None, one.index)
    ]
