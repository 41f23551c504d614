"""gpt-oss: its channels' marks are control tokens, which have no text but for who parts the answer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from fake_service import FakeServer, post
from test_edges import events
from tokenizers import models, pre_tokenizers

from legato.text.harmony import MARKS
from legato.text.template import ChatTemplate
from legato.text.tokenizer import Tokenizer, load_tokenizer

ASKED = [{"role": "user", "content": "hi"}]
THINKS = "<|channel|>analysis<|message|>"
SAYS = "<|channel|>final<|message|>"
NEXT = "<|end|><|start|>assistant"
ANSWER = f"{THINKS}They say hi.{NEXT}{SAYS}Hello!"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A token for each byte, and one for each mark."""
    alphabet = {letter: id for id, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = tokenizers.Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens([*MARKS])
    folder = tmp_path_factory.mktemp("harmony")
    backend.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|return|>", "bos_token": "<|start|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def template() -> ChatTemplate:
    default = Path(__file__).parents[3] / "shared" / "templates"
    file = Path(os.environ.get("LEGATO_TEMPLATES", default)) / "xinf-gpt-oss.jinja"
    if not file.is_file():
        pytest.skip(f"SKIPPED LOUDLY: no {file} (set LEGATO_TEMPLATES)")
    return ChatTemplate(file.read_text(encoding="utf-8"), bos_token="", eos_token="<|return|>")


class Server(FakeServer):
    def __init__(self, *given: Any, **config: Any) -> None:
        super().__init__(*given, max_model_len=8192, **config)

    def answer(self, path: str, **fields: Any) -> Any:
        reply = self.ask(path, **fields)
        assert reply.status_code == 200, reply.text
        return reply.json()


def test_an_answer_on_two_channels(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    server = Server(tokenizer, template, ANSWER)
    path = "/v1/chat/completions"
    reply = server.answer(path, messages=ASKED, n=2)
    message = reply["choices"][1]["message"]
    assert (message["reasoning_content"], message["content"]) == ("They say hi.", "Hello!")
    details = reply["usage"]["completion_tokens_details"]
    assert details["reasoning_tokens"] == 2 * len("They say hi.")
    streamed = post(server.client, path, {"messages": ASKED, "stream": True})
    deltas = [chunk["choices"][0]["delta"] for chunk in events(streamed)]
    for name in ("reasoning_content", "content"):
        assert "".join(delta.get(name, "") for delta in deltas) == message[name]
    content = server.answer("/v1/messages", messages=ASKED, max_tokens=100)["content"]
    assert [block["type"] for block in content] == ["thinking", "text"]
    message = server.answer("/api/chat", messages=ASKED, stream=False)["message"]
    assert (message["thinking"], message["content"]) == ("They say hi.", "Hello!")
    output = server.answer("/v1/responses", input="hi")["output"]
    assert [item["content"][0]["text"] for item in output] == ["They say hi.", "Hello!"]


def test_without_a_parser_marks_have_no_text(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    server = Server(tokenizer, template, ANSWER, reasoning_parser="none")
    (choice,) = server.answer("/v1/chat/completions", messages=ASKED)["choices"]
    said = "analysisThey say hi.assistantfinalHello!"
    assert choice["message"] == {"role": "assistant", "content": said}


@pytest.mark.parametrize(
    ("last", "text", "header", "reasoning", "content"),
    [
        ({"content": "Hel"}, "lo!", SAYS, None, "lo!"),
        ({"reasoning_content": "They "}, f"say hi.{NEXT}{SAYS}Hello!", THINKS, "say hi.", "Hello!"),
        (
            {"reasoning_content": "They say hi.", "content": "Hel"},
            "lo!",
            f"{THINKS}They say hi.{NEXT}{SAYS}",
            None,
            "lo!",
        ),
    ],
)
def test_each_channel_goes_on(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    last: dict[str, str],
    text: str,
    header: str,
    reasoning: str | None,
    content: str,
) -> None:
    server = Server(tokenizer, template, text)
    messages = [*ASKED, {"role": "assistant", **last}]
    given = last.get("content", "") or last["reasoning_content"]
    prompt = server.answer("/v1/chat/completions/render", messages=messages)["prompt"]
    assert prompt.endswith(f"<|start|>assistant{header}{given}")
    (choice,) = server.answer("/v1/chat/completions", messages=messages)["choices"]
    message = choice["message"]
    assert (message.get("reasoning_content"), message["content"]) == (reasoning, content)


@pytest.mark.parametrize(
    ("budget", "last", "limit", "used", "closing"),
    [
        (0, None, 0, 0, SAYS),
        (5, None, 5 + len("analysis") + 2, 0, f"{NEXT}{SAYS}"),
        (5, {"reasoning_content": "The"}, 5, 3, f"{NEXT}{SAYS}"),
    ],
)
def test_a_budget(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    budget: int,
    last: dict[str, str] | None,
    limit: int,
    used: int,
    closing: str,
) -> None:
    server = Server(tokenizer, template, ANSWER)
    messages = [*ASKED, {"role": "assistant", **last}] if last else ASKED
    server.answer(
        "/v1/chat/completions",
        messages=messages,
        max_thinking_tokens=budget,
        token_healing=False,
    )
    thinking = server.engine.requests[-1].thinking
    assert thinking is not None and thinking.is_open
    assert (thinking.budget, thinking.used) == (limit, used)
    assert tokenizer.decode(thinking.closing_ids, skip_special_tokens=False) == closing


def test_how_hard_to_think(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    server = Server(tokenizer, template, ANSWER)
    path = "/v1/chat/completions/render"
    assert "Reasoning: low" in server.answer(path, messages=ASKED, reasoning_effort="low")["prompt"]
    server.answer("/api/chat", messages=ASKED, think="high", stream=False)
    assert "Reasoning: high" in tokenizer.decode(server.engine.requests[-1].prompt_token_ids)
    server.answer("/v1/responses", input="hi", reasoning={"effort": "none"})
    thinking = server.engine.requests[-1].thinking
    assert thinking is not None and thinking.budget == 0
