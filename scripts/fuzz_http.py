"""Broken requests against the real server, for as long as asked: ``python scripts/fuzz_http.py --minutes 30``.

Prints how many were sent, what was answered, and what was wrong; ends with 1 if anything was, if a
request beside was disturbed, if an engine ended, or if something is left. The same ``--seed`` sends the same requests.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "server"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fuzz"))

from http_fuzz import Found, fuzz
from running_server import RunningServer, start_server
from storms import left_over, settled, state

MODEL = "smollm2"
SETTINGS = ("--kv-cache-memory", "300MB", "--max-model-len", "512", "--trust-request-chat-template")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=4)
    asked = parser.parse_args()
    with tempfile.TemporaryFile("w+") as said:
        server = start_server(MODEL, *SETTINGS, stderr=said)
        try:
            before = state(server)
            found = asyncio.run(fuzz(server, asked.seed, asked.minutes * 60, at_once=asked.at_once))
            failed = report(server, before, found)
        finally:
            server.process.terminate()
            server.process.wait(60)
        said.seek(0)
        log = said.read()
    if "Traceback" in log:
        print(f"the server's log has tracebacks; its end:\n{log[-5000:]}")
    return 1 if failed or "Traceback" in log else 0


def rest(server: RunningServer) -> dict[str, int]:
    gc.collect()  # connections of our own that were for one question
    return state(server)


def report(server: RunningServer, before: dict[str, int], found: Found) -> int:
    for wrong in found.wrong:
        print(wrong)
    print(
        f"{found.count} requests, {dict(sorted(found.statuses.items()))}; the slowest {found.slowest:.1f} s; "
        f"beside them {found.beside} answers, all as in peace; /health at most {found.slowest_health:.2f} s"
    )
    print(f"the slowest: {found.slowest_case}")
    settled(lambda: not left_over(before, rest(server)).keys() - {"engine threads"})
    restarts = round(server.metric("engine_restarts_total"))
    print(f"{len(found.wrong)} wrong, {restarts} engines ended")
    return 1 if found.wrong or restarts else 0


if __name__ == "__main__":
    sys.exit(main())
