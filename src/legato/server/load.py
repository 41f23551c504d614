"""How much is asked at once, and by whom: what is too much is refused, and shares are fair."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from legato.server.asker import Asker
from legato.server.errors import TooManyRequestsError

MINUTE = 60.0
MAX_ACCOUNTS = 10_000
"""Whose rates are remembered; those who asked longest ago are forgotten."""


class Rates:
    """Requests a minute of each account, as many of them at once as one minute allows."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._accounts: dict[str, tuple[float, float]] = {}  # what is left, and when that was so

    def take(self, account: str) -> None:
        """Raises TooManyRequestsError."""
        now, most = time.monotonic(), float(self._per_minute)
        left, then = self._accounts.pop(account, (most, now))
        left = min(most, left + (now - then) * most / MINUTE)
        if left >= 1:
            self._accounts[account] = (left - 1, now)
            if len(self._accounts) > MAX_ACCOUNTS:
                del self._accounts[next(iter(self._accounts))]
            return
        self._accounts[account] = (left, now)
        wait = (1 - left) * MINUTE / most
        raise TooManyRequestsError(f"more than {self._per_minute} requests a minute", wait)


class Load:
    """Counts the open choices. ``running``: so many the engine serves at once; ``queue``: so many may
    wait; ``per_client``: open choices of an account; ``per_minute``: its requests. 0: no limit."""

    def __init__(
        self, *, running: int = 256, queue: int = 2048, per_client: int = 0, per_minute: int = 0
    ) -> None:
        self._most, self._queue, self._per_client = running + queue, queue, per_client
        self._rates = Rates(per_minute) if per_minute else None
        self._accounts: Counter[str] = Counter()
        self._names: Counter[str] = Counter()
        self.open = 0

    @contextmanager
    def admitted(self, asker: Asker, choices: int) -> Iterator[int]:
        """While a request is open. Yields its rank: how urgent the engine takes it, 0 first.

        Raises TooManyRequestsError.
        """
        rank = self._names[asker.name].bit_length()
        self._check(asker, choices)
        self._count(asker, choices)
        try:
            yield rank
        finally:
            self._count(asker, -choices)

    def _check(self, asker: Asker, choices: int) -> None:
        held = self._names[asker.name]
        # The last quarter of the queue is for those who hold little of it: nobody locks others out.
        most = self._most if held < self._queue / 4 else self._most - self._queue // 4
        if self.open and self.open + choices > most:
            raise TooManyRequestsError(f"the queue is full ({self.open} answers are open)", 1)
        mine = self._accounts[asker.account]
        if self._per_client and mine + choices > self._per_client:
            raise TooManyRequestsError(
                f"more than {self._per_client} answers at once ({mine} are open)", 1
            )
        if self._rates is not None:
            self._rates.take(asker.account)

    def _count(self, asker: Asker, choices: int) -> None:
        self.open += choices
        for counter, key in ((self._accounts, asker.account), (self._names, asker.name)):
            counter[key] += choices
            if counter[key] <= 0:
                del counter[key]
