"""Where an answer is cut, and what counts as its rest."""

from __future__ import annotations

from typing import Any

import pytest

from legato.bench.http_stream import Exchange
from legato.bench.seam_client import Reply
from legato.bench.seam_cuts import INSIDE, SPACE, WHOLE, Answer, Cut, Miss
from legato.bench.seam_questions import BEGINNINGS, QUESTIONS

PROMPT = [90, 91]


def reply(pieces: list[str], finish: str = "length", **fields: Any) -> Reply:
    """One token for each piece; the ids are 1, 2, 3 ... unless they are given."""
    fields.setdefault("token_ids", list(range(1, len(pieces) + 1)))
    fields.setdefault("prompt_token_ids", list(PROMPT))
    fields.setdefault("completion_tokens", len(pieces))
    arrivals = [0.1 * index for index in range(1, len(pieces) + 1)]
    return Reply(pieces, arrivals, [1] * len(pieces), finish_reason=finish, **fields)


def answer(*pieces: str, finish: str = "length", canonical: list[int] | None = None) -> Answer:
    return Answer(0, "?", reply([*pieces], finish), canonical or [])


def resumed(*pieces: str, given: list[int], new: list[int], finish: str = "length") -> Reply:
    return reply([*pieces], finish, token_ids=new, prompt_token_ids=PROMPT + given)


def test_every_place_with_a_rest_is_cut() -> None:
    assert answer("ab", "c d").places(1) == [1, 2, 3, 4]
    assert answer("ab", "c d", "", finish="stop").places(1) == [1, 2, 3, 4, 5]
    assert answer("ab", "c d").places(3) == [3]


def test_half_a_character_at_the_end_is_not_cut() -> None:
    assert answer("ab", "c\ufffd").text == "abc"


def test_kinds_and_room() -> None:
    given = answer("ab", " ", "", "é", " c")
    assert given.kinds(2) == [WHOLE]
    assert given.kinds(3) == [WHOLE, SPACE]
    assert given.kinds(1) == [INSIDE]
    assert given.kinds(5) == [INSIDE, SPACE]
    assert [given.tokens_before(place) for place in (1, 2, 3, 4, 5)] == [0, 1, 3, 4, 4]
    assert given.room(2) > given.room(5) > 1


@pytest.mark.parametrize(
    ("pieces", "finish", "exact"),
    [
        (["c", " d and more"], "length", True),
        (["c", " "], "length", False),
        (["c d"], "stop", True),
        (["C d"], "length", False),
    ],
)
def test_the_rest_of_an_answer_cut_off(pieces: list[str], finish: str, exact: bool) -> None:
    assert Cut(answer("ab", "c d"), 2, reply(pieces, finish)).exact is exact


@pytest.mark.parametrize(
    ("pieces", "finish", "exact"),
    [(["c d", ""], "stop", True), (["c d"], "length", False), (["c d!", ""], "stop", False)],
)
def test_an_answer_that_ended_ends_there(pieces: list[str], finish: str, exact: bool) -> None:
    ended = answer("ab", "c d", "", finish="stop")
    assert Cut(ended, 2, reply(pieces, finish)).exact is exact
    assert Cut(ended, 5, reply([""], "stop")).exact


@pytest.mark.parametrize(
    ("pieces", "finish", "settled"),
    [
        (["c"], "length", False),
        (["c", " d"], "length", False),
        (["x"], "length", True),
        (["c"], "stop", True),
        (["c", "\ufffd"], "length", False),
    ],
)
def test_a_few_tokens_settle_what_differs(pieces: list[str], finish: str, settled: bool) -> None:
    assert Cut(answer("ab", "c d", " e"), 2, reply(pieces, finish)).settled is settled


def test_causes() -> None:
    given = answer("ab", "cd", "ef", canonical=[1, 2, 3])
    assert "refused" in Cut(given, 2, Reply(error="400")).cause()
    other = resumed("x", given=[1, 7], new=[8])
    assert Cut(given, 3, other).cause() == "the token that was cut is another one"
    later = resumed("cd", "x", given=[1], new=[2, 8])
    assert Cut(given, 2, later).cause() == "another choice after the same tokens"
    before = resumed("x", given=[7], new=[8])
    assert "other tokens than the answer's" in Cut(given, 2, before).cause()
    odd = answer("ab", "cd", "ef", canonical=[7, 3])
    assert "not the canonical ones" in Cut(odd, 2, before).cause()
    short = resumed("c", given=[1], new=[8])
    assert "more tokens than were asked for" in Cut(given, 2, short).cause()
    half = answer("\ufffd", "cd", "ef")
    assert "half a character" in Cut(half, 2, later).cause()


def test_a_peer_that_tells_no_ids() -> None:
    silent = Answer(0, "?", reply(["ab", "cd"], token_ids=[]), [1, 2])
    assert silent.is_canonical
    assert Cut(silent, 3, reply(["x"], token_ids=[])).cause() == "cut inside a token"


def test_a_miss_shows_the_words_around_it() -> None:
    miss = Miss.of(Cut(answer("ab", "cd"), 2, resumed("cx", given=[1], new=[8])))
    assert (miss.before, miss.rest, miss.reply, miss.differs_after) == ("ab", "cd", "cx", 1)


def test_words_that_the_server_repeats_are_taken_off() -> None:
    repeated = reply(["abc", "d", "e"])
    repeated.forget("abcd")
    assert repeated.pieces == ["", "", "e"]
    repeated.forget("zz")
    assert repeated.text == "e"


def test_a_stream_is_read() -> None:
    events = (
        b'data: {"prompt_token_ids":[90],"choices":[{"delta":{"role":"assistant","content":""}}]}',
        b'data: {"choices":[{"delta":{"content":"Hi"},"token_ids":[5]}]}',
        b'data: {"choices":[{"delta":{"content":" you"},"token_ids":[6,7],"finish_reason":"length"}]}',
        b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":8}}}',
        b"data: [DONE]",
    )
    content = b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(event + b"\n\n" for event in events)
    read = Reply().read(Exchange(started=1.0, pieces=[(1.5, content)]))
    assert (read.text, read.boundaries, read.counts) == ("Hi you", [2, 6], [1, 2])
    assert (read.prompt_token_ids, read.token_ids) == ([90], [5, 6, 7])
    assert (read.recomputed, read.finish_reason, read.ttft) == (1, "length", 0.5)


def test_questions() -> None:
    assert len(set(QUESTIONS)) == len(set(BEGINNINGS)) == 20
