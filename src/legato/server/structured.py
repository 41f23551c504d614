"""Structured output: the fields that ask for it, and the check of what they ask for.

Each protocol has names of its own; all of them come down to one grammar (``legato.text.grammar``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from legato.errors import RequestError
from legato.server.guidance import GuidanceFields
from legato.text import grammar as sources
from legato.text.grammar import FREE, Layout
from legato.text.parting import given_content

if TYPE_CHECKING:
    from legato.server.service import Service
    from legato.text.continuation import Prompt


@dataclass(frozen=True)
class Wanted:
    """What ``field`` asks for. ``source()`` is the grammar, or raises RequestError; ``layout`` is JSON's."""

    field: str
    source: Callable[[], str]
    layout: Layout | None = None


class JsonSchemaFormat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: str
    schema: dict[str, Any] | bool = True
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's; ``schema`` beside ``json_object`` is llama.cpp's."""

    type: str
    json_schema: JsonSchemaFormat | None = None
    schema: dict[str, Any] | None = None

    def wanted(self, layout: Layout) -> list[Wanted]:
        field = "response_format"
        if self.type == "text":
            return []
        if self.type == "json_object":
            return [schema_wanted(self.schema or {"type": "object"}, field, layout)]
        if self.type != "json_schema":
            raise RequestError(f"{field}.type {self.type!r} is not supported", f"{field}.type")
        if self.json_schema is None:
            raise RequestError(f"{field}.json_schema is required", f"{field}.json_schema")
        strict = self.json_schema.strict
        return [schema_wanted(self.json_schema.schema, field, layout, strict=strict)]


class StructuredOutputs(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """vLLM's."""

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Any = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False

    def wanted(self, layout: Layout) -> list[Wanted]:
        where = "structured_outputs"
        for name in ("structural_tag", "disable_additional_properties"):
            if getattr(self, name):
                raise RequestError(f"{where}.{name} is not supported", f"{where}.{name}")
        layout = self._layout(layout)
        kinds = {name: getattr(self, name) for name in _KINDS}
        found = _wanted(f"{where}.", kinds, layout)
        if self.json_object:
            found.append(schema_wanted({"type": "object"}, f"{where}.json_object", layout))
        if not found:
            raise RequestError(
                "You must use one kind of structured outputs constraint but none are specified",
                where,
            )
        _need_json(found, layout)
        return found

    def _layout(self, asked: Layout) -> Layout:
        """One of the three ways to ask for it."""
        wishes = [] if asked is FREE else [asked]
        if self.whitespace_pattern is not None:
            wishes.append(_pattern_layout(self.whitespace_pattern, "structured_outputs."))
        if self.disable_any_whitespace:
            name = "structured_outputs.disable_any_whitespace"
            wishes.append(Layout(is_compact=True, field=name))
        if len(wishes) > 1:
            names = [wish.field for wish in wishes]
            raise RequestError(f"{' and '.join(names)} exclude each other", names[1])
        return wishes[0] if wishes else FREE


def _need_json(found: list[Wanted], layout: Layout) -> None:
    if layout.field and all(one.layout is None for one in found):
        raise RequestError(f"{layout.field} is for JSON, which nothing asks for", layout.field)


def _pattern_layout(pattern: str, prefix: str) -> Layout:
    return Layout(pattern=pattern, field=f"{prefix}whitespace_pattern")


def openai_grammar(
    response_format: ResponseFormat | None,
    structured_outputs: StructuredOutputs | None,
    fields: Mapping[str, Any],
    pattern: str | None,
) -> Wanted | None:
    """``fields`` has vLLM's older ones (``guided_json`` ...), and llama.cpp's ``json_schema`` and
    ``grammar``; ``pattern`` is ``guided_whitespace_pattern``."""
    layout = FREE if pattern is None else _pattern_layout(pattern, "guided_")
    found = response_format.wanted(layout) if response_format else []
    if structured_outputs is not None:
        found += structured_outputs.wanted(layout)
    found += _wanted("guided_", {name: fields[f"guided_{name}"] for name in _KINDS}, layout)
    found += _wanted("", {"grammar": fields["grammar"] or None})
    if fields["json_schema"] is not None:
        found.append(schema_wanted(fields["json_schema"], "json_schema", layout))
    _need_json(found, layout)
    return _only(found)


