"""llama.cpp as the peer: where its programs are, and what ``llama-bench`` says."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import build_llama_cpp

from legato.errors import EngineError

PROGRAMS = ("llama-server", "llama-bench")


@dataclass(frozen=True)
class LlamaCpp:
    """A folder with llama.cpp's programs."""

    folder: Path

    @property
    def server(self) -> str:
        return str(self.folder / "llama-server")

    def bench(self, model: str, threads: int, *, prompt: int, output: int, depth: int) -> float:
        """Tokens a second of one repetition (it warms up by itself): of the prompt if ``output``
        is 0, else of ``output`` tokens after ``depth`` others."""
        command = [str(self.folder / "llama-bench"), "-m", model, "-t", str(threads), "-r", "1"]
        command += ["-p", str(prompt), "-n", str(output), "-d", str(depth), "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True)
        try:
            return float(json.loads(done.stdout)[0]["avg_ts"])
        except (ValueError, LookupError):
            raise EngineError(f"llama-bench failed: {done.stderr[-500:]}") from None


def find(given: str | None) -> LlamaCpp:
    """``--llama-cpp``, ``LLAMA_CPP_DIR``, or a build of our own, made on the first call.

    Raises EngineError if there is none and none can be built.
    """
    named = given or os.environ.get("LLAMA_CPP_DIR")
    if not named:
        return LlamaCpp(build_llama_cpp.build())
    for folder in (Path(named), Path(named) / "bin", Path(named) / "build" / "bin"):
        if all((folder / program).is_file() for program in PROGRAMS):
            return LlamaCpp(folder)
    raise EngineError(f"{named} has no {' and no '.join(PROGRAMS)}")
