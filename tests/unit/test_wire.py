"""Both ends of a wire, over a real pair of sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import msgspec
import pytest

from legato.wire import Wire


class Note(msgspec.Struct):
    text: str


Notes = Wire[Note]


@pytest.fixture
def ends() -> Iterator[tuple[Notes, Notes]]:
    one, other = (Notes(end, Note) for end in socket.socketpair())
    yield one, other
    one.close()
    other.close()


def test_messages_arrive_whole_and_in_order(ends: tuple[Notes, Notes]) -> None:
    one, other = ends
    texts = ["", "a", "b" * 300_000, "é\n", *map(str, range(1000))]
    reader = threading.Thread(target=lambda: got.extend(other.receive().text for _ in texts))
    got: list[str] = []
    reader.start()
    for text in texts:
        one.send(Note(text))
    while not one.flush():
        time.sleep(0.001)
    reader.join(10)
    assert got == texts


def test_who_sends_never_waits_for_who_reads(ends: tuple[Notes, Notes]) -> None:
    one, other = ends
    assert one.send(Note("small"))
    assert not one.send(Note("x" * 10_000_000))
    assert not one.send(Note("y"))
    got = [other.receive().text]
    while not one.flush():  # as often as the kernel takes some, the other end must take it too
        other.has_message()
    got += [other.receive().text, other.receive().text]
    assert got == ["small", "x" * 10_000_000, "y"]


def test_waiting_sends_what_is_left(ends: tuple[Notes, Notes]) -> None:
    one, other = ends
    one.send(Note("x" * 10_000_000))
    answers = threading.Thread(target=lambda: other.send(Note(str(len(other.receive().text)))))
    answers.start()
    assert one.receive().text == "10000000"
    answers.join(10)


@pytest.mark.parametrize("milliseconds", [0, 30])
def test_half_a_message_is_none(ends: tuple[Notes, Notes], milliseconds: int) -> None:
    whole = bytes(ends[0]._encoder.encode(Note("abc")))
    raw, end = socket.socketpair()
    wire = Notes(end, Note)
    for byte in len(whole).to_bytes(4, "little") + whole:
        assert not wire.has_message(milliseconds)
        raw.send(bytes([byte]))
    assert wire.has_message(milliseconds) and wire.receive() == Note("abc")
    raw.close()
    wire.close()


def test_last_words_are_heard_before_the_end(ends: tuple[Notes, Notes]) -> None:
    one, other = ends
    other.send(Note("never read"))
    one.send(Note("last"))
    one.close()
    assert other.receive() == Note("last")
    with pytest.raises(ConnectionError):
        other.has_message(None)
    with pytest.raises(ConnectionError):
        other.send(Note("to nobody"))


def test_closing_delivers(ends: tuple[Notes, Notes]) -> None:
    one, other = ends
    one.send(Note("x" * 10_000_000))
    closes = threading.Thread(target=lambda: one.close(10))
    closes.start()
    assert len(other.receive().text) == 10_000_000
    closes.join(10)


def test_closing_waits_no_longer_than_it_is_told(ends: tuple[Notes, Notes]) -> None:
    ends[0].send(Note("x" * 10_000_000))
    started = time.monotonic()
    ends[0].close(0.05)
    assert 0.05 <= time.monotonic() - started < 5
