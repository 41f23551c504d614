"""Loads models in a process of its own, which a broken one may end: one path a line in, one outcome out.

Outcomes: "loaded", "loaded: but WHY" it does not answer, "refused: MESSAGE", or "wrong: TRACEBACK" for an exception that is not ours. What
takes longer than SECONDS, or more memory than there is, ends the process.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import traceback
from pathlib import Path

SECONDS = 30
MEMORY = 2 << 30
"""Bytes of address space beyond what the process has before its first model."""


def load(path: str) -> str:
    """As a server does it, and two tokens of an answer. Raises LegatoError if it does not load; what
    loads may refuse to answer."""
    from legato import LLM, SamplingParams
    from legato.errors import LegatoError

    llm = LLM(
        path,
        threads=1,
        max_num_seqs=2,
        max_num_batched_tokens=32,
        kv_cache_memory=4 << 20,
        load_cache="off",
    )
    few = SamplingParams(max_tokens=2, min_tokens=2, temperature=0)
    try:
        llm.generate(["hi"], few, use_tqdm=False)
        if llm.template is not None:
            llm.chat([{"role": "user", "content": "hi"}], few, use_tqdm=False)
    except LegatoError as error:
        return f"loaded: but {error}"
    return "loaded"


def outcome(path: str) -> str:
    from legato.errors import LegatoError

    signal.alarm(SECONDS)
    try:
        return load(path)
    except LegatoError as error:
        return f"refused: {error}"
    except BaseException:
        return f"wrong: {traceback.format_exc()}"
    finally:
        signal.alarm(0)


def main() -> None:
    import legato.llm  # noqa: F401

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        print(json.dumps(outcome(json.loads(line))), flush=True)


class Child:
    """The process, started again after each model that ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def outcome(self, path: Path) -> str:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(str(path)) + "\n")
        process.stdin.flush()
        said = process.stdout.readline()
        if said:
            return str(json.loads(said))
        self._process = None
        return f"wrong: the process ended with {process.wait()}"

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


if __name__ == "__main__":
    main()
