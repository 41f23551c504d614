"""``legato render``: what the model would see of a chat request. Loads no weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from legato.errors import ConfigError, ModelError, RequestError
from legato.server.chat_request import RenderRequest, chat_prompt
from legato.server.protocol import parse
from legato.text.continuation import Prompt
from legato.text.template import ChatTemplate, load_chat_template
from legato.text.vocabulary import Tokenizer


def rendered(prompt: Prompt, *, with_ids: bool) -> dict[str, Any]:
    """What ``legato render`` and its endpoint answer."""
    reply: dict[str, Any] = {"prompt": prompt.text, "seam": prompt.seam}
    if with_ids:
        reply["prompt_token_ids"] = prompt.token_ids
    return reply


def render_command(
    source: str,
    *,
    model: str | None,
    template: str | None,
    assistant_prefill: str = "continue",
    reasoning_parser: str = "auto",
    trusts_template: bool = False,
) -> str:
    """The answer as JSON. ``source`` is a file with the request, or ``-``.

    Raises ConfigError, ModelError, RequestError.
    """
    request = parse(_read_request(source), RenderRequest)
    found, tokenizer = _parts(model, template)
    prompt = chat_prompt(
        request,
        found,
        tokenizer,
        assistant_prefill=assistant_prefill,
        reasoning_parser=reasoning_parser,
        trusts_template=trusts_template,
    )
    return msgspec.json.encode(rendered(prompt, with_ids=tokenizer is not None)).decode()


def _parts(model: str | None, template: str | None) -> tuple[ChatTemplate | None, Tokenizer | None]:
    if model is not None:
        from legato.text.tokenizer import load_tokenizer
        from legato.weights import hub

        path = hub.resolve(model).path
        found = load_chat_template(path, Path(template) if template else None)
        return found, load_tokenizer(path)
    if template is None:
        raise ConfigError("give --model or --template", "template")
    try:
        # Which tokens begin and end a text is the model's to say: here, none do.
        source = Path(template).read_text(encoding="utf-8")
        return ChatTemplate(source, bos_token="", eos_token=""), None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{template}: cannot be read: {error}", "template") from error
    except ModelError as error:
        raise ConfigError(f"{template}: {error}", "template") from error


def _read_request(source: str) -> dict[str, Any]:
    try:
        text = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        body = msgspec.json.decode(text)
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error}", "request") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the request is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise RequestError("the request must be a JSON object")
    return body
