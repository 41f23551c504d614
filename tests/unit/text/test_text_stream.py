"""Streams: whatever way ids are chopped, the text is that of the whole; stop strings end it exactly."""

from __future__ import annotations

import corpus
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legato.text.stream import Delta, TextStream


class Letters:
    """A vocabulary of single bytes, a few words and one special token: enough for a stream."""

    WORDS = (b" the", b"\xe2\x82", b"\xac", b"\xf0\x9f", b"\x98\x80", b"ab", b"abc", b"<end>")
    special_ids = frozenset({263})

    def token_bytes(self, id: int) -> bytes:
        return bytes([id]) if id < 256 else self.WORDS[id - 256]

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        hidden = self.special_ids if skip_special_tokens else frozenset()
        return b"".join(self.token_bytes(id) for id in ids if id not in hidden).decode(
            "utf-8", "replace"
        )


IDS = st.lists(st.integers(0, 263) | st.integers(256, 263) | st.sampled_from(list(b"abc ")))


@st.composite
def chopped(draw: st.DrawFn) -> list[list[int]]:
    ids = draw(IDS)
    cuts = sorted(draw(st.lists(st.integers(0, len(ids)), max_size=8)))
    return [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]


def run(stream: TextStream, pieces: list[list[int]]) -> tuple[str, str | None]:
    """(everything given out, the stop string that ended it)."""
    text, stop = "", None
    for piece in pieces:
        delta = stream.push(piece)
        assert not (stop and delta.text), "text after the end"
        text += delta.text
        stop = stop or delta.stop
    delta = stream.finish()
    return text + delta.text, stop or delta.stop


def first_stop(text: str, stops: list[str], after: int = 0) -> tuple[int, int, str] | None:
    """The slow truth: (end, start, stop) of the match that is complete first, longest if tied."""
    for end in range(after + 1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return end, end - len(longest), longest
    return None


@given(chopped(), st.booleans())
def test_any_chopping_gives_the_whole_text(pieces: list[list[int]], skip: bool) -> None:
    letters = Letters()
    stream = TextStream(letters, skip_special_tokens=skip)
    whole = letters.decode([id for piece in pieces for id in piece], skip_special_tokens=skip)
    assert run(stream, pieces) == (whole, None)


@settings(max_examples=400)
@given(
    chopped(),
    st.lists(st.text("abc é€", min_size=1, max_size=4), min_size=1, max_size=3),
    st.text("abc €", max_size=5),
    st.booleans(),
)
def test_stop_strings_end_the_text_where_a_slow_search_says(
    pieces: list[list[int]], stops: list[str], prefill: str, include: bool
) -> None:
    letters = Letters()
    answer = letters.decode([id for piece in pieces for id in piece])
    stream = TextStream(letters, prefill=prefill, stop=stops, include_stop=include)
    found = first_stop(prefill + answer, stops, after=len(prefill))
    if found is None:
        expected = (answer, None)
    else:
        end, start, stop = found
        expected = ((prefill + answer)[len(prefill) : end if include else start], stop)
    assert run(stream, pieces) == expected


@given(chopped(), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3))
def test_only_what_might_begin_a_stop_is_held_back(
    pieces: list[list[int]], stops: list[str]
) -> None:
    stream = TextStream(Letters(), stop=stops)
    seen: list[int] = []
    given_out = ""
    for piece in pieces:
        delta = stream.push(piece)
        if delta.stop:
            return
        seen += piece
        given_out += delta.text
        whole = Letters().decode(seen).rstrip("\ufffd")  # half a character may be held back
        held = whole[len(given_out) :]
        assert whole.startswith(given_out.rstrip("\ufffd"))
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_half_a_character_is_never_given_out() -> None:
    stream = TextStream(Letters())
    assert stream.push([0xE2]).text == ""
    assert stream.push([0x82]).text == ""
    assert stream.push([0xAC]).text == "€"
    assert stream.push([0xF0, 0x9F]).text == ""
    assert stream.finish().text == "\ufffd"


def test_what_may_be_continued_ends_with_a_whole_character() -> None:
    for stops in ([], ["x"]):
        stream = TextStream(Letters(), stop=stops)
        assert stream.push([97, 0xF0, 0x9F]).text == "a"
        assert stream.finish(goes_on=True).text == ""


def test_a_leading_space_is_kept() -> None:
    assert TextStream(Letters()).push([256]).text == " the"


def test_special_tokens_are_hidden_or_shown() -> None:
    assert TextStream(Letters()).push([97, 263, 98]).text == "ab"
    assert TextStream(Letters(), skip_special_tokens=False).push([263]).text == "<end>"
    shown = TextStream(Letters(), skip_special_tokens=False, stop=["<end>"])
    assert shown.push([97, 263]) == Delta("a", "<end>")


def test_a_stop_may_begin_in_the_prefill() -> None:
    stream = TextStream(Letters(), prefill="one\n", stop=["\n\n"])
    assert stream.push([10]).stop == "\n\n"
    stream = TextStream(Letters(), prefill="one\n", stop=["\n\n"], include_stop=True)
    delta = stream.push([10])
    assert (delta.text, delta.stop) == ("\n", "\n\n")
    complete = TextStream(Letters(), prefill="all of it: abc", stop=["abc"])
    assert complete.push([97]).stop is None  # one that ends in the prefill is the client's own


@pytest.mark.parametrize("pieces", [[[97, 98], [99]], [[97], [98, 99]], [[97, 98, 99]]])
def test_a_stop_may_begin_in_the_least_tokens(pieces: list[list[int]]) -> None:
    """It ends behind them: what comes before is the client's already."""
    stream = TextStream(Letters(), stop=["bc", "b", "ab"], min_tokens=2)
    assert run(stream, pieces) == ("ab", "bc")


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_real_tokenizers_stream_their_own_text(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    for text in corpus.ALL_TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        for size in (1, 3):
            stream = TextStream(tokenizer, skip_special_tokens=False)
            pieces = [ids[start : start + size] for start in range(0, len(ids), size)]
            assert run(stream, pieces)[0] == tokenizer.decode(ids, skip_special_tokens=False)
