"""The prefix cache outlives the engine: ``--cache-dir``.

A file of blocks is read behind readiness: a thread computes what the file must have been made by and
checks every byte, then the engine's loop takes over block after block between its steps. The file is
written when the engine is told to stop, and while it has nothing to do, so that one that is killed
loses little.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from legato import kept_file
from legato.cache.kept_blocks import AbandonedError, Blocks, Checksum, KeptBlocks, restore, save
from legato.cache.kv import KVCache
from legato.config import expanded

if TYPE_CHECKING:
    from legato.models.loading import LoadedModel

log = logging.getLogger(__name__)
SUFFIX: Final = ".legato-kv"
SLICE: Final = 0.002  # seconds between two steps that restoring may take
LEAST_PAUSE: Final = 10.0  # seconds between two files that are written without being asked for


class Persistence:
    """Of one engine's cache. ``key`` computes what the blocks were computed by; it may take a while."""

    def __init__(
        self,
        cache: KVCache,
        memory: Blocks,
        checksum: Checksum,
        path: Path,
        key: Callable[[], dict[str, Any]],
        most_bytes: int,
    ) -> None:
        self._cache, self._memory, self._checksum = cache, memory, checksum
        self._path, self._make_key, self._most_bytes = path, key, most_bytes
        self._key: dict[str, Any] = {}
        self._kept: KeptBlocks | None = None
        self._restoring: Iterator[bool] | None = None
        self.restored = 0
        self._saved_claims = 0  # of the cache when the file was written
        self._next_save = 0.0
        self._thread = threading.Thread(target=self._read, name="kept blocks", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    @property
    def is_restoring(self) -> bool:
        return self._thread.is_alive() or self._kept is not None

    def _read(self) -> None:
        """In a thread: what makes the file sound, without touching the cache."""
        try:
            self._key = self._make_key()
            kept = KeptBlocks(kept_file.read(self._path, self._key), self._memory.kv_block_bytes())
            kept.verify(self._checksum)
            self._kept = kept
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            log.warning("%s is ignored: %s", self._path, error)

    def advance(self) -> None:
        """Restores as much as a step may wait for. Between steps only."""
        if self._kept is None:
            return
        if self._restoring is None:
            self._restoring = restore(self._cache, self._kept, self._memory, self._checksum)
        deadline = time.perf_counter() + SLICE
        try:
            for did in self._restoring:
                self.restored += did
                if time.perf_counter() > deadline:
                    return
        except (OSError, ValueError) as error:  # changed since it was checked
            log.warning("%s is no longer read: %s", self._path, error)
        log.info("%d blocks of the prefix cache are back from %s", self.restored, self._path)
        self._kept.close()
        self._kept = self._restoring = None

    def idle(self, is_urgent: Callable[[], bool]) -> float | None:
        """The engine has nothing to do: writes the file if it is time, until something ``is_urgent``.
        Returns the seconds until it should be called again; None: when something has changed."""
        if self._cache.num_claims == self._saved_claims or self.is_restoring:
            return None
        wait = self._next_save - time.monotonic()
        if wait > 0:
            return wait
        return None if self.write(is_urgent) else LEAST_PAUSE

    def write(self, is_urgent: Callable[[], bool] = lambda: False) -> bool:
        """Whether the file is as new as the cache."""
        if self.is_restoring or not self._key:
            return False
        if self._cache.num_claims == self._saved_claims:
            return True
        started, claims = time.monotonic(), self._cache.num_claims
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            count = save(
                self._path, self._key, self._cache, self._memory, self._checksum,
                most_bytes=self._most_bytes, is_urgent=is_urgent,
            )  # fmt: skip
            self._make_room()
        except AbandonedError:
            return False
        except OSError as error:
            log.warning("the prefix cache is not kept: %s", error)
            self._next_save = time.monotonic() + 6 * LEAST_PAUSE
            return False
        self._saved_claims = claims
        seconds = time.monotonic() - started
        self._next_save = time.monotonic() + max(LEAST_PAUSE, 20 * seconds)
        log.info("%d blocks of the prefix cache are kept in %s", count, self._path)
        return True

    def _make_room(self) -> None:
        """What other models have kept there goes, the oldest first, until all is within the bound."""
        left = self._most_bytes - self._path.stat().st_size
        others = []
        for path in self._path.parent.glob(f"*{SUFFIX}"):
            with suppress(OSError):
                if path != self._path:
                    others.append((path.stat().st_mtime, path.stat().st_size, path))
        for _, size, path in sorted(others, reverse=True):
            left -= size
            if left < 0:
                path.unlink(missing_ok=True)


def persistence_of(
    loaded: LoadedModel, cache: KVCache, folder: str, most_bytes: int
) -> Persistence:
    """Of a model that the real loader has loaded."""
    from legato import _native as native

    place = blake2b(repr(loaded.origin.place).encode(), digest_size=8).hexdigest()
    path = expanded(folder) / f"{loaded.info.name.replace('/', '--')}-{place}{SUFFIX}"
    return Persistence(
        cache, loaded.program, native.checksum, path, lambda: key_of(loaded), most_bytes
    )


def key_of(loaded: LoadedModel) -> dict[str, Any]:
    """What decides the bytes of a block: the weights as they are packed, whatever else the model's
    configuration says, the format of keys and values, and the build of the kernels."""
    from legato import _native as native

    program, digest = loaded.program, blake2b(digest_size=16)
    for index in range(program.num_matrices()):
        digest.update(native.checksum(program.packed(index)).to_bytes(8, "little"))
    build = blake2b(Path(native.__file__).read_bytes(), digest_size=16).hexdigest()
    return {
        "what": "prefix cache",
        "model": loaded.info.name,
        "weights": digest.hexdigest(),
        "sources": [kept_file.identity(path) for path in loaded.origin.sources],
        "declared": blake2b(repr(loaded.origin.spec).encode(), digest_size=16).hexdigest(),
        "format": loaded.origin.place[1:],
        "block_bytes": program.kv_block_bytes(),
        "build": build,
        "isa": program.isa,
    }
