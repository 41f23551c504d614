"""``legato chat``: a conversation in the terminal, where the answer's beginning can be yours."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing, suppress
from typing import TextIO

from legato.errors import RequestError
from legato.llm import LLM
from legato.request import SamplingParams
from legato.text.messages import Message
from legato.text.parting import given, parting_of

DIM, PLAIN = "\x1b[2m", "\x1b[0m"

HELP = """\
/prefill TEXT   the next answer begins with TEXT, and goes on from there
/retry          answer the last message once more
/continue       go on where the last answer stopped
/system TEXT    set the system message and start over
/quit           leave (so does ctrl-d); ctrl-c stops an answer"""


class ChatTerminal:
    """Reads lines, streams answers. ``messages`` is the conversation so far."""

    def __init__(
        self,
        llm: LLM,
        params: SamplingParams,
        system: str | None = None,
        *,
        read: Callable[[str], str] = input,
        out: TextIO = sys.stdout,
    ) -> None:
        self._llm = llm
        self._params = params
        self._read = read
        self._out = out
        self._prefill = ""
        self.messages: list[Message] = []
        self._start_over(system)
        self._commands: dict[str, Callable[[str], None]] = {
            "/prefill": self._set_prefill,
            "/retry": self._retry,
            "/continue": self._continue,
            "/system": self._start_over,
            "/help": lambda _: self._say(HELP),
        }

    def run(self) -> None:
        """Until /quit or the end of the input."""
        self._say(f"{self._llm.info.name}. /help shows the commands.")
        while True:
            try:
                line = self._read("> ")
            except EOFError:
                return
            except KeyboardInterrupt:
                self._say("")
                continue
            if line.strip() == "/quit":
                return
            try:
                self._obey(line)
            except RequestError as error:
                self._say(str(error))

    def _obey(self, line: str) -> None:
        name, _, text = line.partition(" ")
        if name in self._commands:
            self._commands[name](text)
        elif name.startswith("/"):
            self._say(f"{name}: no such command\n{HELP}")
        elif line.strip():
            self._answer([*self.messages, {"role": "user", "content": line}], self._take_prefill())

    def _set_prefill(self, text: str) -> None:
        """Keeps the text byte for byte: a space at its end matters to the model."""
        self._prefill = text
        if not text:
            self._say("the next answer begins freely")

    def _take_prefill(self) -> Message | None:
        prefill, self._prefill = self._prefill, ""
        return {"role": "assistant", "content": prefill} if prefill else None

    def _start_over(self, system: str | None) -> None:
        self.messages = [{"role": "system", "content": system}] if system else []

    def _retry(self, _: str) -> None:
        asked = self.messages[:-1] if self._ends_with("assistant") else self.messages
        if not asked or asked[-1]["role"] != "user":
            self._say("there is no message to answer")
        else:
            self._answer(asked, self._take_prefill())

    def _continue(self, _: str) -> None:
        if self._ends_with("assistant"):
            self._answer(self.messages[:-1], self.messages[-1])
        else:
            self._say("there is no answer to continue")

    def _ends_with(self, role: str) -> bool:
        return bool(self.messages) and self.messages[-1]["role"] == role

    def _answer(self, asked: list[Message], begun: Message | None) -> None:
        """Streams an answer that starts with ``begun``; ctrl-c ends it and keeps what is there.

        If it cannot be asked, the conversation stays as it was.
        """
        prompt = self._llm.chat_prompt([*asked, begun] if begun else asked)
        answer = {"content": "", "reasoning_content": ""}
        self._add(answer, *given(prompt, parting_of(prompt, self._llm.tokenizer)))
        with suppress(KeyboardInterrupt), closing(self._llm.stream(prompt, self._params)) as pieces:
            for piece in pieces:
                self._add(answer, piece.reasoning, piece.content)
                if piece.finish_reason == "length":
                    self._show(" [/continue goes on]")
        self._say("")
        said = {name: text for name, text in answer.items() if text or name == "content"}
        self.messages = [*asked, {"role": "assistant", **said}]

    def _add(self, answer: Message, reasoning: str, content: str) -> None:
        """Thoughts are dim, and the content stands apart from them."""
        if reasoning:
            self._show(DIM + reasoning + PLAIN if self._out.isatty() else reasoning)
        if content and answer["reasoning_content"] + reasoning and not answer["content"]:
            self._show("\n\n")
        self._show(content)
        answer["reasoning_content"] += reasoning
        answer["content"] += content

    def _show(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    def _say(self, line: str) -> None:
        self._show(line + "\n")
