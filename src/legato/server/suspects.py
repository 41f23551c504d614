"""Which requests an engine gets after another one has died: whoever kills it must not take others along.

A request has a *strike* for each engine in a row that died before the request came any further. After
one death nobody is suspected: all go to the next engine at once. A request that got no further twice
is a suspect. Suspects wait until the others have shown a token, then go one at a time: each must show
one before the next goes, and meanwhile nobody new joins. An engine that dies in such a trial gives
only that suspect its third strike, and with it the request ends. Whoever just stood nearby has shown
a token by then, and starts again from one strike at most.

An engine that was killed from outside (an operator, or the kernel, which ran out of memory) says less
about its requests than one that crashed or hung: it takes three trials to end one.
"""

from __future__ import annotations

from legato.server.open_request import OpenRequest

SUSPECT = 2
CONDEMNED = 3
CONDEMNED_BY_KILLS = 5


class Suspects:
    """The requests that no engine has, and which of them may go to one now."""

    def __init__(self) -> None:
        self._waiting: dict[str, OpenRequest] = {}
        self._unproved: dict[str, OpenRequest] = {}  # with an engine, and had strikes before

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def add(self, opened: OpenRequest) -> None:
        self._waiting[opened.request.id] = opened

    def remove(self, opened: OpenRequest) -> None:
        """It has ended."""
        self._waiting.pop(opened.request.id, None)
        self._unproved.pop(opened.request.id, None)

    def lost(self, everybody: list[OpenRequest], *, killed: bool) -> list[OpenRequest]:
        """The engine has died with those it had, ``killed`` from outside or by itself. Returns those
        which must not be tried again."""
        for opened in everybody:
            if opened.is_sent and opened.is_open:
                opened.lost()
        most = CONDEMNED_BY_KILLS if killed else CONDEMNED
        condemned = [opened for opened in everybody if opened.strikes >= most]
        left = [opened for opened in everybody if opened.is_open and opened not in condemned]
        self._waiting = {opened.request.id: opened for opened in left}
        self._unproved.clear()
        return condemned

    def take(self) -> list[OpenRequest]:
        """Those to be sent now."""
        for opened in [one for one in self._waiting.values() if not one.is_open]:
            self.remove(opened)  # it has ended, though who asked has not seen it yet
        for opened in [one for one in self._unproved.values() if one.has_moved]:
            self.remove(opened)
        chosen = self._choose([*self._waiting.values()])
        for opened in chosen:
            del self._waiting[opened.request.id]
            if opened.strikes:
                self._unproved[opened.request.id] = opened
        return chosen

    def _choose(self, waiting: list[OpenRequest]) -> list[OpenRequest]:
        if any(opened.strikes >= SUSPECT for opened in self._unproved.values()):
            return []
        suspects = [opened for opened in waiting if opened.strikes >= SUSPECT]
        if not suspects:
            return waiting
        crowd = [opened for opened in waiting if opened.strikes == 1]
        return crowd or ([] if self._unproved else suspects[:1])
