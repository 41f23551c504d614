"""``LLM`` gives the server's answers, without a server."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from running_server import MODEL, RunningServer, start_server

import legato
from legato import LLM, RequestError, SamplingParams
from legato.answer import Piece
from legato.asking import completion_prompt

QUESTION: list[dict[str, Any]] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(MODEL, kv_cache_memory=300_000_000, max_model_len=2048)


def test_generate_takes_texts_and_token_ids(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=8)
    text = "The capital of France is"
    ids = llm.tokenizer.encode(text)
    one, two, three = llm.generate([text, ids, "One, two,"], params, use_tqdm=False)
    assert one.prompt == two.prompt == text and one.prompt_token_ids == ids
    assert one.outputs[0].text == two.outputs[0].text != three.outputs[0].text
    assert "Paris" in one.outputs[0].text
    assert len(one.outputs[0].token_ids) == 8 and one.outputs[0].finish_reason == "length"
    alone = llm.generate(text, params)
    assert alone[0].outputs == one.outputs
    assert llm.generate([], params) == []


def test_a_prediction_saves_steps_and_changes_nothing(llm: LLM) -> None:
    params = SamplingParams(temperature=0.9, seed=4, max_tokens=60)
    plain = llm.generate("Once upon a time", params, use_tqdm=False)[0]
    known = plain.outputs[0].text
    before = llm._engine.stats().steps
    told = llm.generate("Once upon a time", params, prediction=known, use_tqdm=False)[0]
    assert told.outputs == plain.outputs
    assert llm._engine.stats().steps - before < 40
    with pytest.raises(RequestError, match="the prediction has") as refused:
        llm.generate("Once", params, prediction="word " * 3000)
    assert refused.value.field == "prediction"


def test_vllms_forms(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=4, logprobs=1)
    text = "The capital of France is"
    ids = llm.get_tokenizer().encode(text)
    given: list[Any] = [{"prompt": text}, {"prompt_token_ids": ids}, tuple(ids), np.array(ids)]
    outputs = llm.generate(given, sampling_params=params, use_tqdm=False)
    assert all(output.outputs == outputs[0].outputs and output.finished for output in outputs)
    [answer] = outputs[0].outputs
    chosen = [next(iter(entry.values())).logprob for entry in answer.logprobs or []]
    assert answer.cumulative_logprob == sum(chosen) < 0
    [reply] = llm.chat(QUESTION, sampling_params=SamplingParams(max_tokens=1), use_tqdm=False)
    assert reply.outputs[0].cumulative_logprob is None


@pytest.mark.parametrize(
    ("prompts", "options", "field"),
    [
        ("a", {"sampling_params": {"temperature": 0}}, "sampling_params"),
        (["a", "b"], {"sampling_params": []}, "sampling_params"),
        ("a", {"structured_outputs": "b"}, "structured_outputs"),
        ("a", {"structured_outputs": {"json_object": False}}, "structured_outputs.json_object"),
        ({"text": "a"}, {}, "prompts"),
        (["a", "\ud800"], {}, "prompts"),
    ],
)
def test_what_generate_refuses_by_name(
    llm: LLM, prompts: Any, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(RequestError, match=field) as refused:
        llm.generate(prompts, use_tqdm=False, **options)
    assert refused.value.field == field


def test_what_chat_refuses_by_name(llm: LLM) -> None:
    wrong: list[Any] = [QUESTION[0], "Hi", [{"role": "user", "content": "\ud800"}]]
    for messages in wrong:
        with pytest.raises(RequestError) as refused:
            llm.chat(messages, use_tqdm=False)
        assert refused.value.field == "messages"


def test_texts_go_on_for_16_tokens_unless_one_says_how_far(llm: LLM) -> None:
    """As over HTTP; chats, and a ``Prompt``, go on to their end."""
    silent = SamplingParams(temperature=0, ignore_eos=True)
    for params in (silent, None):
        [output] = llm.generate("Once upon a time", params, use_tqdm=False)
        assert len(output.outputs[0].token_ids) == 16
    ids = llm.tokenizer.encode("Once upon a time")
    assert token_ids(llm.stream("Once upon a time", silent)) == token_ids(llm.stream(ids, silent))
    assert len(token_ids(llm.stream(ids, silent))) == 16
    endless = llm.stream(completion_prompt(llm.tokenizer, ids), silent)
    assert len(token_ids(itertools.islice(endless, 20))) == 20
    endless.close()
    [reply] = llm.chat(QUESTION, SamplingParams(ignore_eos=True, stop_token_ids=[30], seed=1))
    assert reply.outputs[0].finish_reason == "stop"


def test_params_for_each_prompt(llm: LLM) -> None:
    each = [SamplingParams(max_tokens=1), SamplingParams(max_tokens=2, n=2, logprobs=1)]
    first, second = llm.generate(["a", "b"], each, use_tqdm=False)
    assert len(first.outputs[0].token_ids) == 1 and first.outputs[0].logprobs is None
    assert [len(output.token_ids) for output in second.outputs] == [2, 2]
    shown = second.outputs[1]
    for entry, token in zip(shown.logprobs or [], shown.token_ids, strict=True):
        assert next(iter(entry)) == token and all(chance.logprob <= 0 for chance in entry.values())
    with pytest.raises(RequestError, match="2 prompts, but 1 sampling_params"):
        llm.generate(["a", "b"], each[:1])


def test_chat_continues_the_assistant(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=16)
    begun = [*QUESTION, {"role": "assistant", "content": "According to "}]
    output = llm.chat(begun, params, use_tqdm=False)[0]
    assert output.prompt.endswith("According to ")
    new_turn, whole = (
        llm.chat(messages, params, use_tqdm=False, add_generation_prompt=True)[0]
        for messages in (begun, QUESTION)
    )
    assert "According to <|im_end|>" in new_turn.prompt
    both = llm.chat([QUESTION, begun], params, use_tqdm=False)
    assert [o.outputs[0].text for o in both] == [whole.outputs[0].text, output.outputs[0].text]


def test_stop_and_stream(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=20)
    prompt = llm.chat_prompt(QUESTION)
    whole = "".join(piece.text for piece in llm.stream(prompt, params))
    assert whole == llm.chat(QUESTION, params, use_tqdm=False)[0].outputs[0].text
    stop = whole[5:9]
    *_, last = llm.stream(prompt, SamplingParams(temperature=0, max_tokens=20, stop=[stop]))
    assert (last.finish_reason, last.stop_reason) == ("stop", stop)
    stream = llm.stream(prompt, params)
    next(stream)
    stream.close()
    assert len(llm.generate(["a"], params, use_tqdm=False)[0].outputs[0].token_ids) <= 20


def token_ids(stream: Iterable[Piece]) -> list[int]:
    return [token for piece in stream for token in piece.token_ids]


@pytest.mark.timeout(60)
def test_streams_may_be_read_in_turns(llm: LLM) -> None:
    """Each gives what it gives alone, and a stop string that is seen late still ends it."""
    prompts = [llm.chat_prompt(QUESTION), completion_prompt(llm.tokenizer, "Once upon a time")]
    params = [SamplingParams(temperature=0.8, seed=3, max_tokens=most) for most in (12, 40)]
    alone = [token_ids(llm.stream(*each)) for each in zip(prompts, params, strict=True)]
    streams = [llm.stream(*each) for each in zip(prompts, params, strict=True)]
    pieces = list(itertools.zip_longest(*streams))
    assert [token_ids(filter(None, column)) for column in zip(*pieces, strict=True)] == alone
    stop = llm.tokenizer.decode(alone[1][3:5])
    stopping = llm.stream(prompts[1], SamplingParams(temperature=0.8, seed=3, stop=[stop]))
    text = next(stopping).text
    assert token_ids(llm.stream(prompts[1], params[1])) == alone[1]
    text += "".join(piece.text for piece in stopping)
    assert text == llm.tokenizer.decode(alone[1][:3])
    assert llm._shared.is_idle


@pytest.mark.timeout(60)
def test_other_calls_between_the_pieces_of_a_stream_take_nothing_from_it(llm: LLM) -> None:
    prompt, params = llm.chat_prompt(QUESTION), SamplingParams(temperature=0, max_tokens=12)
    alone = token_ids(llm.stream(prompt, params))
    expected = llm.generate("Once", params, use_tqdm=False)[0].outputs
    pieces = []
    for piece in llm.stream(prompt, params):
        pieces.append(piece)
        assert llm.generate("Once", params, use_tqdm=False)[0].outputs == expected
        with pytest.raises(RequestError):
            llm.generate([[1], []], params, use_tqdm=False)
    assert token_ids(pieces) == alone


@pytest.mark.timeout(60)
def test_a_stream_that_is_closed_leaves_nothing_behind(llm: LLM) -> None:
    prompt, endless = llm.chat_prompt(QUESTION), SamplingParams(ignore_eos=True, n=2)
    closed, other = (llm.stream(prompt, endless) for _ in range(2))
    for stream in (closed, other, other, other):
        next(stream)
    closed.close()
    assert len(llm._shared._arrived) == 1
    next(other)
    other.close()
    assert llm._shared.is_idle
    assert llm._engine.stats().blocks_used == 0


@pytest.mark.timeout(120)
def test_threads_may_share_one(llm: LLM) -> None:
    """Each gets its own answers, whoever steps, and nobody waits for another's end."""
    params = SamplingParams(temperature=0, max_tokens=12)
    texts = [f"Topic {index}: the" for index in range(4)]
    alone = [llm.generate(text, params, use_tqdm=False)[0].outputs for text in texts]
    endless = SamplingParams(ignore_eos=True, max_tokens=1000)
    long = llm.stream("Once", endless)
    begun = threading.Event()

    def read_on() -> int:
        count = 0
        while not all(one.done() for one in asked):
            next(long)
            count += 1
            begun.set()
        long.close()
        return count

    def ask(text: str) -> list[Any]:
        assert begun.wait(60)
        return [llm.generate(text, params, use_tqdm=False)[0].outputs for _ in range(5)]

    with ThreadPoolExecutor(5) as threads:
        asked = [threads.submit(ask, text) for text in texts]
        read = threads.submit(read_on)
        assert [one.result() for one in asked] == [[outputs] * 5 for outputs in alone]
        assert read.result() > 0  # StopIteration, if the others had waited for its end
    assert llm._shared.is_idle
    llm._engine.check_integrity()


