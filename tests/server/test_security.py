"""What docs/security.md promises and no other file shows."""

from __future__ import annotations

import ast
import asyncio
import hmac
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_service import Build, post
from running_server import MODEL, SETTINGS, RunningServer, start_server

from legato.text.vocabulary import Tokenizer

SOURCES = Path(__file__).parents[2] / "src" / "legato"
# Modules that run what they read, and a name that would make transformers do so.
DESERIALISERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "torch", "yaml"}  # fmt: skip


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_nothing_that_is_read_is_run() -> None:
    files = [*SOURCES.rglob("*.py")]
    assert len(files) > 100
    for file in files:
        text = file.read_text()
        tree = ast.parse(text)
        assert not DESERIALISERS & set(imported(tree)), file
        assert "trust_remote_code" not in text and "allow_pickle" not in text, file
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        names = {call.id for call in calls if isinstance(call, ast.Name)}
        assert not names & {"eval", "exec", "__import__"}, file


WATCHED = ("open", "os.", "subprocess.", "socket.connect", "import", "exec", "ctypes.dlopen")
_heard: list[str] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _heard is not None and event.startswith(WATCHED):
        _heard.append(f"{event} {arguments!r}")


@cache
def _hear() -> None:
    sys.addaudithook(_hook)  # for ever: there is no way to take it back


@contextmanager
def listening() -> Iterator[list[str]]:
    """What Python opens, starts or loads meanwhile."""
    global _heard
    _hear()
    _heard = heard = []
    try:
        yield heard
    finally:
        _heard = None


def test_the_ear_hears() -> None:
    with listening() as heard, tempfile.NamedTemporaryFile(prefix="canary"):
        pass
    assert any("canary" in event for event in heard)


CANARY = "/etc/canary-4711"


def test_paths_in_requests_are_never_opened(build: Build, tmp_path: Path) -> None:
    """Every text field of every endpoint holds one."""
    client, _ = build("hello world", trust_request_chat_template=True)
    document = asyncio.run(client.get("/openapi.json")).json()
    urls = (CANARY, f"file://{CANARY}", f"http://127.0.0.1:9{CANARY}", f"..{CANARY}")
    asked = 0
    with listening() as heard:
        for path, methods in document["paths"].items():
            operation = methods.get("post", {})
            if "requestBody" not in operation:
                continue
            reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
            schema = document["components"]["schemas"][reference.rpartition("/")[2]]
            for name in schema["properties"]:
                for url in urls:
                    image = [{"type": "image_url", "image_url": {"url": url}}]
                    for value in (url, [url], {"path": url}, [{"role": "user", "content": image}]):
                        body = {"messages": [{"role": "user", "content": url}], "prompt": url, "max_tokens": 1}  # fmt: skip
                        known = {key: body[key] for key in body if key in schema["properties"]}
                        post(client, path.replace("{response_id}", "x"), known | {name: value})
                        asked += 1
        for url in urls:
            asyncio.run(client.get(f"/v1/models/{url}"))
            asyncio.run(client.get(f"/v1/responses/{url.replace('/', '%2F')}"))
            asyncio.run(client.get(f"/v1/streams/{url.replace('/', '%2F')}"))
    assert asked > 1000
    assert not [event for event in heard if "canary-4711" in event]


def test_code_in_a_models_folder_is_not_looked_at(tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "models"))
    from tiny_files import LLAMA, write_folder

    from legato.weights import checkpoint, hub

    code = {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}}
    folder = write_folder(tmp_path / "evil", {**LLAMA, **code})
    (folder / "modeling_evil.py").write_text("raise SystemExit('run')")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    with listening() as heard:
        checkpoint.open(hub.resolve(str(folder)))
    assert any("config.json" in event for event in heard)
    assert not [event for event in heard if "modeling_evil" in event or ".bin" in event]


def test_every_key_is_compared_whatever_the_first_says(
    build: Build,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def compare(guess: bytes, key: bytes) -> bool:
        compared.append((guess, key))
        return real(guess, key)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    client, _ = build(api_key="first,second,third")
    for key in ("first", "second", "x"):
        compared.clear()
        asyncio.run(client.get("/v1/models", headers={"authorization": f"Bearer {key}"}))
        assert [right for _, right in compared] == [b"first", b"second", b"third"]


def test_logs_hold_neither_keys_nor_prompts() -> None:
    key, prompt = "key-canary-1", "prompt-canary-2"
    with tempfile.TemporaryFile("w+") as log:
        running = start_server(
            MODEL, *SETTINGS, "--api-key", key, "--log-level", "debug", stderr=log
        )
        try:
            with httpx.Client(base_url=running.url, timeout=60) as http:
                for guess in (key, "wrong-canary-3"):
                    headers = {"authorization": f"Bearer {guess}", "x-api-key": guess}
                    for body in (
                        {"prompt": prompt, "max_tokens": 2},
                        {"prompt": prompt, "max_tokens": -1},
                        {"prompt": prompt, "max_tokens": 2, "guided_regex": prompt + "("},
                    ):
                        http.post("/v1/completions", json=body, headers=headers)
                    http.post("/v1/completions", content=b"{" + prompt.encode(), headers=headers)
        finally:
            running.process.terminate()
            running.process.wait(20)
        log.seek(0)
        assert running.process.stdout is not None
        said = log.read() + running.process.stdout.read()
    assert "/v1/completions" in said  # it does log
    assert "canary" not in said


@pytest.mark.timeout(200)
def test_salts_keep_time_apart(server: RunningServer) -> None:
    """What one salt has read is as slow for another as what nobody has read."""
    times: dict[str, list[float]] = {"same": [], "other": [], "new": []}
    cached: dict[str, set[int]] = {name: set() for name in times}

    def ask(prompt: str, salt: str) -> tuple[float, int]:
        body = {"prompt": prompt, "max_tokens": 1, "cache_salt": salt, "temperature": 0}
        started = time.monotonic()
        reply = server.http.post("/v1/completions", content=json.dumps(body)).json()
        usage = reply["usage"]["prompt_tokens_details"]
        return time.monotonic() - started, usage["cached_tokens"]

    for number in range(5):
        prompt = f"{number}: " + "to be or not to be, " * 150
        ask(prompt, "a")
        for name, salt, text in (
            ("same", "a", prompt),
            ("other", "b", prompt),
            ("new", "c", prompt.replace("to", "do")),
        ):
            took, hits = ask(text, salt)
            times[name].append(took)
            cached[name].add(hits)
    assert cached["other"] == cached["new"] == {0} and min(cached["same"]) > 500
    assert min(times["other"]) > min(times["new"]) / 2


HI = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", HI),
        ("/v1/chat/completions/render", HI),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/messages", {**HI, "max_tokens": 5}),
        ("/v1/messages/count_tokens", HI),
        ("/v1/responses", {"input": "hi"}),
        ("/api/chat", HI),
        ("/api/generate", {"prompt": "hi"}),
        ("/api/generate", {"prompt": "hi", "raw": True}),
        ("/tokenize", HI),
        ("/tokenize", {"prompt": "hi"}),
    ],
)
def test_prompts_are_known_within_their_salt(
    path: str, body: dict[str, Any], build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    salts: list[str] = []
    remembering = Tokenizer.remembering

    def noted(self: Tokenizer, salt: str) -> Tokenizer:
        salts.append(salt)
        return remembering(self, salt)

    monkeypatch.setattr(Tokenizer, "remembering", noted)
    client, _ = build()
    assert post(client, path, {**body, "cache_salt": "mine"}).status_code == 200
    assert post(client, path, body).status_code == 200
    assert salts == ["mine", ""]
