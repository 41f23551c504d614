"""An answer that is cut and continued is the answer that was not cut: over HTTP, on the real model."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from running_server import RunningServer

QUESTION = {"role": "user", "content": "Write two sentences about the sea, with a number in each."}
SAMPLED: dict[str, Any] = {"temperature": 1.0, "seed": 7, "max_tokens": 40, "logprobs": True}


def chat(server: RunningServer, given: str | None = None, **fields: Any) -> dict[str, Any]:
    messages = [QUESTION] if given is None else [QUESTION, {"role": "assistant", "content": given}]
    reply = httpx.post(
        f"{server.url}/v1/chat/completions", json={"messages": messages, **fields}, timeout=60
    )
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def tokens(reply: dict[str, Any], choice: int = 0) -> list[tuple[str, float]]:
    """The tokens with their log-probabilities: equal only if the bits are."""
    entries = reply["choices"][choice]["logprobs"]["content"]
    return [(entry["token"], entry["logprob"]) for entry in entries]


def text(reply: dict[str, Any], choice: int = 0) -> str:
    content: str = reply["choices"][choice]["message"]["content"]
    return content


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"presence_penalty": 1.5, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
        {"top_p": 0.9, "top_k": 50, "min_p": 0.01},
        {"min_tokens": 30, "stop": ["."]},
    ],
    ids=["plain", "penalties", "filters", "min_tokens, stop"],
)
def test_a_sampled_answer_goes_on_from_any_token(
    server: RunningServer, params: dict[str, Any]
) -> None:
    """With the same seed: the tokens and their log-probabilities, bit for bit."""
    asked = SAMPLED | params
    whole = chat(server, **asked)
    spoken = tokens(whole)
    assert text(whole) == "".join(token for token, _ in spoken)[: len(text(whole))]
    for cut in range(1, len(spoken), 3):
        given = "".join(token for token, _ in spoken[:cut])
        if "\ufffd" in given or not text(whole).startswith(given):
            continue
        rest = chat(server, given, **asked | {"max_tokens": 40 - cut})
        assert given + text(rest) == text(whole)
        assert tokens(rest) == spoken[cut:]
        cached = rest["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert rest["usage"]["prompt_tokens"] - cached <= 16


def test_a_greedy_answer_goes_on_from_any_character(server: RunningServer) -> None:
    """A salt of its own keeps the continuation from finding the answer in cache and memory."""
    whole = text(chat(server, temperature=0, max_tokens=40))
    for cut in range(1, len(whole), 2):
        given = whole[:cut]
        for salt in ({}, {"cache_salt": f"character {cut}"}):
            rest = text(chat(server, given, temperature=0, max_tokens=5, **salt))
            shorter = min(len(rest), len(whole) - cut)
            assert rest[:shorter] == whole[cut:][:shorter] != "", (given[-10:], rest)


def test_choices_are_healed_one_by_one(server: RunningServer) -> None:
    given = "The sea covers 71 perc"
    reply = chat(server, given, **SAMPLED | {"n": 4, "max_tokens": 12, "echo": True})
    texts = [text(reply, choice) for choice in range(4)]
    assert all(words.startswith(given) for words in texts) and len(set(texts)) > 1
    for choice in range(4):
        assert reply["choices"][choice]["finish_reason"] in ("length", "stop")
        spelled = "".join(token for token, _ in tokens(reply, choice))
        assert spelled.endswith(texts[choice][len(given) :])
        assert 1 <= len(tokens(reply, choice)) <= 12  # what only spells given text is not counted


def test_streamed_is_the_same(server: RunningServer) -> None:
    given = "The sea covers 71 perc"
    whole = text(chat(server, given, temperature=0, max_tokens=12))
    body = {
        "messages": [QUESTION, {"role": "assistant", "content": given}],
        "temperature": 0,
        "max_tokens": 12,
        "stream": True,
    }
    pieces = []
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                pieces += [c["delta"].get("content", "") for c in json.loads(line[6:])["choices"]]
    assert "".join(pieces) == whole and whole[0].isalpha()


def test_without_healing_the_tokens_are_the_tokenizers(server: RunningServer) -> None:
    given = "The sea covers 71 perc"
    fields = {"temperature": 0, "max_tokens": 12, "return_token_ids": True, "cache_salt": "new"}
    plain = chat(server, given, token_healing=False, **fields)
    healed = chat(server, given, **fields | {"cache_salt": "newer"})
    assert text(healed) != text(plain)
    assert healed["prompt_token_ids"] == plain["prompt_token_ids"]


def test_a_stop_string_that_begins_in_what_was_given(server: RunningServer) -> None:
    whole = text(chat(server, temperature=0, max_tokens=40))
    middle = len(whole) // 2
    stop = whole[middle - 4 : middle + 4]
    rest = chat(server, whole[:middle], temperature=0, max_tokens=40, stop=[stop])
    assert rest["choices"][0]["finish_reason"] == "stop"
    assert rest["choices"][0]["stop_reason"] == stop


def complete(server: RunningServer, prompt: Any, **fields: Any) -> dict[str, Any]:
    reply = httpx.post(
        f"{server.url}/v1/completions", json={"prompt": prompt, **fields}, timeout=60
    )
    assert reply.status_code == 200, reply.text
    choice: dict[str, Any] = reply.json()["choices"][0]
    return choice


def test_offsets_of_a_healed_token(server: RunningServer) -> None:
    """The first token began before the cut, and its offset says so."""
    prompt = "Red, blue and yellow are the three prim"
    choice = complete(server, prompt, temperature=0, max_tokens=6, logprobs=1)
    logprobs = choice["logprobs"]
    assert logprobs["tokens"][0] == " primary" and logprobs["text_offset"][0] == -len(" prim")
    spelled = "".join(logprobs["tokens"])
    assert spelled == " prim" + choice["text"]
    ends = [
        offset + len(token)
        for offset, token in zip(logprobs["text_offset"], logprobs["tokens"], strict=True)
    ]
    assert ends[:-1] == logprobs["text_offset"][1:] and ends[-1] == len(choice["text"])


def test_a_sampled_completion_goes_on_too(server: RunningServer) -> None:
    """Draws are keyed by the position in the whole text, so nobody needs to say where it began."""
    asked = {"temperature": 1.0, "seed": 3, "logprobs": 0}
    prompt = "The old house at the end of the street"
    whole = complete(server, prompt, max_tokens=30, **asked)
    spoken = whole["logprobs"]["tokens"]
    for cut in range(1, 30, 4):
        given = "".join(spoken[:cut])
        if "\ufffd" in given:
            continue
        rest = complete(server, prompt + given, max_tokens=30 - cut, **asked)
        assert given + rest["text"] == whole["text"]
        assert rest["logprobs"]["token_logprobs"] == whole["logprobs"]["token_logprobs"][cut:]


PENALISED: dict[str, Any] = {
    "temperature": 1.0,
    "seed": 5,
    "logprobs": 0,
    "frequency_penalty": 0.8,
    "presence_penalty": 0.4,
    "repetition_penalty": 1.3,
}


@pytest.mark.parametrize("is_cold", [False, True], ids=["remembered", "cold"])
def test_a_completion_that_says_where_its_answer_began_is_penalised_as_one(
    server: RunningServer, is_cold: bool
) -> None:
    """Whether its first request named the seam or not."""
    prompt = "The old house at the end of the str"
    whole = complete(server, prompt, max_tokens=30, **PENALISED)
    named = complete(server, prompt, max_tokens=30, seam=len(prompt), **PENALISED)
    assert named["text"] == whole["text"] and named["logprobs"] == whole["logprobs"]
    missed = 0
    for cut in range(1, len(whole["text"]), 3):
        given, asked = whole["text"][:cut], dict(PENALISED)
        if is_cold:
            asked["cache_salt"] = f"cold {cut}"
        rest = complete(server, prompt + given, max_tokens=30, seam=len(prompt), **asked)
        left = whole["text"][cut:]
        assert rest["text"][: len(left)] == left, cut
        unsaid = complete(server, prompt + given, max_tokens=30, **asked)
        missed += unsaid["text"][: len(left)] != left
    assert missed, "penalties make no difference here"


def test_token_ids_have_a_seam_too(server: RunningServer) -> None:
    asked = PENALISED | {"return_token_ids": True}
    ids = httpx.post(f"{server.url}/tokenize", json={"prompt": "The old house"}).json()["tokens"]
    whole = complete(server, ids, max_tokens=20, **asked)
    for cut in (1, 7, 19):
        given = ids + whole["token_ids"][:cut]
        rest = complete(server, given, max_tokens=20 - cut, seam=len(ids), **asked)
        assert rest["token_ids"] == whole["token_ids"][cut:]


def test_a_named_answer_counts_for_min_tokens_stop_strings_and_grammars(
    server: RunningServer,
) -> None:
    prompt, begun = "One, two, three,", " four, fi"
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "seam": len(prompt)}
    stopped = complete(server, prompt + begun, stop=["five"], **asked)
    assert stopped["finish_reason"] == "stop" and stopped["text"] == ""
    number = "[0-9]{3} times"
    fed = complete(server, "He called 1", guided_regex=number, **asked | {"seam": 10})
    assert re.fullmatch(number, "1" + fed["text"])
    broken = httpx.post(
        f"{server.url}/v1/completions",
        json={"prompt": "He called you", "guided_regex": number, "seam": 10},
    )
    assert broken.status_code == 400 and "character 0" in broken.json()["error"]["message"]


@pytest.mark.parametrize("seam", [-1, 8])
def test_a_seam_outside_the_prompt_is_refused(server: RunningServer, seam: int) -> None:
    reply = httpx.post(f"{server.url}/v1/completions", json={"prompt": "The sea", "seam": seam})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "seam" and "0..7" in reply.json()["error"]["message"]


def test_token_ids_are_taken_as_they_are(server: RunningServer) -> None:
    reply = httpx.post(f"{server.url}/tokenize", json={"prompt": "the three prim"}, timeout=60)
    ids = reply.json()["tokens"]
    by_ids = complete(server, ids, temperature=0, max_tokens=6)["text"]
    plain = complete(server, "the three prim", temperature=0, max_tokens=6, token_healing=False)
    healed = complete(server, "the three prim", temperature=0, max_tokens=6)
    assert by_ids == plain["text"] != healed["text"]
    assert healed["text"].startswith("ary ")


def test_an_answer_without_healing_changes_nobody_elses(server: RunningServer) -> None:
    """Its given words end in tokens that no model chose."""
    fields = {"temperature": 0, "max_tokens": 6, "cache_salt": "somebody's"}
    before = text(chat(server, "The three prim", **fields))
    plain = text(chat(server, "The three prim", token_healing=False, **fields))
    assert plain != before
    assert text(chat(server, "The three prim", **fields)) == before
    resumed = chat(server, "The three prim" + plain, **fields | {"max_tokens": 8})
    whole = chat(server, "The three prim", token_healing=False, **fields | {"max_tokens": 14})
    assert plain + text(resumed) == text(whole)
