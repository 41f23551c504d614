"""How much is asked at once, and by whom: what is too much is refused, and shares are fair."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

from legato.errors import RequestError
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


class Place:
    """An answer's, while it is open (``with``). ``choices``: so many of them.

    ``rank``: how urgent the engine takes it, 0 first; ``moved`` is told when that changes.
    """

    def __init__(self, load: Load, asker: Asker, choices: int, rank: int) -> None:
        self.asker, self.choices, self.rank = asker, choices, rank
        self.moved: Callable[[int], None] = lambda rank: None
        self._load = load

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self._load.leave(self)


class Load:
    """Counts the open choices. ``running``: so many the engine serves at once; ``queue``: so many may
    wait; ``per_client``: open choices of an account; ``per_minute``: its requests. 0: no limit.

    An answer's rank is the logarithm of what its client has open that came earlier (or came, as long as
    there is no other client, to whom it would matter). So the oldest of each client has rank 0, and of
    those the engine takes the oldest: nobody waits for ever, however many others come.
    """

    def __init__(
        self, *, running: int = 256, queue: int = 2048, per_client: int = 0, per_minute: int = 0
    ) -> None:
        self._most, self._queue, self._per_client = running + queue, queue, per_client
        self._rates = Rates(per_minute) if per_minute else None
        self._accounts: Counter[str] = Counter()
        self._places: dict[str, dict[Place, None]] = {}  # of each name, in the order of arrival
        self.open = 0

    def admit(self, asker: Asker, choices: Sequence[int]) -> list[Place]:
        """A place for each answer of one request, which has so many choices: all of them or none.

        Raises TooManyRequestsError, and RequestError for what would never be served.
        """
        self._check(asker, choices)
        return [self._enter(asker, count) for count in choices]

    def _enter(self, asker: Asker, choices: int) -> Place:
        mine = self._places.get(asker.name)
        if mine is None:
            if len(self._places) == 1:
                self._rank(next(iter(self._places)))  # it was alone until now
            mine = self._places[asker.name] = {}
        last = next(reversed(mine)).rank if mine else 0  # which this one must not overtake
        place = Place(self, asker, choices, max(self._held(asker).bit_length(), last))
        mine[place] = None
        self._accounts[asker.account] += choices
        self.open += choices
        return place

    def leave(self, place: Place) -> None:
        """Its answer has ended; those of the client that came later move up."""
        asker = place.asker
        mine = self._places.get(asker.name, {})
        if place not in mine:
            return
        del mine[place]
        self.open -= place.choices
        self._accounts[asker.account] -= place.choices
        if not self._accounts[asker.account]:
            del self._accounts[asker.account]
        if not mine:
            del self._places[asker.name]
        elif len(self._places) > 1:
            self._rank(asker.name)

    def _rank(self, name: str) -> None:
        """All of a client's answers, anew: some move up."""
        earlier = 0
        for place in self._places[name]:
            rank = earlier.bit_length()
            if rank != place.rank:
                place.rank = rank
                place.moved(rank)
            earlier += place.choices

    def _held(self, asker: Asker) -> int:
        return sum(place.choices for place in self._places.get(asker.name, ()))

    def check_size(self, prompts: int, wanted: int) -> None:
        """Raises RequestError for a request that would never be served: for so many answers to so many
        prompts."""
        field = "n" if wanted > prompts else "prompt"
        if wanted > self._most:
            raise RequestError(
                f"{field}: the request is for {wanted} answers, this server has places for "
                f"{self._most} (--max-num-seqs and --max-queue)",
                field,
            )
        if self._per_client and wanted > self._per_client:
            raise RequestError(
                f"{field}: the request is for {wanted} answers, a client may have {self._per_client} "
                "open (--max-requests-per-client)",
                field,
            )

    def _check(self, asker: Asker, choices: Sequence[int]) -> None:
        wanted, held = sum(choices), self._held(asker)
        self.check_size(len(choices), wanted)
        # The last quarter of the queue is for those who hold little of it: nobody locks others out.
        most = self._most if held < self._queue / 4 else self._most - self._queue // 4
        if self.open and self.open + wanted > most:
            raise TooManyRequestsError(f"the queue is full ({self.open} answers are open)", 1)
        mine = self._accounts[asker.account]
        if self._per_client and mine + wanted > self._per_client:
            raise TooManyRequestsError(
                f"more than {self._per_client} answers at once ({mine} are open)", 1
            )
        if self._rates is not None:
            self._rates.take(asker.account)
