"""``legato top`` beside a server that works."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from functools import partial
from typing import Any

import httpx
import pytest
from running_server import RunningServer
from storms import settled

COMMAND = [sys.executable, "-m", "legato.cli", "top"]


def top(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)


def work(server: RunningServer) -> threading.Thread:
    body = {"prompt": f"{time.time()}", "max_tokens": 700, "ignore_eos": True, "n": 2}
    asking = threading.Thread(
        target=lambda: httpx.post(f"{server.url}/v1/completions", json=body, timeout=120)
    )
    asking.start()
    return asking


def number(text: str, before: str, behind: str) -> float:
    found = re.search(rf"{before}\s*([\d,.]+){behind}", text)
    assert found is not None, text
    return float(found[1].replace(",", ""))


def test_one_frame(server: RunningServer) -> None:
    asking = work(server)
    settled(lambda: server.metric("num_requests_running") == 2)
    shown = top(server.url, "--once", "--interval", "0.5")
    asking.join()
    assert shown.returncode == 0, shown.stderr
    assert "smollm2 (llama)" in shown.stdout and server.url in shown.stdout
    assert number(shown.stdout, "answers", " running") == 2
    assert number(shown.stdout, r"cached\), ?", r"\s+out") > 0
    assert number(shown.stdout, "[█▒·]+", " used") > 0
    decode = re.search(r"^decode\s+([\d.]+)\s+([\d.]+)\s+(\d+) %", shown.stdout, re.M)
    assert decode is not None and float(decode[1]) > 0 and float(decode[2]) > 0
    assert int(decode[3]) > 10
    tokens = re.search(r"^between tokens\s+([\d.]+)", shown.stdout, re.M)
    assert tokens is not None and 0 < float(tokens[1]) < 5


@pytest.mark.parametrize(
    ("url", "said"),
    [("http://127.0.0.1:9", "does not answer"), ("nothing", "does not answer")],
)
def test_no_server(url: str, said: str) -> None:
    ended = top(url, "--once")
    assert ended.returncode == 1 and ended.stdout == ""
    assert said in ended.stderr and ended.stderr.count("\n") == 1


def test_live_in_a_terminal(server: RunningServer) -> None:
    """It draws again and again until ctrl-C, and leaves the terminal as it was."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    options: dict[str, Any] = {"stdin": follower, "stdout": follower, "stderr": follower}
    # Who runs the tests may ignore ctrl-C, as a shell's background jobs do; nobody at a terminal does.
    options["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        [*COMMAND, server.url, "--interval", "0.1"], start_new_session=True, **options
    )
    seen = b""
    deadline = time.monotonic() + 30
    while seen.count(b"since start") < 4:
        assert time.monotonic() < deadline, seen
        seen += os.read(leader, 65536)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    os.close(follower)
    seen += os.read(leader, 65536)
    assert b"\x1b[?1049h" in seen and b"\x1b[?1049l" in seen  # the other screen, and back
