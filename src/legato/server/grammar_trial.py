"""Grammars are compiled in processes of their own before the engine sees them.

``llguidance`` bounds most of what a grammar may cost, but not all: some take minutes to compile, and
long chains of rules overflow its stack, which ends the process. So that is what is tried first, with
little time, memory and stack, and without the vocabulary's words, so that another process is there soon
where a grammar has ended one. What passes is compiled with the whole vocabulary, and fed what was given of
the answer, in a second process: both hold Python's lock for long, and in the server's own process
everybody would wait.
"""

from __future__ import annotations

import os
import select
import struct
import subprocess
import sys
import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

import msgspec

from legato.constraint.spellings import Spellings
from legato.errors import EngineError, RequestError

REMEMBERED = 256
"""Grammars whose outcome is known."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a process may need for one grammar. ``cpu_seconds``: of computing; ``wall_seconds``: after which it is
    given up although it gets no processor, or has not even started; ``memory``: bytes of address space,
    of which 200 MB are there without a grammar; ``stack``: bytes, threads elsewhere have 8 MB."""

    cpu_seconds: float
    wall_seconds: float
    memory: int
    stack: int = 1 << 20


FIRST = Limits(cpu_seconds=1.0, wall_seconds=10.0, memory=1 << 30)
WHOLE = Limits(cpu_seconds=4.0, wall_seconds=20.0, memory=2 << 30)


class Question(msgspec.Struct):
    """``begun``: what was given of the text."""

    source: str
    begun: bytes = b""


class Verdict(msgspec.Struct):
    """What is wrong with the grammar, or else with the text; "" if nothing."""

    grammar: str = ""
    text: str = ""


class GrammarProcess:
    """``legato.server.grammar_process``, started when it is first needed and again after each that a
    grammar has ended. ``spellings``: of the vocabulary, asked for with the first start."""

    def __init__(self, spellings: Callable[[], Spellings], limits: Limits) -> None:
        self.limits = limits
        self.process: subprocess.Popen[bytes] | None = None
        self._spellings = spellings
        self._greeting = b""
        self._lock = threading.Lock()

    def start(self) -> None:
        """Now, rather than when it is needed."""
        with self._lock, suppress(EngineError):
            self._running()

    def ask(self, question: Question) -> Verdict:
        with self._lock:
            process = self._running()
            try:
                send(process, msgspec.msgpack.encode(question))
                return msgspec.msgpack.decode(self._read(process), type=Verdict)
            except (EOFError, BrokenPipeError, TimeoutError):
                self.close()
        seconds = self.limits.cpu_seconds
        return Verdict(f"the grammar is too complex: it needs more than {seconds:g} s, or memory")

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            if not self._greeting:
                self._greeting = msgspec.msgpack.encode(self._spellings())
            process = subprocess.Popen(
                [sys.executable, "-m", "legato.server.grammar_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for the server; the end of its input ends this
            )
            self.process = process
            try:
                send(process, msgspec.msgpack.encode(self.limits))
                send(process, self._greeting)
                self._read(process)
            except (EOFError, BrokenPipeError, TimeoutError) as error:
                self.close()
                raise EngineError("the process that tries grammars does not start") from error
        return self.process

    def _read(self, process: subprocess.Popen[bytes]) -> bytes:
        """The next message. Raises EOFError if the process has ended, TimeoutError."""
        assert process.stdout is not None
        deadline = time.monotonic() + self.limits.wall_seconds
        data = b""
        while len(data) < 4 or len(data) < 4 + struct.unpack("<I", data[:4])[0]:
            pipe = process.stdout.fileno()
            if not select.select([pipe], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError
            some = os.read(pipe, 1 << 16)
            if not some:
                raise EOFError
            data += some
        return data[4:]

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def send(process: subprocess.Popen[bytes], message: bytes) -> None:
    assert process.stdin is not None
    left = memoryview(struct.pack("<I", len(message)) + message)
    while left:
        left = left[process.stdin.write(left) :]


class GrammarTrial:
    """Both processes. ``spellings``: of the whole vocabulary."""

    def __init__(self, spellings: Callable[[], Spellings]) -> None:
        self.first = GrammarProcess(lambda: thinned(spellings()), FIRST)
        self.whole = GrammarProcess(spellings, WHOLE)
        self._outcomes: OrderedDict[str, str] = OrderedDict()  # of grammars alone
        self._lock = threading.Lock()

    def check(self, source: str, field: str, begun: bytes = b"") -> None:
        """Raises RequestError naming ``field`` if the grammar cannot be used, or ``begun`` does not follow it."""
        try:
            source.encode()
        except UnicodeEncodeError:
            raise RequestError(f"{field} is not Unicode text", field) from None
        verdict = self._verdict(source, begun)
        if verdict.grammar:
            raise RequestError(f"{field}: {verdict.grammar}", field)
        if verdict.text:
            raise RequestError(verdict.text, field)

    def _verdict(self, source: str, begun: bytes) -> Verdict:
        known = self._known(source)
        if known is None:
            if self.whole.process is None:  # both take a moment to be there
                threading.Thread(target=self.whole.start, daemon=True).start()
            complaint = self.first.ask(Question(source)).grammar
            if complaint:
                return self._remember(source, complaint)
        elif known or not begun:
            return Verdict(known)
        verdict = self.whole.ask(Question(source, begun))
        if begun and verdict.grammar:  # the limits may have been met by the text
            return verdict
        return Verdict(self._remember(source, verdict.grammar).grammar, verdict.text)

    def _known(self, source: str) -> str | None:
        with self._lock:
            with suppress(KeyError):
                self._outcomes.move_to_end(source)
            return self._outcomes.get(source)

    def _remember(self, source: str, complaint: str) -> Verdict:
        with self._lock:
            self._outcomes[source] = complaint
            while len(self._outcomes) > REMEMBERED:
                self._outcomes.popitem(last=False)
        return Verdict(complaint)

    def close(self) -> None:
        self.first.close()
        self.whole.close()


def thinned(spellings: Spellings) -> Spellings:
    """The same ids without the words: what grammars can name, and what is fast to load."""
    special, data, start = {*spellings.special_ids}, spellings.data, 0
    kept = []
    for id, end in enumerate(array("i", spellings.ends)):
        kept.append(data[start:end] if end - start == 1 or id in special else b"")
        start = end
    return Spellings.of(kept, spellings.special_ids, spellings.eos_ids)
