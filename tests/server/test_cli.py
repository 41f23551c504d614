"""The command line, as a process."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running_server import MODEL
from test_reasoning import OPENS

from legato import LLM, SamplingParams, __version__
from legato.chat_terminal import ChatTerminal

SMALL = ("--kv-cache-memory", "100MB", "--max-model-len", "512", "--temperature", "0")


def legato(*words: str, said: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "legato.cli", *words]
    return subprocess.run(command, input=said, capture_output=True, text=True, timeout=120)


def test_version_and_help() -> None:
    assert legato("--version").stdout == f"legato {__version__}\n"
    help = legato("--help").stdout
    for command in ("serve", "chat", "complete", "pull", "models", "bench"):
        assert command in help
    assert "--max-num-seqs" in legato("serve", "--help").stdout


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("serve", "no-such-model", "--port", "0"), "no-such-model"),
        (("serve", "--max-num-seqs", "0"), "max_num_seqs must be 1 to 65536, got 0"),
        (("complete", "hi", "--temperature", "-1"), "temperature must be at least 0"),
        (("serve", "~nobody-here/x.gguf", "--port", "0"), "~nobody-here/x.gguf: Could not determ"),
        (("serve", "--cache-dir", "~nobody-here/x", "--port", "0"), "~nobody-here/x: Could not"),
        (("complete", "hi", "--load-cache", "~nobody-here/x"), "~nobody-here/x: Could not determ"),
        (("serve", "x" * 300, "--port", "0"), "xxx: cannot be read: File name too long"),
        (("serve", "--otlp-traces-endpoint", "http://[bad"), "must be an http or https URL"),
        (("complete", "caf\udce9"), "the text is not UTF-8"),
    ],
)
def test_what_we_can_explain_is_one_line(words: tuple[str, ...], complaint: str) -> None:
    ended = legato(*words)
    assert ended.returncode == 1
    lines = [line for line in ended.stderr.splitlines() if line.startswith("legato: ")]
    assert len(lines) == 1 and complaint in lines[0]
    assert "Traceback" not in ended.stderr


def test_complete() -> None:
    ended = legato("complete", "The capital of France is", "--max-tokens", "4", *SMALL)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("The capital of France is Paris")
    piped = legato("complete", "-", "--max-tokens", "4", *SMALL, said="The capital of France is")
    assert piped.stdout == ended.stdout


def test_what_comes_on_standard_input_is_utf8() -> None:
    command = [sys.executable, "-m", "legato.cli", "complete", "-"]
    ended = subprocess.run(command, input=b"caf\xe9", capture_output=True, timeout=120)
    assert ended.returncode == 1
    assert (
        ended.stderr.startswith(b"legato: the text is not UTF-8") and ended.stderr.count(b"\n") == 1
    )


@pytest.mark.parametrize("words", [("models",), ("complete", "One, two,", *SMALL)])
def test_a_reader_that_leaves_is_no_error(words: tuple[str, ...]) -> None:
    """``legato models | head -1``"""
    command = [sys.executable, "-m", "legato.cli", *words]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.close()
    _, said = child.communicate(timeout=60)
    assert child.returncode == 141 and b"Error" not in said


def test_pull_and_models() -> None:
    pulled = legato("pull", MODEL)
    assert pulled.returncode == 0 and pulled.stdout.startswith(f"{MODEL}: ")
    assert MODEL in legato("models").stdout


def test_chat_in_a_process() -> None:
    said = "/prefill Paris is\nWhat is Paris?\n/quit\n"
    ended = legato("chat", "--max-tokens", "5", *SMALL, said=said)
    assert ended.returncode == 0, ended.stderr
    assert "> Paris is" in ended.stdout


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(MODEL, kv_cache_memory=100_000_000, max_model_len=512)


def converse(llm: LLM, *lines: str) -> tuple[ChatTerminal, str]:
    """What the terminal showed, and the conversation after it."""
    said = iter(lines)
    out = io.StringIO()

    def read(_: str) -> str:
        try:
            return next(said)
        except StopIteration:
            raise EOFError from None

    params = SamplingParams(temperature=0, max_tokens=6)
    terminal = ChatTerminal(llm, params, read=read, out=out)
    terminal.run()
    return terminal, out.getvalue()


def contents(terminal: ChatTerminal) -> list[Any]:
    return [message["content"] for message in terminal.messages]


def test_a_prefill_is_kept_byte_for_byte(llm: LLM) -> None:
    terminal, shown = converse(llm, "/prefill According to ", "Where is Paris?")
    question, answer = contents(terminal)
    assert question == "Where is Paris?" and answer.startswith("According to ")
    assert answer in shown and len(answer) > len("According to ")


def test_retry_answers_once_more(llm: LLM) -> None:
    once, _ = converse(llm, "Where is Paris?")
    twice, _ = converse(llm, "Where is Paris?", "/retry")
    assert contents(once) == contents(twice)
    other, _ = converse(llm, "Where is Paris?", "/prefill Well,", "/retry")
    assert len(other.messages) == 2 and contents(other)[1].startswith("Well,")


def test_continue_goes_on_where_it_stopped(llm: LLM) -> None:
    once, shown = converse(llm, "Tell me a story.")
    assert "[/continue goes on]" in shown
    more, _ = converse(llm, "Tell me a story.", "/continue")
    assert contents(more)[1].startswith(contents(once)[1])
    assert len(more.messages) == 2 and len(contents(more)[1]) > len(contents(once)[1])


def test_system_starts_over(llm: LLM) -> None:
    terminal, _ = converse(llm, "Hello", "/system Answer in French.", "Hello")
    assert [message["role"] for message in terminal.messages] == ["system", "user", "assistant"]


def test_mistakes_are_explained(llm: LLM) -> None:
    _, shown = converse(llm, "/what", "/retry", "/continue", "/help", "x " * 600)
    assert "/what: no such command" in shown
    assert "no message to answer" in shown and "no answer to continue" in shown
    assert "context length" in shown


def test_too_long_a_message_is_forgotten(llm: LLM) -> None:
    terminal, _ = converse(llm, "x " * 600, "Hello")
    assert contents(terminal)[0] == "Hello"


def test_thoughts_are_kept_apart(tmp_path: Path) -> None:
    template = tmp_path / "thinks.jinja"
    template.write_text(OPENS, encoding="utf-8")
    llm = LLM(MODEL, chat_template=str(template), kv_cache_memory=100_000_000, max_model_len=512)
    terminal, shown = converse(llm, "What is the capital of France?")
    answer = terminal.messages[-1]
    assert answer["content"] == "" and answer["reasoning_content"] in shown
    more, _ = converse(llm, "What is the capital of France?", "/continue")
    assert more.messages[-1]["reasoning_content"].startswith(answer["reasoning_content"])
    begun = {"role": "assistant", "content": "<think>\nOkay.\n</think>\n\nIt is"}
    question = {"role": "user", "content": "What is the capital of France?"}
    (reply,) = llm.chat([question, begun], SamplingParams(temperature=0, max_tokens=4))
    assert reply.outputs[0].content == reply.outputs[0].text
    (reply,) = llm.chat([question], SamplingParams(temperature=0, max_tokens=4))
    assert reply.outputs[0].reasoning and not reply.outputs[0].content
