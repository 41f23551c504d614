"""Chat templates: found in model files, and rendered in a sandbox (``legato.text.sandbox``)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import jinja2

from legato.errors import ConfigError, ModelError, RequestError
from legato.gguf_file import read_metadata
from legato.text.hf_files import read_json, special_token_names
from legato.text.messages import ContentFormat, Message
from legato.text.sandbox import ENVIRONMENT, limited

RESERVED: Final = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
_ROLES: Final = frozenset({"system", "user", "assistant", "tool"})
_KEPT_ROLES: Final = 64  # of which is remembered whether they are shown
_GGUF_KEY: Final = "tokenizer.chat_template"
MAX_TEMPLATE: Final = 300_000
"""Characters; the largest that are published have a tenth of that."""


class ChatTemplate:
    """A model's template, or several under names (``default``, ``tool_use``, ``rag``)."""

    def __init__(
        self,
        source: str | Mapping[str, str],
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        extra_tokens: Mapping[str, str] | None = None,
    ) -> None:
        """``extra_tokens`` are further variables, e.g. ``{"unk_token": "<unk>"}``.

        Raises ModelError if the source is not a template.
        """
        named = {"default": source} if isinstance(source, str) else dict(source)
        self.sources = named
        self._templates = {name: _compile(name, text) for name, text in named.items()}
        self._tokens = dict(extra_tokens or {})
        self._shows = lru_cache(_KEPT_ROLES)(self._tries)
        if bos_token is not None:
            self._tokens["bos_token"] = bos_token
        if eos_token is not None:
            self._tokens["eos_token"] = eos_token

    def render(
        self,
        messages: list[Message],
        /,  # ``self`` is a name that a client's variable may have
        *,
        tools: list[dict[str, Any]] | None = None,
        documents: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool,
        **kwargs: Any,
    ) -> str:
        """The conversation as the model reads it. Raises RequestError if the template refuses it."""
        values = self._tokens | kwargs
        values |= {"messages": messages, "tools": tools, "documents": documents}
        values["add_generation_prompt"] = add_generation_prompt
        template = self._choose(tools, documents)
        try:
            return _written(template, values)
        except RequestError as error:
            absent = {name for name in ("tools", "documents") if values[name] is None}
            if not absent or not isinstance(error.__cause__, TypeError):
                raise
            # Some loop over tools without asking whether there are any; what is not defined is empty.
            return _written(template, {k: v for k, v in values.items() if k not in absent})

    def replaced(self, source: str) -> ChatTemplate:
        """Another template with the same special tokens. Raises ModelError."""
        return ChatTemplate(source, extra_tokens=self._tokens)

    @cached_property
    def content_format(self) -> ContentFormat:
        """Whether the template reads content as a string or as a list of parts: by trying."""
        probe = "LEGATOPROBE"
        for content in (probe, [{"type": "text", "text": probe}]):
            try:
                text = self.render(
                    [{"role": "user", "content": content}], add_generation_prompt=True
                )
            except RequestError:
                continue
            if probe in text and "'text'" not in text:
                return "string" if content == probe else "parts"
        return "string"

    def role(self, name: str) -> str | None:
        """The role in which messages of this one are shown; None if they would vanish.

        OpenAI's ``developer`` is the system where a template does not name it, and shows that.
        """
        if name == "developer" and not (self._names(name) and self._shows(name)):
            return "system" if self._shows("system") or not self._shows(name) else name
        return name if name in _ROLES or self._shows(name) else None

    def _names(self, role: str) -> bool:
        quoted = f"'{role}'", f'"{role}"'
        return any(one in source for source in self.sources.values() for one in quoted)

    def _tries(self, role: str) -> bool:
        """Whether messages of it are shown. What a template refuses, it refuses in its own words."""
        probe = "LEGATOPROBE"
        content = probe if self.content_format == "string" else [{"type": "text", "text": probe}]
        turns = [{"role": name, "content": content} for name in ("user", role)]
        found = []
        for messages in (turns, turns[::-1]):
            try:
                text = self.render(messages, add_generation_prompt=True)
            except RequestError:
                continue
            found.append(text.count(probe) == 2)
        return any(found) or not found

    def _choose(self, tools: object, documents: object) -> jinja2.Template:
        wanted = ["tool_use"] if tools else []
        wanted += ["rag"] if documents else []
        for name in (*wanted, "default"):
            if name in self._templates:
                return self._templates[name]
        names = ", ".join(sorted(self._templates))
        raise RequestError(f"the model has no default chat template, only: {names}", "messages")


