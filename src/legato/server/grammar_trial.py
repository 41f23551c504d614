"""Grammars are tried in a process of their own before any other sees them.

``llguidance`` bounds most of what a grammar may cost, but not all: some take minutes to compile, and
long chains of rules overflow its stack, which ends the process. So that is what is tried here, with
little time, memory and stack. A grammar that passes is compiled again where it is used.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from functools import lru_cache

import msgspec

from legato.constraint.grammar import Grammar
from legato.constraint.spellings import Spellings
from legato.constraint.tokens import TokenTable
from legato.errors import EngineError, RequestError

CPU_SECONDS = 1.0
"""That compiling may take. It is done again for the check of the given text, and by the engine."""

WALL_SECONDS = 10.0
"""After which a trial is given up that gets no processor, or has not even started."""

MEMORY = 1 << 30
"""Bytes of address space; a trial without a grammar has about 200 MB."""

STACK = 1 << 20
"""Bytes: an eighth of what threads elsewhere have."""

REMEMBERED = 256
"""Grammars whose outcome is known."""


class GrammarTrial:
    """One process, started when it is first needed and again after each that a grammar has ended."""

    def __init__(self, table: TokenTable) -> None:
        self._greeting = msgspec.msgpack.encode(_thinned(table).spellings)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._outcomes: OrderedDict[str, str] = OrderedDict()

    def check(self, source: str, field: str) -> None:
        """Raises RequestError naming ``field`` if the grammar cannot be used."""
        try:
            source.encode()
        except UnicodeEncodeError:
            raise RequestError(f"{field} is not Unicode text", field) from None
        with self._lock:
            if source not in self._outcomes:
                self._outcomes[source] = self._outcome(source)
            self._outcomes.move_to_end(source)
            complaint = self._outcomes[source]
            while len(self._outcomes) > REMEMBERED:
                self._outcomes.popitem(last=False)
        if complaint:
            raise RequestError(f"{field}: {complaint}", field)

    def _outcome(self, source: str) -> str:
        """What is wrong with the grammar."""
        process = self._running()
        try:
            _write(process, source.encode())
            return _read(process).decode()
        except (EOFError, BrokenPipeError, TimeoutError):
            self.close()
            return f"the grammar is too complex: it needs more than {CPU_SECONDS:g} s, or memory"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            command = [sys.executable, "-m", "legato.server.grammar_trial"]
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for the server; the end of its input ends this
            )
            self._process = process
            try:
                _write(process, self._greeting)
                _read(process)
            except (EOFError, BrokenPipeError, TimeoutError) as error:
                self.close()
                raise EngineError("the process that tries grammars does not start") from error
        return self._process

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@lru_cache(maxsize=2)
def trial_of(table: TokenTable) -> GrammarTrial:
    return GrammarTrial(table)


def _thinned(table: TokenTable) -> TokenTable:
    """The same ids without the words: what grammars can name, and what is fast to load."""
    tokens = (table.token(id) for id in range(table.size))
    kept = [
        token if len(token) == 1 or id in table.special_ids else b""
        for id, token in enumerate(tokens)
    ]
    return TokenTable.of(kept, table.special_ids, table.eos_ids)


def _write(process: subprocess.Popen[bytes], message: bytes) -> None:
    assert process.stdin is not None
    left = memoryview(struct.pack("<I", len(message)) + message)
    while left:
        left = left[process.stdin.write(left) :]


def _read(process: subprocess.Popen[bytes]) -> bytes:
    """The next message. Raises EOFError if the process has ended, TimeoutError."""
    assert process.stdout is not None
    deadline = time.monotonic() + WALL_SECONDS
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


def _received() -> bytes | None:
    head = sys.stdin.buffer.read(4)
    return sys.stdin.buffer.read(struct.unpack("<I", head)[0]) if len(head) == 4 else None


def _reply(message: str) -> None:
    data = message.encode("utf-8", "replace")
    sys.stdout.buffer.write(struct.pack("<I", len(data)) + data)
    sys.stdout.buffer.flush()


def _serve() -> None:
    greeting = _received()
    if greeting is None:
        return
    table = TokenTable(msgspec.msgpack.decode(greeting, type=Spellings))
    Grammar.compile('start: "a"', table)
    _reply("")
    while (source := _received()) is not None:
        # The default action on the signal ends the process, whatever it is doing.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            Grammar.compile(source.decode(), table)
            complaint = ""
        except RequestError as error:
            complaint = str(error)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _reply(complaint)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(STACK)
    thread = threading.Thread(target=_serve)
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
