"""The command ``legato``. Flags of engine and server are the fields of their settings."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from legato import __version__
from legato.config import EngineConfig, ServerConfig
from legato.errors import LegatoError, RequestError
from legato.flags import add_flags, from_flags
from legato.log_format import set_up
from legato.request import SamplingParams

if TYPE_CHECKING:
    from legato.llm import LLM

Command = Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 for what we can explain in one line, 2 for a wrong command line, 130 ^C, and 141
    where nobody reads what we print."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["bench"]:
            return int(importlib.import_module("legato.bench").main(words[1:]) or 0)
        parsed = build_parser().parse_args(words)
        set_up("text", getattr(parsed, "log_level", "warning"))
        command: Command = parsed.command
        command(parsed)
        sys.stdout.flush()
    except LegatoError as error:
        print(f"legato: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes nowhere
        return 141
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="legato", description="Serve language models; every request is a continuation."
    )
    parser.add_argument("--version", action="version", version=f"legato {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    serving = _command(commands, "serve", serve, "answer over HTTP, as OpenAI's API does")
    _add_model(serving)
    add_flags(serving, EngineConfig, skip=("model",))
    add_flags(serving, ServerConfig)

    chatting = _command(commands, "chat", chat, "talk to a model in the terminal")
    _add_model(chatting)
    chatting.add_argument("--system", help="the system message")
    chatting.add_argument("--chat-template", help="file of a Jinja chat template to use instead")
    _add_sampling(chatting)
    add_flags(chatting, EngineConfig, skip=("model",))

    completing = _command(commands, "complete", complete, "continue a text")
    completing.add_argument("text", help="what to continue; - reads it from standard input")
    _add_sampling(completing, max_tokens=64)
    add_flags(completing, EngineConfig)

    rendering = _command(commands, "render", render, "show the prompt of a chat request, as JSON")
    rendering.add_argument("request", nargs="?", default="-", help="file; - reads standard input")
    rendering.add_argument("--model", help="short name, hub id, GGUF file or Hugging Face folder")
    rendering.add_argument("--template", help="file of a chat template; alone, no model is loaded")
    names = ("trust_request_chat_template", "assistant_prefill", "reasoning_parser")
    others = tuple(field.name for field in fields(ServerConfig) if field.name not in names)
    add_flags(rendering, ServerConfig, skip=others)

    pulling = _command(commands, "pull", pull, "download a model")
    pulling.add_argument("model", help="short name, hub id, GGUF file or Hugging Face folder")

    _command(commands, "models", models, "list the models that are there")
    help = "watch a running server: its load, speed, memory"
    watching = commands.add_parser("top", help=help, description=help)
    watching.add_argument("url", nargs="?", default="http://127.0.0.1:8000", help="of the server")
    watching.add_argument("--interval", type=float, default=1.0, help="seconds between two looks")
    watching.add_argument(
        "--once", action="store_true", help="print one interval's figures, and end"
    )
    watching.set_defaults(command=top)
    commands.add_parser("bench", help="measure: legato bench --help", add_help=False)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    command: Command,
    help: str,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(command=command)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    help = "short name, hub id, GGUF file or Hugging Face folder (default: smollm2)"
    parser.add_argument("model", nargs="?", default=argparse.SUPPRESS, help=help)
    parser.add_argument("--model", dest="model", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def _add_sampling(parser: argparse.ArgumentParser, max_tokens: int | None = None) -> None:
    group = parser.add_argument_group("sampling (default: the model's preferences)")
    group.add_argument("--max-tokens", type=int, default=max_tokens)
    for name in ("temperature", "top-p", "min-p", "repetition-penalty"):
        group.add_argument(f"--{name}", type=float)
    group.add_argument("--top-k", type=int)
    group.add_argument("--sampling-seed", type=int, help="the same seed, the same answer")
    group.add_argument("--stop", action="append", help="text to stop at; may be repeated")


def _sampling(arguments: argparse.Namespace, preferences: dict[str, object]) -> SamplingParams:
    from legato.sampling_params import from_fields

    return from_fields({**vars(arguments), "seed": arguments.sampling_seed}, preferences)


def serve(arguments: argparse.Namespace) -> None:
    from legato.server.spawning import spawn

    config = from_flags(ServerConfig, arguments)
    engine_config = from_flags(EngineConfig, arguments)
    set_up(config.log_format, config.log_level)
    say = logging.getLogger("legato").info if config.log_format == "json" else _say
    with closing(spawn()) as first:
        from legato.server.run import serve as run

        run(engine_config, config, first, say)


def _say(line: str) -> None:
    print(f"legato: {line}", flush=True)


def chat(arguments: argparse.Namespace) -> None:
    with suppress(ImportError):
        import readline  # noqa: F401  (gives input() editing and a history)

    from legato.chat_terminal import ChatTerminal

    llm = _load(arguments)
    ChatTerminal(llm, _sampling(arguments, llm.info.default_sampling), arguments.system).run()


def complete(arguments: argparse.Namespace) -> None:
    from legato.asking import completion_prompt

    try:  # as UTF-8, whatever the locale
        given = sys.stdin.buffer.read() if arguments.text == "-" else os.fsencode(arguments.text)
        text = given.decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"the text is not UTF-8: {error}", "text") from error
    llm = _load(arguments)
    prompt = completion_prompt(llm.tokenizer, text)
    print(text, end="", flush=True)
    for piece in llm.stream(prompt, _sampling(arguments, llm.info.default_sampling)):
        print(piece.text, end="", flush=True)
    print()


def _load(arguments: argparse.Namespace) -> LLM:
    from legato.llm import LLM

    settings = asdict(from_flags(EngineConfig, arguments))
    print(f"loading {settings['model']} ...", file=sys.stderr, flush=True)
    return LLM(chat_template=getattr(arguments, "chat_template", None), **settings)


def render(arguments: argparse.Namespace) -> None:
    from legato.server.render_command import render_command

    settings = from_flags(ServerConfig, arguments)
    print(
        render_command(
            arguments.request,
            model=arguments.model,
            template=arguments.template,
            assistant_prefill=settings.assistant_prefill,
            reasoning_parser=settings.reasoning_parser,
            trusts_template=settings.trust_request_chat_template,
        )
    )


def pull(arguments: argparse.Namespace) -> None:
    from legato.weights import hub

    files = hub.pull(arguments.model)
    print(f"{files.name}: {files.path}")


def top(arguments: argparse.Namespace) -> None:
    from legato.top import run

    run(arguments)


def models(arguments: argparse.Namespace) -> None:
    from legato.weights import hub

    found = hub.installed()
    for files in found:
        print(f"{files.name:30} {files.kind:5} {files.path}")
    if not found:
        print("no models yet: legato pull smollm2")


if __name__ == "__main__":
    sys.exit(main())
