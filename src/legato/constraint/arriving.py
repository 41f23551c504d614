"""Requests that wait for their grammar.

Grammars are compiled in a thread, because some take as long as many steps.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import msgspec

from legato.constraint.compiling import compile_grammar
from legato.constraint.tokens import TokenTable
from legato.errors import RequestError
from legato.request import FinishReason, Output, Request

if TYPE_CHECKING:
    from legato.constraint.grammar import Grammar

KEPT = 64
"""Compiled grammars that are kept: clients tend to send the same ones."""

PATIENCE = 0.005
"""Seconds that a step without other work waits for a grammar, so that commands are heard."""


class Arriving:
    """``add`` a request, ``take`` it when it may begin."""

    def __init__(self) -> None:
        self._table: TokenTable | None = None
        self._pool = ThreadPoolExecutor(1, "grammar")
        self._compiled: OrderedDict[str, Future[Grammar]] = OrderedDict()
        self._waiting: dict[str, tuple[Request, Future[Grammar]]] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._waiting)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting

    def describe(self, table: TokenTable) -> None:
        self._table = table
        self._compiled.clear()

    def add(self, request: Request) -> None:
        self._waiting[request.id] = (request, self._compile(request.grammar))

    def _compile(self, source: str) -> Future[Grammar]:
        future = self._compiled.pop(source, None)
        if future is None:
            assert self._table is not None
            future = self._pool.submit(compile_grammar, source, self._table)
        self._compiled[source] = future
        if len(self._compiled) > KEPT:
            self._compiled.popitem(last=False)
        return future

    def rank(self, request_id: str, priority: int) -> None:
        """It has this priority, if it is here."""
        if request_id in self._waiting:
            request, future = self._waiting[request_id]
            ranked = msgspec.structs.replace(request, priority=priority)
            self._waiting[request_id] = ranked, future

    def cancel(self, request_id: str) -> list[Output]:
        """What ends the request, if it is here."""
        request, _ = self._waiting.pop(request_id, (None, None))
        return [] if request is None else ends(request, FinishReason.ABORT)

    def take(self, *, waits: bool) -> Iterator[tuple[Request, Grammar | RequestError]]:
        """Requests whose grammar is compiled, and fed with what was given; or what is wrong with it.

        ``waits``: for a moment, if there are none.
        """
        if waits:
            wait([future for _, future in self._waiting.values()], PATIENCE, FIRST_COMPLETED)
        done = [id for id, (_, future) in self._waiting.items() if future.done()]
        for request, future in [self._waiting.pop(id) for id in done]:
            try:
                grammar = future.result().copy()
                if not (request.thinking is not None and request.thinking.is_open):
                    grammar.feed(request.grammar_text)
                yield request, grammar
            except RequestError as error:
                yield request, error


def ends(request: Request, reason: FinishReason, error: str | None = None) -> list[Output]:
    """Ends every choice of a request that has not begun."""
    choices = range(request.params.n)
    return [
        Output(request_id=request.id, index=index, finish_reason=reason, error=error)
        for index in choices
    ]