def _written(template: jinja2.Template, values: dict[str, Any]) -> str:
    try:
        with limited():
            return template.render(values)
    except jinja2.TemplateError as error:
        raise RequestError(f"the chat template refuses this: {error}", "messages") from error
    except Exception as error:  # a template can fail in any way that an expression can
        problem = f"{type(error).__name__}: {error}"
        raise RequestError(f"the chat template fails on this: {problem}", "messages") from error


def load_chat_template(
    path: Path, override: Path | None = None, metadata: dict[str, Any] | None = None
) -> ChatTemplate | None:
    """The chat template of a GGUF file or Hugging Face folder; None if the model has none.

    ``override`` is a file to take instead; ``metadata``: the GGUF file's, if it has been read. Raises ModelError, or ConfigError for ``override``.
    """
    sources, tokens = _from_folder(path) if path.is_dir() else _from_gguf(path, metadata)
    if override is not None:
        sources = {"default": _read(override)}
    if not sources:
        return None
    try:
        return ChatTemplate(sources, extra_tokens=tokens)
    except ModelError as error:
        if override is not None:
            raise ConfigError(f"{override}: {error}", "chat_template") from error
        raise ModelError(f"{path}: {error}") from error


def _read(override: Path) -> str:
    try:
        return override.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{override}: cannot be read: {error}", "chat_template") from error


def _from_gguf(
    path: Path, metadata: dict[str, Any] | None
) -> tuple[dict[str, str], dict[str, str]]:
    """(templates by name, special tokens by variable name)."""
    if metadata is None:
        metadata = read_metadata(path)
    sources = {
        key.removeprefix(_GGUF_KEY).removeprefix(".") or "default": text
        for key, text in metadata.items()
        if (key == _GGUF_KEY or key.startswith(_GGUF_KEY + ".")) and isinstance(text, str)
    }
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    ids = {
        "bos_token": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token": metadata.get("tokenizer.ggml.eos_token_id"),
        "unk_token": metadata.get("tokenizer.ggml.unknown_token_id"),
        "pad_token": metadata.get("tokenizer.ggml.padding_token_id"),
    }
    named = {
        name: tokens[id]
        for name, id in ids.items()
        if isinstance(id, int) and 0 <= id < len(tokens)
    }
    return sources, named


def _from_folder(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """As ``_from_gguf``; files of their own come before the entry in tokenizer_config.json."""
    config = read_json(folder / "tokenizer_config.json")
    entry = config.get("chat_template") or read_json(folder / "chat_template.json").get(
        "chat_template"
    )
    sources: dict[str, str] = {}
    if isinstance(entry, str):
        sources["default"] = entry
    elif isinstance(entry, list):
        try:
            sources = {str(item["name"]): str(item["template"]) for item in entry}
        except (TypeError, KeyError) as error:
            raise ModelError(
                f"{folder / 'tokenizer_config.json'}: key 'chat_template': an entry lacks {error}"
            ) from error
    files = {"default": folder / "chat_template.jinja"}
    files |= {file.stem: file for file in (folder / "additional_chat_templates").glob("*.jinja")}
    for name, file in files.items():
        if file.is_file():
            sources[name] = _text(file)
    return sources, special_token_names(folder)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{file}: cannot be read: {error}") from error


def _compile(name: str, source: str) -> jinja2.Template:
    if len(source) > MAX_TEMPLATE:
        raise ModelError(
            f"chat template {name!r} has {len(source)} characters, at most {MAX_TEMPLATE} are"
        )
    try:
        return ENVIRONMENT.from_string(source)
    except Exception as error:  # what Jinja makes of it, Python may refuse in ways of its own
        line = getattr(error, "lineno", None)
        where = f" (line {line})" if line else ""
        raise ModelError(f"chat template {name!r}{where}: {error}") from error
