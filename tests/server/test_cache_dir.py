"""``--cache-dir``: a server that is started again answers from what the last one has cached."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_server import SETTINGS, RunningServer, engine_pid, start_server
from storms import settled

LONG = " ".join(f"{number} bottles of beer on the wall," for number in range(180))
BODIES: list[dict[str, Any]] = [
    {"prompt": LONG[:1200], "temperature": 0, "logprobs": 5, "max_tokens": 12},
    {"prompt": LONG[:900], "temperature": 1, "seed": 5, "logprobs": 3, "max_tokens": 12},
    {"prompt": LONG[:700], "temperature": 0.8, "seed": 1, "n": 2, "logprobs": 1, "max_tokens": 9},
]


@contextmanager
def serving(folder: Path, *flags: str, log: Path | None = None) -> Iterator[RunningServer]:
    log = log or folder.parent / "log"
    with open(log, "a", encoding="utf-8") as stderr:
        started = start_server(
            "smollm2", *SETTINGS, "--cache-dir", str(folder), *flags, stderr=stderr
        )
        try:
            yield started
        finally:
            started.process.terminate()
            assert started.process.wait(30) == 0


def ask(server: RunningServer, body: dict[str, Any]) -> tuple[list[Any], int]:
    """What the answer says, to the last bit of its log-probabilities; tokens found in the cache."""
    reply = httpx.post(f"{server.url}/v1/completions", json=body, timeout=120).json()
    choices = [(one["text"], one["logprobs"], one["finish_reason"]) for one in reply["choices"]]
    return choices, reply["usage"]["prompt_tokens_details"]["cached_tokens"]


def restored(log: Path, count: int = 1) -> None:
    """Waits until a server has told that its blocks are back."""
    deadline = time.monotonic() + 20
    while log.read_text(encoding="utf-8").count("of the prefix cache are back") < count:
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
        time.sleep(0.02)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A folder in which a server has kept its cache, and what it computed."""
    folder = tmp_path_factory.mktemp("kept") / "cache"
    with serving(folder) as server:
        told = [ask(server, body) for body in BODIES]
        salted = {**BODIES[0], "cache_salt": "mine"}
        assert ask(server, salted)[1] == 0
    assert told[0][1] == 0
    [file] = folder.iterdir()
    assert file.suffix == ".legato-kv" and file.name.startswith("smollm2-")
    return folder, [answer for answer, _ in told]


@pytest.fixture
def kept(first: tuple[Path, list[Any]], tmp_path: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(first[0], tmp_path / "cache"))


def test_answers_are_the_same_to_the_last_bit(first: tuple[Path, list[Any]], kept: Path) -> None:
    log = kept.parent / "log"
    with serving(kept, log=log) as server:
        restored(log)
        for body, computed in zip(BODIES, first[1], strict=True):
            said, cached = ask(server, body)
            assert said == computed and cached > 100
        # what was asked with a salt stays with it
        strange = "Nobody has asked this. " + LONG[:600]
        assert ask(server, {**BODIES[0], "prompt": strange})[1] == 0
        said, cached = ask(server, {**BODIES[0], "cache_salt": "mine"})
        assert said == first[1][0] and cached > 100
        assert ask(server, {**BODIES[0], "cache_salt": "other"})[1] == 0


def test_another_engine_finds_it_too(kept: Path) -> None:
    """kill -9: the server's next engine reads what was kept; so it does what an idle one has written."""
    log = kept.parent / "log"
    with serving(kept, log=log) as server:
        restored(log)
        new = {**BODIES[0], "prompt": "Quite another beginning. " + LONG[:600]}
        computed, _ = ask(server, new)
        deadline = time.monotonic() + 30
        while "are kept in" not in log.read_text(encoding="utf-8"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(engine_pid(server), signal.SIGKILL)
        restored(log, 2)
        said, cached = ask(server, new)
        assert said == computed and cached > 100


@pytest.mark.parametrize("damage", ["bit", "cut", "foreign"])
def test_a_file_that_is_not_sound(first: tuple[Path, list[Any]], kept: Path, damage: str) -> None:
    """The warning names it; answers are computed, and kept anew."""
    [file] = kept.iterdir()
    data = bytearray(file.read_bytes())
    if damage == "bit":
        data[len(data) * 3 // 4] ^= 4
    elif damage == "cut":
        del data[-5000:]
    if damage == "foreign":  # that of the same model with other keys and values, under this name
        elsewhere = kept.parent / "int8"
        with serving(elsewhere, "--kv-cache-dtype", "int8", log=kept.parent / "log8") as server:
            ask(server, BODIES[0])
        data = bytearray(next(elsewhere.iterdir()).read_bytes())
    file.write_bytes(data)
    log = kept.parent / "log"
    with serving(kept, log=log) as server:
        settled(lambda: f"{file} is ignored" in log.read_text(encoding="utf-8"))
        said, cached = ask(server, BODIES[0])
        assert said == first[1][0] and cached == 0
    with serving(kept, log=log) as server:
        restored(log)
        said, cached = ask(server, BODIES[0])
        assert said == first[1][0] and cached > 100


def test_the_bound(kept: Path) -> None:
    """A block of this model takes 368,640 bytes."""
    log = kept.parent / "log"
    with serving(kept, "--cache-dir-size", "4MB", log=log) as server:
        restored(log)
        ask(server, BODIES[1])
    [file] = kept.iterdir()
    assert 3_000_000 < file.stat().st_size < 4_100_000


def first_token(server: RunningServer, prompt: str | list[int]) -> float:
    """Milliseconds."""
    body = {"prompt": prompt, "max_tokens": 4, "temperature": 0, "stream": True}
    started = time.perf_counter()
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=120) as reply:
        next(reply.iter_bytes())
        return 1000 * (time.perf_counter() - started)


def test_the_first_token_after_a_restart(tmp_path: Path) -> None:
    """A prompt of 1,000 tokens: a first start, and one with what that has kept."""
    cold, warm = [], []
    log = tmp_path / "log"
    for number in range(3):
        folder = tmp_path / f"cache{number}"
        for times in (cold, warm):
            with serving(folder, log=log) as server:
                if times is warm:
                    restored(log, number + 1)
                ids = server.http.post("/tokenize", json={"prompt": LONG}).json()["tokens"][:1000]
                first_token(server, "Hello")  # what a process does only once
                times.append(first_token(server, ids))
    print(
        f"\n{len(ids):,} tokens: first token {statistics.median(cold):.0f} ms after a first start "
        f"({min(cold):.0f} to {max(cold):.0f}), {statistics.median(warm):.0f} ms after a restart "
        f"({min(warm):.0f} to {max(warm):.0f})"
    )
    assert min(warm) < min(cold)  # a tenth of it on a machine that does little else
