"""The fields of a request: which are served, which change nothing, which are refused by name.

Nothing is ignored in silence: a field is in a schema below, in ``NO_EFFECT``, in ``UNSUPPORTED``
(accepted only with a value that asks for nothing), or it is a 400 that names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from legato.errors import RequestError, unknown_field
from legato.server.guidance import GuidanceFields
from legato.server.structured import ResponseFormat, StructuredOutputs, Wanted, openai_grammar


class StreamOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False


class SamplingFields(GuidanceFields, kw_only=True, forbid_unknown_fields=True):
    """What means the same in every protocol but Ollama's."""

    model: str | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    logit_bias: dict[int, float] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    echo: bool = False
    stream: bool = False
    priority: int = 0
    cache_salt: str | None = None
    resume_window: float | None = None
    timeout: float | None = None


class GenerationFields(SamplingFields, kw_only=True, forbid_unknown_fields=True):
    """What chat and completions have in common: OpenAI's fields, vLLM's extras, two of llama.cpp."""

    max_tokens: int | None = None
    n: int | None = None
    allowed_token_ids: list[int] | None = None
    stop: str | list[str] | None = None
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    prompt_logprobs: int | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    request_id: str | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None

    def wanted_grammar(self) -> Wanted | None:
        return openai_grammar(
            self.response_format,
            self.structured_outputs,
            msgspec.structs.asdict(self),
            self.guided_whitespace_pattern,
        )

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def continuous_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.continuous_usage_stats

    def check_streaming(self) -> None:
        """Raises RequestError for what only streams have, or only whole answers."""
        if self.stream and self.prompt_logprobs is not None:
            raise RequestError("prompt_logprobs cannot be streamed", "prompt_logprobs")
        if self.stream_options is None:
            return
        if not self.stream:
            raise RequestError("stream_options needs stream: true", "stream_options")
        if self.stream_options.include_obfuscation:
            name = "stream_options.include_obfuscation"
            raise RequestError(f"{name} is not supported", name)


NO_EFFECT = frozenset(
    {
        "user",
        "metadata",
        "safety_identifier",
        "prompt_cache_key",
        "parallel_tool_calls",
        "session_id",
        "guided_decoding_backend",
    }
)
"""Hints for the operator of a service, or about tools, which are refused anyway: any value goes."""

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "store": (False,),
    "service_tier": ("auto", "default"),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "moderation": (),
    "safe_prompt": (False,),
    "web_search_options": (),
    "verbosity": ("medium",),
    "prompt_cache_options": (),
    "prompt_cache_retention": ("in_memory",),
    "best_of": (1,),
    "suffix": ("",),
    "prompt_embeds": (),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "spaces_between_special_tokens": (True,),
    "truncate_prompt_tokens": (-1,),
    "truncation_side": (),
    "bad_words": ([],),
    "logits_processors": ([],),
    "logit_processors": ([],),
    "logprob_token_ids": ([],),
    "return_tokens_as_token_ids": (False,),
    "include_reasoning": (True,),
    "chat_template": (),
    "add_special_tokens": (False,),  # in a chat, the template has the say
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "kv_transfer_params": (),
    "ec_transfer_params": (),
    "vllm_xargs": ({},),
    "stream_interval": (1,),
    "repetition_detection": (),
    "watermarking": (False,),
}
"""Known fields that this version does not serve, with the values that ask for nothing."""

Schema = TypeVar("Schema", bound=msgspec.Struct)


def parse(
    body: Mapping[str, Any],
    schema: type[Schema],
    no_effect: frozenset[str] = NO_EFFECT,
    unsupported: Mapping[str, tuple[Any, ...]] = UNSUPPORTED,
) -> Schema:
    """The request, strictly typed. ``null`` is the same as leaving a field out.

    Other protocols than OpenAI's bring their own tables. Raises RequestError naming the field: unknown, unsupported, missing or of the wrong type.
    """
    known = set(schema.__struct_fields__)
    fields = {}
    for name, value in body.items():
        if value is None or name in no_effect:
            continue
        if name in known:
            fields[name] = value
        elif name not in unsupported:
            raise unknown_field(name, known)
        elif value not in unsupported[name]:
            raise RequestError(_unsupported(name, unsupported[name]), name)
    return convert(fields, schema)


def convert(fields: Mapping[str, Any], schema: type[Schema]) -> Schema:
    """``msgspec.convert`` with its complaint turned into a RequestError that names the field."""
    try:
        return msgspec.convert(fields, schema, str_keys=True)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None


@contextmanager
def naming(names: Mapping[str, str]) -> Iterator[None]:
    """A RequestError about a parameter calls it what the client called it."""
    try:
        yield
    except RequestError as error:
        name = names.get(error.field or "")
        if name is None:
            raise
        raise type(error)(str(error).replace(error.field or "", name), name) from None


def _unsupported(name: str, empty: tuple[Any, ...]) -> str:
    accepted = " or ".join(msgspec.json.encode(value).decode() for value in empty)
    hint = f"; it may be left out or be {accepted}" if accepted else "; leave it out"
    return f"{name} is not supported{hint}"


def _invalid(complaint: str) -> RequestError:
    """From msgspec's "Expected `int`, got `str` - at `$.n`" and its two other forms."""
    what, _, where = complaint.partition(" - at ")
    field = where.rpartition("$")[2].strip("`").lstrip(".")
    if what.startswith("Object missing required field"):
        name = what.split("`")[1]
        field = f"{field}.{name}" if field else name
        return RequestError(f"{field} is required", field)
    if what.startswith("Object contains unknown field"):
        name = what.split("`")[1]
        field = f"{field}.{name}" if field else name
        return RequestError(f"unknown field {field!r}", field)
    what = what.replace(" | null", "").replace("`", "").replace("Expected", "expected")
    return RequestError(f"{field}: {what}", field or None)
