"""Known: the text that a sequence begins with, and where the last few tokens came before.

The choices of a request begin with the same tokens, which may be many. They share what is known of
them; what each adds is its own (``Lookup``).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

if TYPE_CHECKING:  # the server's process, which counts predictions, does without numpy
    import numpy as np
    from numpy.typing import NDArray

NONE = -1
"""Between texts: no token."""


class Known:
    """``prediction``, which comes first, and ``given``; neither changes any more.

    A place is the number of tokens before it. ``least`` tokens must agree to be the same.
    """

    def __init__(
        self, least: int, prediction: Sequence[int] = (), given: Sequence[int] = ()
    ) -> None:
        tokens = [*prediction, NONE, *given] if prediction else [*given]
        self.least = least
        self.tokens = tokens
        self.num_before = len(tokens) - len(given)  # tokens that are no part of the sequence
        self.latest: dict[tuple[int, ...], int] = {}  # last tokens -> the place behind them
        # By the token before a place: where the same last tokens ended before; 0: nowhere.
        self.earlier = [0] * min(least - 1, len(tokens))
        runs = zip(*(tokens[i:] for i in range(least)), strict=False)
        for place, last in enumerate(runs, least):
            self.earlier.append(self.latest.get(last, 0))
            self.latest[last] = place


_shared: WeakValueDictionary[tuple[str, int, bytes, bytes], Known] = WeakValueDictionary()
"""By all that they are made of, so that whoever finds one could have made it."""


def shared(salt: str, least: int, prediction: Sequence[int], given: NDArray[np.int32]) -> Known:
    """The one that another sequence has, or else a new one.

    ``salt``: whose cache it is (``Hold.salt``). Only those who share blocks share this, since what is
    found takes less time, which tells that another has asked the same.
    """
    name = (salt, least, array("i", prediction).tobytes(), given.tobytes())
    known = _shared.get(name)
    if known is None:
        known = _shared[name] = Known(least, prediction, given.tolist())
    return known
