"""/api/chat and /api/generate through Ollama's official client, on the real model."""

from __future__ import annotations

from typing import Any

import ollama
import openai
import pytest
from running_server import RunningServer
from test_chat import answer as chat_answer

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY: dict[str, Any] = {"temperature": 0, "num_predict": 24}


@pytest.fixture(scope="module")
def llama(server: RunningServer) -> ollama.Client:
    return ollama.Client(host=server.url, timeout=60)


def begun(content: str) -> Any:
    return [*QUESTION, {"role": "assistant", "content": content}]


def say(llama: ollama.Client, messages: Any, **options: Any) -> str:
    reply = llama.chat("smollm2", messages, options={**GREEDY, **options})
    return reply.message.content or ""


def test_a_chat(llama: ollama.Client, client: openai.OpenAI) -> None:
    reply = llama.chat("smollm2:latest", QUESTION, options=GREEDY)
    assert reply.message.role == "assistant"
    assert reply.message.content == chat_answer(client, QUESTION)
    assert reply.done and reply.done_reason in ("stop", "length") and reply.model == "smollm2"
    assert reply.eval_count and reply.eval_count <= 24 and reply.prompt_eval_count
    assert reply.total_duration == reply.prompt_eval_duration + reply.eval_duration
    assert reply.total_duration > 1e6


def test_a_chat_begun_is_continued(llama: ollama.Client, client: openai.OpenAI) -> None:
    rest = say(llama, begun("According to "))
    assert rest and rest == chat_answer(client, begun("According to "))
    assert "Paris" in say(llama, begun("The capital of France is"))
    told = [{"role": "system", "content": "You are a pirate."}, *QUESTION]
    assert say(llama, told) == chat_answer(client, told)


def test_a_stream_is_the_whole(llama: ollama.Client) -> None:
    records = list(llama.chat("smollm2", begun("It is "), options=GREEDY, stream=True))
    assert "".join(record.message.content for record in records) == say(llama, begun("It is "))
    assert [record.done for record in records] == [False] * (len(records) - 1) + [True]
    assert records[-1].eval_count and records[-1].done_reason and len(records) > 5


@pytest.mark.parametrize("stream", [False, True])
def test_echo(server: RunningServer, llama: ollama.Client, stream: bool) -> None:
    body = {"messages": begun("It is "), "options": GREEDY, "echo": True, "stream": stream}
    response = server.http.post("/api/chat", json=body)
    lines = [ollama.ChatResponse.model_validate_json(line) for line in response.text.splitlines()]
    echoed = "".join(line.message.content or "" for line in lines)
    assert echoed == "It is " + say(llama, begun("It is "))
    raw = {"prompt": "The capital of", "raw": True, "options": GREEDY, "stream": stream}
    plain, echo = (
        [
            ollama.GenerateResponse.model_validate_json(line).response or ""
            for line in server.http.post("/api/generate", json=given).text.splitlines()
        ]
        for given in (raw, {**raw, "echo": True})
    )
    assert "".join(echo) == "The capital of" + "".join(plain)


def test_generate(llama: ollama.Client, client: openai.OpenAI) -> None:
    question = QUESTION[0]["content"]
    reply = llama.generate("smollm2", question, options=GREEDY)
    assert reply.response == chat_answer(client, QUESTION)
    told = [{"role": "system", "content": "Be brief."}, *QUESTION]
    told_reply = llama.generate("smollm2", question, system="Be brief.", options=GREEDY)
    assert told_reply.response == chat_answer(client, told)
    flowed = llama.generate("smollm2", question, options=GREEDY, stream=True)
    assert "".join(record.response for record in flowed) == reply.response
    raw = llama.generate("smollm2", "The capital of France is", raw=True, options=GREEDY)
    completion = client.completions.create(
        model="smollm2", prompt="The capital of France is", temperature=0, max_tokens=24
    )
    assert raw.response == completion.choices[0].text


def test_options(llama: ollama.Client, client: openai.OpenAI) -> None:
    whole = say(llama, QUESTION)
    word = whole.split()[2]
    stopped = llama.chat("smollm2", QUESTION, options={**GREEDY, "stop": [word]})
    assert stopped.message.content == whole[: whole.index(word)] and stopped.done_reason == "stop"
    sampled = {"temperature": 1.0, "seed": 3, "top_k": 30, "top_p": 0.9, "min_p": 0.02}
    penalties = {"presence_penalty": 0.5, "frequency_penalty": 0.2}
    assert say(llama, QUESTION, **sampled, **penalties, repeat_penalty=1.2) == chat_answer(
        client,
        QUESTION,
        temperature=1.0,
        top_p=0.9,
        seed=3,
        **penalties,
        extra_body={"top_k": 30, "min_p": 0.02, "repetition_penalty": 1.2},
    )
    narrow = llama.chat("smollm2", QUESTION, options={"num_ctx": 50, "num_predict": -1})
    assert narrow.prompt_eval_count + narrow.eval_count <= 50
    hints = {"num_gpu": 1, "num_thread": 2, "use_mmap": True, "num_batch": 512}
    assert say(llama, QUESTION, **hints, num_predict=4)


