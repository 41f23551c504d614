"""Downloads from a hub, against a stub that cuts, stalls and lies."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from stub_hub import COMMIT, StubHub, serving

from legato.errors import ModelError
from legato.weights import hub, hub_download

BIG = random.Random(1).randbytes(3_000_000)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": BIG,
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "chat_template.json": b'{"chat_template": "{{ messages }}"}',
    "README.md": b"not needed",
    "pytorch_model.bin": b"never fetched",
    "original/consolidated.safetensors": b"never fetched",
}
WANTED = {
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "chat_template.jinja",
    "chat_template.json",
}


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubHub]:
    monkeypatch.setenv("LEGATO_HOME", str(tmp_path))
    monkeypatch.setattr(hub_download, "PAUSE_SECONDS", 0.0)
    with serving(StubHub(dict(FILES))) as server:
        # read by huggingface_hub when it is imported, which may have happened
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", server.url)
        yield server


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if not p.name.startswith(".")}


def test_only_what_serves_is_fetched(stub: StubHub) -> None:
    files = hub.pull("org/tiny", progress=False)
    assert (files.kind, files.name) == ("hf", "org/tiny")
    assert names(files.path) == WANTED
    assert (files.path / "model.safetensors").read_bytes() == BIG
    assert hub.installed() == [files]


def test_a_model_on_disk_asks_nothing(stub: StubHub) -> None:
    files = hub.pull("org/tiny", progress=False)
    stub.requests.clear()
    assert hub.resolve("org/tiny") == files
    assert stub.requests == []


@pytest.mark.parametrize("after", [700_000, 300_000])
def test_connections_that_break_are_continued(stub: StubHub, after: int) -> None:
    """However often, as long as each brings something."""
    stub.cut_after = after
    files = hub.pull("org/tiny", progress=False)
    assert (files.path / "model.safetensors").read_bytes() == BIG
    continued = [r for r in stub.ranges() if r]
    assert continued == [f"bytes={n}-" for n in range(after, 3_000_000, after)]


def test_connections_that_stall_are_continued(
    stub: StubHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_download, "READ_SECONDS", 0.5)
    stub.stall_after = 1_000_000
    start = time.monotonic()
    files = hub.pull("org/tiny", progress=False)
    assert time.monotonic() - start < 15  # the stub's own patience is 20 s
    assert (files.path / "model.safetensors").read_bytes() == BIG
    assert [r for r in stub.ranges() if r] == ["bytes=1000000-", "bytes=2000000-"]


def test_a_listing_that_stalls_is_no_network(
    stub: StubHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = hub.pull("org/tiny", progress=False)
    monkeypatch.setattr(hub_download, "READ_SECONDS", 0.5)
    stub.stall_listing = True
    start = time.monotonic()
    assert hub.pull("org/tiny", progress=False) == files
    assert time.monotonic() - start < 15
    (files.path / "config.json").unlink()
    with pytest.raises(ModelError, match="org/tiny: the hub cannot be reached: .*timed out"):
        hub.pull("org/tiny", progress=False)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_asked_again(stub: StubHub, status: int) -> None:
    stub.file_statuses = [status] * (hub_download.ATTEMPTS - 1)
    files = hub.pull("org/tiny", progress=False)
    assert names(files.path) == WANTED
    assert len(stub.ranges()) == len(WANTED) + hub_download.ATTEMPTS - 1


@pytest.mark.parametrize(("asked", "pause"), [("7", 7.0), ("86400", 60.0), ("soon", 0.0)])
def test_a_busy_hub_says_when_to_come_back(
    stub: StubHub, monkeypatch: pytest.MonkeyPatch, asked: str, pause: float
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(hub_download.time, "sleep", pauses.append)
    stub.file_statuses, stub.retry_after = [429], asked
    hub.pull("org/tiny", progress=False)
    assert pauses == [pause]


def test_a_hub_that_stays_busy_is_one_clear_line(stub: StubHub) -> None:
    stub.file_statuses = [429] * hub_download.ATTEMPTS
    with pytest.raises(ModelError, match=r"the download broke off at 0 of 3000000 bytes \(.*429"):
        hub.pull("org/tiny", progress=False)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "", r"the hub refuses access \(403\): check what HF_TOKEN permits"),
        (403, "GatedRepo", "access is restricted: accept its terms on the hub and set HF_TOKEN"),
        (401, "GatedRepo", "access is restricted: accept its terms on the hub and set HF_TOKEN"),
        (401, "", r"the hub refuses access \(401\): check what HF_TOKEN permits"),
        (404, "RepoNotFound", "the hub has no such model"),
        (404, "EntryNotFound", r"the hub refuses the download \(404\): "),
    ],
)
def test_refused_files_are_not_the_disks_fault(
    stub: StubHub, status: int, code: str, message: str
) -> None:
    stub.file_statuses, stub.error_code = [status], code
    with pytest.raises(ModelError, match=f"^org/tiny: {message}"):
        hub.pull("org/tiny", progress=False)
    assert len(stub.ranges()) == 1  # asking again would not change the answer


def test_a_killed_process_is_continued_by_the_next(stub: StubHub, tmp_path: Path) -> None:
    stub.stall_after = 2_000_000
    code = "from legato.weights import hub; hub.pull('org/tiny', progress=False)"
    child = subprocess.Popen([sys.executable, "-c", code], env=dict(os.environ))
    try:
        assert stub.stalled.wait(20)
        part = tmp_path / "hub/org/.tiny.next/model.safetensors.part"
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not (part.exists() and part.stat().st_size > 10**6):
            time.sleep(0.02)
    finally:
        child.kill()
        child.wait()
    have = part.stat().st_size
    assert 1_000_000 <= have <= 2_000_000
    assert hub.installed() == []
    stub.stall_after = None
    files = hub.pull("org/tiny", progress=False)
    assert stub.ranges()[-len(WANTED) :].count(f"bytes={have}-") == 1
    assert (files.path / "model.safetensors").read_bytes() == BIG


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_downloads_ends_when_told_to(stub: StubHub, told: signal.Signals) -> None:
    stub.stall_after = 1_000_000
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "legato.cli", "serve", "org/tiny", "--port", str(port)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert stub.stalled.wait(20)
        assert httpx.get(f"http://127.0.0.1:{port}/ready", timeout=20).status_code == 503
        child.send_signal(told)
        assert child.wait(8) in (0, 130)  # the stub's own patience is 20 s
    finally:
        child.kill()
        _, said = child.communicate()
    assert "Traceback" not in said and "HTTP Request" not in said
    stub.stall_after = None
    assert (hub.pull("org/tiny", progress=False).path / "model.safetensors").read_bytes() == BIG


def test_two_processes_do_not_mix_their_bytes(stub: StubHub, tmp_path: Path) -> None:
    code = "from legato.weights import hub; hub.pull('org/tiny', progress=False)"
    children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert (tmp_path / "hub/org/tiny/model.safetensors").read_bytes() == BIG
    assert len(stub.ranges()) == len(WANTED)


def test_a_hub_that_gives_up_is_one_clear_line(stub: StubHub) -> None:
    stub.cut_after = 0
    with pytest.raises(
        ModelError, match=r"model\.safetensors: the download broke off at 0 of 3000000"
    ):
        hub.pull("org/tiny", progress=False)


def test_corrupt_bytes_are_refused(stub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    info = stub.info()
    monkeypatch.setattr(stub, "info", lambda: info)
    stub.files["model.safetensors"] = bytes(3_000_000)
    with pytest.raises(ModelError, match=r"model\.safetensors: the download is corrupt"):
        hub.pull("org/tiny", progress=False)
    assert hub.installed() == []


def test_a_new_commit_replaces_the_old(stub: StubHub) -> None:
    hub.pull("org/tiny", progress=False)
    stub.commit = COMMIT[::-1]
    stub.files["model.safetensors"] = BIG[::-1]
    files = hub.pull("org/tiny", progress=False)
    assert (files.path / "model.safetensors").read_bytes() == BIG[::-1]
    assert [path.name for path in files.path.parent.iterdir() if path.is_dir()] == ["tiny"]


def test_the_old_model_stays_until_the_new_one_is_there(stub: StubHub) -> None:
    before = hub.pull("org/tiny", progress=False)
    stub.commit = COMMIT[::-1]
    stub.files["model.safetensors"] = BIG[::-1]
    stub.cut_after = 0
    with pytest.raises(ModelError, match="the download broke off"):
        hub.pull("org/tiny", progress=False)
    assert hub.resolve("org/tiny") == before
    assert (before.path / "model.safetensors").read_bytes() == BIG
    assert names(before.path) == WANTED


def test_a_process_that_was_killed_while_replacing_does_no_harm(stub: StubHub) -> None:
    before = hub.pull("org/tiny", progress=False).path
    before.rename(before.with_name(".tiny.former"))
    assert (hub.pull("org/tiny", progress=False).path / "model.safetensors").read_bytes() == BIG
    assert not before.with_name(".tiny.former").exists()


def test_without_a_network_the_disk_serves(stub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    files = hub.pull("org/tiny", progress=False)
    stub.status = 500
    assert hub.pull("org/tiny", progress=False) == files
    (files.path / "config.json").unlink()
    with pytest.raises(ModelError, match="org/tiny: the hub cannot be reached"):
        hub.pull("org/tiny", progress=False)


def test_unknown_models(stub: StubHub) -> None:
    with pytest.raises(ModelError, match="org/none: the hub has no such model"):
        hub.pull("org/none", progress=False)
    with pytest.raises(ModelError, match=r"models/tiny\.gguf: there is no such file"):
        hub.pull("models/tiny.gguf", progress=False)
    with pytest.raises(ModelError, match="nonsense: there is no such file or folder.*smollm2"):
        hub.pull("nonsense", progress=False)


def test_one_of_several_gguf_files(stub: StubHub) -> None:
    stub.files = {"tiny.Q4_K_M.gguf": b"GGUF4", "tiny.Q8_0.gguf": b"GGUF8", "README.md": b""}
    with pytest.raises(ModelError, match=r"choose one .*tiny\.Q4_K_M\.gguf, tiny\.Q8_0\.gguf"):
        hub.pull("org/tiny", progress=False)
    files = hub.pull("org/tiny:q8_0", progress=False)
    assert (files.kind, files.name, files.path.name) == ("gguf", "org/tiny:q8_0", "tiny.Q8_0.gguf")
    assert hub.installed() == [files]


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ("Q6_K", "tiny-Q6_K.gguf"),
        ("q6_k", "tiny-Q6_K.gguf"),
        ("Q6_K.gguf", "tiny-Q6_K.gguf"),
        ("tiny-Q6_K.gguf", "tiny-Q6_K.gguf"),
        ("Q6_K_L", "tiny-Q6_K_L.gguf"),
        ("f16", "tiny.f16.gguf"),
        ("bf1", "tiny.bf16.gguf"),
        ("Q6", None),
        ("tiny", None),
    ],
)
def test_a_choice_that_says_a_name_in_full_is_no_other(
    stub: StubHub, choice: str, name: str | None
) -> None:
    files = ("tiny-Q6_K.gguf", "tiny-Q6_K_L.gguf", "tiny.f16.gguf", "tiny.bf16.gguf")
    stub.files = {file: file.encode() for file in files}
    if name is None:
        with pytest.raises(ModelError, match="choose one GGUF file"):
            hub.pull(f"org/tiny:{choice}", progress=False)
        return
    found = hub.pull(f"org/tiny:{choice}", progress=False)
    assert (found.path.name, found.name) == (name, f"org/tiny:{choice}")
    assert hub.resolve(f"org/tiny:{choice}") == found and hub.installed() == [found]


def test_no_space_is_one_clear_line(stub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(hub_download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ModelError, match=r"no disk space: 2 MB are needed, 0 MB are free"):
        hub.pull("org/tiny", progress=False)
