"""Files that keep what was computed, so that the next start reads it instead.

    magic | length and checksum of the header | header (JSON) | zeros up to a multiple of 4096 | payload

A leaf that both ``weights`` (packed matrices) and ``cache`` (blocks) use. The header's ``key`` says what
the payload was made from; a file with another key, or a damaged one, counts as absent and is written
anew. Files are replaced whole, so that several processes may start at once.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from legato.config import expanded, home

log = logging.getLogger(__name__)
MAGIC: Final = b"legato kept 1\n\0\0"
_LENGTHS: Final = struct.Struct("<Q32s")
ALIGNMENT: Final = 4096
MAX_HEADER: Final = 16 * 2**20
HEAD: Final = 64 * 1024  # bytes of a source that its identity reads,
SAMPLES, SAMPLE = 64, 1024  # and so many times so many of the others
ABANDONED: Final = 3600  # seconds after which an unfinished file belongs to nobody


@dataclass(frozen=True)
class Kept:
    """A file whose header is sound. ``offset``: bytes before the payload."""

    path: Path
    header: dict[str, Any]
    offset: int


class Keeper:
    """Where the files of one model are. ``setting``: ``auto`` (beside the model, or in the cache
    directory if that cannot be written), ``off``, or a folder."""

    def __init__(self, setting: str, source: Path, suffix: str) -> None:
        place = source.absolute()
        beside = (place if place.is_dir() else place.parent) / f"{place.name}{suffix}"
        digest = blake2b(str(place).encode(), digest_size=6).hexdigest()
        apart = f"{place.name}-{digest}{suffix}"
        if setting == "off":
            self.paths: list[Path] = []
        elif setting == "auto":
            self.paths = [beside, home() / "kept" / apart]
        else:
            self.paths = [expanded(setting) / apart]

    def read(self, key: dict[str, Any]) -> Kept | None:
        """The first sound file made from ``key``; says of the others what is wrong with them."""
        for path in self.paths:
            _remove_abandoned(path)  # a start that finds its file has nothing to write
            try:
                return read(path, key)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                log.warning("%s is not used, but made anew: %s", path, error)
        return None

    def write(
        self,
        key: dict[str, Any],
        header: dict[str, Any],
        payload: Callable[[], Iterable[bytes]],
    ) -> None:
        """Into the first folder that can be written; where none can, nothing is kept. ``payload``: asked
        anew for each, since a disk may be full in the middle of it."""
        problem: OSError | None = None
        for path in self.paths:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path, {**header, "key": key}, payload())
                return
            except OSError as error:
                problem = error
        if problem is not None:
            log.warning("what loading computed is not kept: %s", problem)


def identity(source: Path) -> list[Any]:
    """What tells a file from its other versions: size, time of change, a hash of its beginning and of
    samples from all over it. Versions of one model have the same size, often the same beginning, and in a
    container's layers even the same time."""
    with open(source, "rb") as file:
        status = os.fstat(file.fileno())
        digest = blake2b(file.read(HEAD), digest_size=16)
        for number in range(1, SAMPLES):
            file.seek(status.st_size * number // SAMPLES)
            digest.update(file.read(SAMPLE))
        head = digest.hexdigest()
    return [source.name, status.st_size, status.st_mtime_ns, head]


def read(path: Path, key: dict[str, Any]) -> Kept:
    """Raises FileNotFoundError, OSError, or ValueError saying what is wrong with the file."""
    with open(path, "rb") as file:
        start = file.read(len(MAGIC) + _LENGTHS.size)
        if not start.startswith(MAGIC) or len(start) < len(MAGIC) + _LENGTHS.size:
            raise ValueError("it is no file of this version of legato")
        length, digest = _LENGTHS.unpack_from(start, len(MAGIC))
        text = file.read(min(length, MAX_HEADER))
        size = os.fstat(file.fileno()).st_size
    if len(text) != length or blake2b(text, digest_size=32).digest() != digest:
        raise ValueError("its header is damaged")
    header: dict[str, Any] = json.loads(text)
    if header["key"] != json.loads(json.dumps(key)):
        raise ValueError("it was made from another version of the model, or by another of legato")
    offset = _aligned(len(start) + length)
    if size != offset + header["payload_bytes"]:
        raise ValueError(f"it has {size} bytes instead of {offset + header['payload_bytes']}")
    return Kept(path, header, offset)


def write(
    path: Path, header: dict[str, Any], payload: Iterable[bytes], *, is_private: bool = False
) -> None:
    """Replaces ``path``; ``header`` has ``payload_bytes``. ``is_private``: for nobody else to read.
    Raises OSError; leaves nothing half done."""
    text = json.dumps(header).encode()
    start = MAGIC + _LENGTHS.pack(len(text), blake2b(text, digest_size=32).digest()) + text
    _remove_abandoned(path)
    # Process ids would not tell writers apart: containers that share a folder have the same ones.
    unfinished = path.with_name(f"{path.name}.{os.urandom(8).hex()}.part")
    file = open(unfinished, "xb", opener=_private if is_private else None)
    try:
        with file:
            file.write(start.ljust(_aligned(len(start)), b"\0"))
            for part in payload:
                file.write(part)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _remove_abandoned(path: Path) -> None:
    """Of processes that were killed while they wrote."""
    for found in path.parent.glob(f"{path.name}.*.part"):
        # another process may be faster, and the folder one that cannot be written
        with suppress(OSError):
            if time.time() - found.stat().st_mtime > ABANDONED:
                found.unlink()


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