def test_logprobs(llama: ollama.Client) -> None:
    reply = llama.chat("smollm2", QUESTION, options=GREEDY, logprobs=True, top_logprobs=2)
    assert len(reply.logprobs) == reply.eval_count
    assert all(len(entry.top_logprobs) == 2 for entry in reply.logprobs)
    flowed = llama.chat(
        "smollm2", QUESTION, options=GREEDY, logprobs=True, top_logprobs=2, stream=True
    )
    assert [entry for record in flowed for entry in record.logprobs or ()] == reply.logprobs


def test_what_clients_ask_first(llama: ollama.Client, server: RunningServer) -> None:
    (model,) = llama.list().models
    assert model.model == "smollm2" and model.size and model.modified_at
    shown = llama.show("smollm2")
    assert shown.capabilities == ["completion"] and "{%" in (shown.template or "")
    assert shown.modelinfo["llama.context_length"] == 2048
    assert llama.ps().models[0].context_length == 2048
    assert server.http.get("/api/version").json().keys() == {"version"}
    for reply in (llama.generate("smollm2"), llama.chat("smollm2")):
        assert reply.done and reply.done_reason == "load"
    for now in (0, 0.0, "0", "0s"):
        for reply in (
            llama.generate("smollm2", keep_alive=now),
            llama.chat("smollm2", keep_alive=now),
        ):
            assert reply.done and reply.done_reason == "unload"
    for later in (5, -1, "5m"):
        assert llama.generate("smollm2", keep_alive=later).done_reason == "load"


USER = QUESTION[0]
TABLE: list[tuple[str, dict[str, Any], int, str]] = [
    ("chat", {"model": "llama3"}, 404, "`llama3` does not exist"),
    ("chat", {"tools": [{"type": "function"}]}, 400, "tools is not supported"),
    ("chat", {"format": "xml"}, 400, "format must be"),
    ("chat", {"think": True}, 400, "think: this model does not think"),
    ("chat", {"messages": [{**USER, "images": ["aGk="]}]}, 400, "messages[0].images is not"),
    ("chat", {"messages": [{**USER, "colour": "x"}]}, 400, "messages[0].colour is unknown"),
    ("chat", {"messages": [{"role": "tool", "content": ""}]}, 400, "messages[0].role must be"),
    ("chat", {"options": {"num_ctx": 4096}}, 400, "options.num_ctx must be at least 1 and at most"),
    ("chat", {"options": {"num_ctx": 5}}, 400, "the context length is 5 tokens"),
    ("chat", {"options": {"num_predict": 0}}, 400, "options.num_predict must be at least 1"),
    (
        "chat",
        {"options": {"repeat_penalty": 0}},
        400,
        "options.repeat_penalty must be at least 1e-06",
    ),
    ("chat", {"options": {"top_p": 2}}, 400, "options.top_p must be above 0"),
    ("chat", {"options": {"mirostat": 2}}, 400, "options: mirostat is not supported"),
    ("chat", {"options": {"temprature": 2}}, 400, "did you mean 'temperature'"),
    ("chat", {"options": {"seed": "x"}}, 400, "options: seed: expected int"),
    ("generate", {"suffix": "x"}, 400, "suffix is not supported"),
    ("generate", {"images": ["aGk="]}, 400, "images is not supported"),
    ("generate", {"template": "{{ .Prompt }}"}, 400, "template is not supported"),
    ("generate", {"context": [1, 2]}, 400, "context is not supported"),
    ("generate", {"raw": True, "system": "x"}, 400, "system has no place in a raw prompt"),
]


@pytest.mark.parametrize(("path", "change", "status", "part"), TABLE)
def test_errors_name_the_field(
    server: RunningServer, path: str, change: dict[str, Any], status: int, part: str
) -> None:
    body = {"messages": QUESTION} if path == "chat" else {"prompt": "hi"}
    response = server.http.post(f"/api/{path}", json={**body, **change})
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"} and part in response.json()["error"]


def test_errors_have_the_clients_class(llama: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="does not exist") as caught:
        llama.chat("llama3", QUESTION)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="think"):
        list(llama.chat("smollm2", QUESTION, think=True, stream=True))