class OutputFormat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Anthropic's."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Anthropic's."""

    format: OutputFormat | None = None
    effort: None = None


def anthropic_format(config: OutputConfig | None, older: OutputFormat | None) -> Wanted | None:
    formats = {"output_config.format": config and config.format, "output_format": older}
    return _only([schema_wanted(one.schema, field) for field, one in formats.items() if one])


def ollama_format(given: str | dict[str, Any] | None) -> Wanted | None:
    """``"json"`` or a schema; an empty text asks for nothing."""
    if given is None or given == "":
        return None
    if isinstance(given, str):
        if given != "json":
            raise RequestError(f'format must be "json" or a JSON schema, got {given!r}', "format")
        given = {"type": "object"}
    return schema_wanted(given, "format")


class TextFormat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """OpenAI's in /v1/responses."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None

    def wanted(self) -> Wanted | None:
        given = self.format
        if given is None or given.type == "text":
            return None
        if given.type == "json_object":
            return schema_wanted({"type": "object"}, "text.format")
        for name in ("name", "schema"):
            if getattr(given, name) is None:
                raise RequestError(f"text.format.{name} is required", f"text.format.{name}")
        return schema_wanted(given.schema, "text.format", strict=given.strict)


def text_format(options: TextOptions | None) -> Any:
    """What a response says of its format."""
    given = options.format if options else None
    return {"type": "text"} if given is None else msgspec.to_builtins(given)


def _only(found: list[Wanted]) -> Wanted | None:
    if len(found) > 1:
        raise RequestError(
            "You can only use one kind of constraints for structured outputs ('json', 'regex' or "
            f"'choice'); given are {' and '.join(one.field for one in found)}",
            found[1].field,
        )
    return found[0] if found else None


_KINDS: dict[str, Callable[[Any, str], str]] = {
    "json": sources.json_schema,
    "regex": sources.regex,
    "choice": sources.choice,
    "grammar": sources.grammar,
}


def _wanted(prefix: str, kinds: Mapping[str, Any], layout: Layout = FREE) -> list[Wanted]:
    """One for each of ``kinds`` that has a value."""
    found = []
    for name, value in kinds.items():
        if value is None:
            continue
        if name == "json":
            found.append(schema_wanted(value, prefix + name, layout))
        else:
            found.append(Wanted(prefix + name, partial(_KINDS[name], value, prefix + name)))
    return found


def schema_wanted(
    schema: Any, field: str, layout: Layout = FREE, *, strict: bool | None = None
) -> Wanted:
    """JSON under ``schema``."""
    source = partial(sources.json_schema, schema, field, layout=layout, strict=strict)
    return Wanted(field, source, layout)


async def grammar_of(fields: GuidanceFields, prompt: Prompt | None, service: Service) -> str:
    """The grammar of an answer, ``""`` for none; other requests are served while it is checked.

    It can be compiled, and what was given of the answer's content follows it; otherwise
    RequestError, which shows where it does not.
    """
    wanted = fields.wanted_grammar()
    if wanted is None:
        return ""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads, _checked, wanted, prompt, service)


# Of their own: however many slow grammars wait here, long prompts are rendered meanwhile.
_threads = ThreadPoolExecutor(2, "grammars")


def _checked(wanted: Wanted, prompt: Prompt | None, service: Service) -> str:
    source = wanted.source()
    if wanted.layout is not None and wanted.layout.field and wanted.layout.pattern:
        pattern, field = wanted.layout.pattern, wanted.layout.field
        service.grammars.check(sources.regex(pattern, field), field, b"")
    begun = "" if prompt is None else given_content(prompt, service.text)
    service.grammars.check(source, wanted.field, begun.encode())
    return source
