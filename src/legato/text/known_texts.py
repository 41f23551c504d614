"""Token ids of texts that were encoded lately: a chat comes whole with each of its turns, so that most of it is known."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b


class KnownTexts:
    """The least recently used make room. Of texts and salts only hashes are kept. Safe to use from several
    threads.

    Encoding what is known takes no time, which tells that somebody sent it: whoever must not learn that
    asks with another salt.
    """

    def __init__(self, max_tokens: int = 1 << 20, max_texts: int = 4096) -> None:
        self._max_tokens = max_tokens
        self._max_texts = max_texts
        self._tokens = 0
        self._used: OrderedDict[bytes, array[int]] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._used)

    @property
    def tokens(self) -> int:
        """Token ids that are kept."""
        return self._tokens

    def ids(self, salt: str, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        """``encode(text)``, which gives the same whenever it is asked."""
        key = _hash(salt, text)
        with self._lock:
            known = self._used.get(key)
            if known is not None:
                self._used.move_to_end(key)
        if known is not None:
            return known.tolist()
        ids = encode(text)
        with self._lock:
            if key not in self._used:  # else another thread was as fast
                self._keep(key, array("i", ids))
        return ids

    def _keep(self, key: bytes, ids: array[int]) -> None:
        self._used[key] = ids
        self._tokens += len(ids)
        while self._tokens > self._max_tokens or len(self._used) > self._max_texts:
            self._tokens -= len(self._used.popitem(last=False)[1])


def _hash(salt: str, text: str) -> bytes:
    digest = blake2b(digest_size=16, key=blake2b(salt.encode(), digest_size=32).digest())
    digest.update(text.encode())
    return digest.digest()