def test_an_interrupt_leaves_a_usable_engine(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=16)
    expected = llm.generate("Once upon a time", params, use_tqdm=False)[0].outputs
    endless = SamplingParams(ignore_eos=True, max_tokens=1000)
    for delay in (0.05, 0.1, 0.15):
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            llm.generate(["a", "b", "c"], endless, use_tqdm=False)
        llm._engine.check_integrity()
    assert llm.generate("Once upon a time", params, use_tqdm=False)[0].outputs == expected


def test_the_server_gives_the_same_answers(server: RunningServer, llm: LLM) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    params = SamplingParams(temperature=0.9, top_p=0.9, seed=7, n=2, max_tokens=12, logprobs=2)
    reply = client.completions.create(
        model=MODEL, prompt="Once upon a time", temperature=0.9, top_p=0.9, seed=7, n=2,
        max_tokens=12, logprobs=2,
    )  # fmt: skip
    output = llm.generate("Once upon a time", params, use_tqdm=False)[0]
    assert [o.text for o in output.outputs] == [choice.text for choice in reply.choices]
    for ours, theirs in zip(output.outputs, reply.choices, strict=True):
        logprobs = [next(iter(entry.values())).logprob for entry in ours.logprobs or []]
        assert logprobs == theirs.logprobs.token_logprobs
    begun = [*QUESTION, {"role": "assistant", "content": "It is "}]
    chat = client.chat.completions.create(model=MODEL, messages=begun, temperature=0, max_tokens=12)
    ours = llm.chat(begun, SamplingParams(temperature=0, max_tokens=12), use_tqdm=False)[0]
    assert ours.outputs[0].text == chat.choices[0].message.content


