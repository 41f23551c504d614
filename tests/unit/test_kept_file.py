"""Files that are replaced whole: by several writers, after a kill, and for whom to read."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from legato.kept_file import ABANDONED, HEAD, Keeper, identity, read, write

KEY = {"model": "m"}
KILLED = """
import os, signal, sys
from pathlib import Path
from legato.kept_file import write
me, os.getpid = os.getpid(), lambda: 1
def payload():
    yield b"half"
    os.kill(me, signal.SIGKILL)
write(Path(sys.argv[1]), {"key": {"model": "m"}, "payload_bytes": 8}, payload())
"""


@pytest.fixture(autouse=True)
def container(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine of each container has this process id, and so has the one that follows it."""
    monkeypatch.setattr(os, "getpid", lambda: 1)


def save(path: Path, payload: Iterator[bytes], size: int = 4, **options: bool) -> None:
    write(path, {"key": KEY, "payload_bytes": size}, payload, **options)


def payload_of(path: Path) -> bytes:
    return path.read_bytes()[read(path, KEY).offset :]


def test_after_a_kill_the_next_writer_writes(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=30)
    assert killed.returncode == -signal.SIGKILL
    (part,) = tmp_path.iterdir()
    save(path, iter([b"next"]))
    assert payload_of(path) == b"next" and part.exists()  # it might be somebody's
    os.utime(part, (0, time.time() - ABANDONED - 1))
    save(path, iter([b"last"]))
    assert payload_of(path) == b"last" and [*tmp_path.iterdir()] == [path]


def test_a_reader_that_finds_its_file_removes_what_a_killed_writer_left(tmp_path: Path) -> None:
    keeper = Keeper(str(tmp_path), tmp_path / "model", ".kept")
    (path,) = keeper.paths
    save(path, iter([b"text"]))
    new, old = (path.with_name(f"{path.name}.{name}.part") for name in ("0a", "0b"))
    for part in (new, old):
        part.write_bytes(b"half")
    os.utime(old, (0, time.time() - ABANDONED - 1))
    assert keeper.read(KEY) is not None
    assert new.exists() and not old.exists()


@pytest.mark.parametrize("fails", [False, True])
def test_writers_leave_each_other_alone(tmp_path: Path, fails: bool) -> None:
    path = tmp_path / "kept"

    def inner() -> Iterator[bytes]:
        yield b"in"
        if fails:
            raise OSError("no space left")
        yield b"ner"

    def outer() -> Iterator[bytes]:
        yield b"out"
        if fails:
            with pytest.raises(OSError, match="no space left"):
                save(path, inner(), 5)
        else:
            save(path, inner(), 5)
            assert payload_of(path) == b"inner"
        yield b"er"

    save(path, outer(), 5)
    assert payload_of(path) == b"outer" and [*tmp_path.iterdir()] == [path]


def test_others_may_read_it_unless_it_is_private(tmp_path: Path) -> None:
    path, mask = tmp_path / "kept", os.umask(0o027)
    try:
        for is_private, mode in ((True, 0o600), (False, 0o640)):
            save(path, iter([b"text"]), is_private=is_private)
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(mask)


def test_where_the_first_folder_is_full_the_second_has_all_of_it(tmp_path: Path) -> None:
    keeper = Keeper("auto", tmp_path / "model", ".kept")
    keeper.paths = [tmp_path / "full" / "kept", tmp_path / "roomy" / "kept"]

    def payload() -> Iterator[bytes]:
        yield b"one"
        if not keeper.paths[1].parent.exists():
            raise OSError("no space left on device")
        yield b"two"

    keeper.write(KEY, {"payload_bytes": 6}, payload)
    assert payload_of(keeper.paths[1]) == b"onetwo"
    assert not [*keeper.paths[0].parent.iterdir()]


def test_versions_of_one_size_and_time_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "model"
    found = []
    for layer in (b"\1", b"\2"):
        path.write_bytes(bytes(HEAD) + layer * 1_000_000 + bytes(HEAD))
        os.utime(path, (1, 1))
        found += [identity(path), identity(path)]
    assert found[0] == found[1] != found[2] == found[3]
    for small in (b"", b"a"):
        path.write_bytes(small)
        assert identity(path)[:2] == ["model", len(small)]
