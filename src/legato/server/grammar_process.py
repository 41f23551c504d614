"""The process in which grammars are compiled: ``python -m legato.server.grammar_process``.

Its input brings its limits, the vocabulary's spellings, then questions; its output an empty message when
it is there, then verdicts. It ends when its input does, and when a grammar meets a limit.
"""

from __future__ import annotations

import resource
import signal
import struct
import sys
import threading

import msgspec

from legato.constraint.grammar import Grammar, keep
from legato.constraint.spellings import Spellings
from legato.constraint.tokens import TokenTable
from legato.errors import RequestError
from legato.server.grammar_trial import Limits, Question, Verdict

KEPT = 16
"""Compiled grammars that are kept: they count for the next one's limit."""


def receive() -> bytes | None:
    head = sys.stdin.buffer.read(4)
    return sys.stdin.buffer.read(struct.unpack("<I", head)[0]) if len(head) == 4 else None


def reply(data: bytes) -> None:
    sys.stdout.buffer.write(struct.pack("<I", len(data)) + data)
    sys.stdout.buffer.flush()


def serve(limits: Limits) -> None:
    greeting = receive()
    if greeting is None:
        return
    table = TokenTable(msgspec.msgpack.decode(greeting, type=Spellings))
    keep(KEPT, table)
    Grammar.compile('start: "a"', table)
    reply(b"")
    while (message := receive()) is not None:
        question = msgspec.msgpack.decode(message, type=Question)
        # The default action on the signal ends the process, whatever it is doing.
        signal.setitimer(signal.ITIMER_PROF, limits.cpu_seconds)
        verdict = judged(question, table)
        signal.setitimer(signal.ITIMER_PROF, 0)
        reply(msgspec.msgpack.encode(verdict))


def judged(question: Question, table: TokenTable) -> Verdict:
    try:
        grammar = Grammar.compile(question.source, table)
    except RequestError as error:
        return Verdict(grammar=unicode(str(error)))
    try:
        grammar.feed(question.begun)
    except RequestError as error:
        return Verdict(text=unicode(str(error)))
    return Verdict()


def unicode(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def main() -> None:
    message = receive()
    if message is None:
        return
    limits = msgspec.msgpack.decode(message, type=Limits)
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(limits.stack)
    thread = threading.Thread(target=serve, args=(limits,))
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