def test_requests_without_a_seed_repeat_as_a_sequence() -> None:
    """A fresh LLM and a fresh server with the same ``seed`` draw the same seeds in order."""
    settings = {"kv_cache_memory": 100_000_000, "max_model_len": 512}
    llm = LLM(MODEL, seed=5, **settings)
    params = SamplingParams(max_tokens=6)
    ours = [llm.generate("Once", params, use_tqdm=False)[0].outputs[0].text for _ in range(3)]
    fresh = start_server(
        MODEL, "--seed", "5", "--kv-cache-memory", "100MB", "--max-model-len", "512"
    )
    try:
        body = {"prompt": "Once", "max_tokens": 6, "temperature": 1.0}
        replies = [httpx.post(f"{fresh.url}/v1/completions", json=body).json() for _ in range(3)]
    finally:
        fresh.process.terminate()
        fresh.process.wait(20)
    assert ours == [reply["choices"][0]["text"] for reply in replies]
    assert len(set(ours)) > 1


def test_the_public_names() -> None:
    assert sorted(legato.__all__) == [
        "CompletionOutput",
        "ConfigError",
        "ContextLengthError",
        "EngineDeadError",
        "EngineError",
        "LLM",
        "LegatoError",
        "ModelError",
        "RequestError",
        "RequestOutput",
        "SamplingParams",
        "UnsupportedModelError",
        "__version__",
    ]
    for name in legato.__all__:
        assert getattr(legato, name) is not None
    with pytest.raises(AttributeError):
        legato.nothing  # noqa: B018


def test_importing_legato_is_light() -> None:
    program = "import sys, legato; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    modules = set(loaded.stdout.split())
    assert "legato" in modules
    assert not modules & {"numpy", "msgspec", "starlette", "tokenizers", "rich", "legato.llm"}


def test_structured_outputs_begin_in_the_middle(llm: LLM) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    }
    begun = [
        {"role": "user", "content": "The capital of France, as JSON."},
        {"role": "assistant", "content": '{"ci'},
    ]
    params = SamplingParams(temperature=0, max_tokens=30)
    (output,) = llm.chat(begun, params, structured_outputs={"json": schema}, use_tqdm=False)
    assert json.loads('{"ci' + output.outputs[0].text)["city"]
    with pytest.raises(RequestError, match="character 2"):
        broken = [begun[0], {"role": "assistant", "content": '{"x'}]
        llm.chat(broken, params, structured_outputs={"json": schema}, use_tqdm=False)
    with pytest.raises(RequestError, match="one of the keys"):
        llm.generate("a", params, structured_outputs={"xml": "a"}, use_tqdm=False)
    (chosen,) = llm.generate(
        "Is the sky blue?", params, structured_outputs={"choice": [" yes", " no"]}, use_tqdm=False
    )
    assert chosen.outputs[0].text in (" yes", " no")
    assert chosen.outputs[0].finish_reason == "stop"
