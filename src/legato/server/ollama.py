"""POST /api/chat and /api/generate, as Ollama's clients know them: streamed unless told otherwise.

A chat that ends with a message of the assistant is continued where that message ends.
"""

from __future__ import annotations

import uuid
from typing import Any, Literal, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from legato.answer import Answer
from legato.asking import completion_prompt
from legato.errors import ContextLengthError, RequestError
from legato.request import SamplingParams
from legato.sampling_params import from_fields
from legato.server.admission import read_request
from legato.server.errors import json_response
from legato.server.guidance import GuidanceFields, guidance_of
from legato.server.ollama_reply import OLLAMA, Reply, Say, in_chat, in_generate, loaded
from legato.server.protocol import naming, parse
from legato.server.routes import Routes
from legato.server.service import Service, off_loop
from legato.server.sse import EventStream, unless_disconnected
from legato.server.structured import Wanted, grammar_of, ollama_format
from legato.server.turns import TurnFormat, render
from legato.text.continuation import Prompt
from legato.text.reasoning_split import Parted

router = Routes("Ollama", prefix="/api", dialect=OLLAMA)

NO_EFFECT: frozenset[str] = frozenset()

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "images": ([],),
    "suffix": ("",),
    "template": ("",),
    "context": ([],),
    "truncate": (False,),
    "shift": (False,),
    "width": (0,),
    "height": (0,),
    "steps": (0,),
}

OPTIONS_NO_EFFECT = frozenset(
    {"numa", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "use_mmap", "use_mlock"}
    | {"num_thread", "num_keep", "mirostat_tau", "mirostat_eta"}
)
"""How to load the model, which is loaded; what to keep of a context that never overflows."""

OPTIONS_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tfs_z": (1,),
    "typical_p": (1,),
    "mirostat": (0,),
    "repeat_last_n": (-1,),
    "penalize_newline": (True,),
    "logits_all": (False,),
    "vocab_only": (False,),
    "embedding_only": (False,),
}

TURNS = TurnFormat(
    roles={"system": "system", "user": "user", "assistant": "assistant"},
    unsupported=frozenset({"images", "tool_calls", "tool_name", "tool_call_id"}),
    thoughts="thinking",
)


EFFORTS = ("low", "medium", "high")
NO_TIME = (0, "0", "0s", "0m", "0h")


class OllamaOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    num_predict: int | None = None
    num_ctx: int | None = None
    stop: str | list[str] | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


NAMES = {name: f"options.{name}" for name in OllamaOptions.__struct_fields__} | {
    "max_tokens": "options.num_predict",
    "repetition_penalty": "options.repeat_penalty",
    "logprobs": "top_logprobs",
}
"""What a client calls the parameters of ``SamplingParams``."""


class OllamaFields(GuidanceFields, kw_only=True, forbid_unknown_fields=True):
    """What both endpoints have; ``echo`` to ``parse_special_tokens`` are those of /v1/chat/completions."""

    model: str | None = None
    stream: bool = True
    options: dict[str, Any] | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    think: bool | str | None = None
    format: str | dict[str, Any] | None = None
    echo: bool = False
    priority: int = 0
    cache_salt: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    parse_special_tokens: bool = False
    keep_alive: int | float | str | None = None  # the model stays loaded, whatever it is

    @property
    def done_without_words(self) -> Literal["load", "unload"]:
        """Of a request that asks nothing: what the original would have done."""
        return "unload" if self.keep_alive in NO_TIME else "load"

    @property
    def wanted_thoughts(self) -> tuple[bool | str | None, str]:
        if isinstance(self.think, str) and self.think not in EFFORTS:
            raise RequestError(
                f"think must be true, false, {', '.join(EFFORTS)}, got {self.think!r}", "think"
            )
        return self.think, "think"

    def wanted_grammar(self) -> Wanted | None:
        return ollama_format(self.format)


Fields = TypeVar("Fields", bound=OllamaFields)


class OllamaChatRequest(OllamaFields, kw_only=True, forbid_unknown_fields=True):
    messages: list[dict[str, Any]] = []


class OllamaGenerateRequest(OllamaFields, kw_only=True, forbid_unknown_fields=True):
    """``raw``: the model reads the prompt as it is; else it is what a user says."""

    prompt: str = ""
    system: str | None = None
    raw: bool = False


@router.post("/chat", OllamaChatRequest, NO_EFFECT, UNSUPPORTED)
async def chat(http: Request, service: Service) -> Response:
    """Answer a conversation, or continue the answer it ends with."""
    request, size = await _read(http, service, OllamaChatRequest)
    if not request.messages:
        return json_response(loaded(service, in_chat, request.done_without_words))
    prompt = await off_loop(size, lambda: _chat_prompt(request, service))
    return await _reply(http, request, prompt, service, in_chat)


@router.post("/generate", OllamaGenerateRequest, NO_EFFECT, UNSUPPORTED)
async def generate(http: Request, service: Service) -> Response:
    """Answer a prompt; with ``raw``, continue it."""
    request, size = await _read(http, service, OllamaGenerateRequest)
    if not request.prompt:
        return json_response(loaded(service, in_generate, request.done_without_words))
    prompt = await off_loop(size, lambda: _generate_prompt(request, service))
    return await _reply(http, request, prompt, service, in_generate)


async def _read(http: Request, service: Service, schema: type[Fields]) -> tuple[Fields, int]:
    service.check_ready()
    request, size = await read_request(http, schema, NO_EFFECT, UNSUPPORTED)
    check_model(request.model, service)
    return request, size


def check_model(name: str | None, service: Service) -> None:
    """Ollama's clients add a tag to names which have none."""
    service.check_model(name and name.removesuffix(":latest"))


def _chat_prompt(request: OllamaChatRequest, service: Service) -> Prompt:
    turns = [TURNS.read(turn, f"messages[{i}]") for i, turn in enumerate(request.messages)]
    return render(turns, service, request)


def _generate_prompt(request: OllamaGenerateRequest, service: Service) -> Prompt:
    if request.raw:
        if request.system:
            raise RequestError("system has no place in a raw prompt", "system")
        if request.think:
            raise RequestError("think has no place in a raw prompt", "think")
        return completion_prompt(service.text_within(request.cache_salt), request.prompt)
    turns = [{"role": "user", "content": request.prompt}]
    if request.system:
        turns.insert(0, {"role": "system", "content": request.system})
    with naming({"messages": "prompt"}):
        return render(turns, service, request)


async def _reply(
    http: Request, request: OllamaFields, prompt: Prompt, service: Service, say: Say
) -> Response:
    grammar = await grammar_of(request, prompt, service)
    answer = _begin(request, prompt, service, grammar)
    reply = Reply(answer, service, say, _echoed(request, answer))
    if request.stream:
        return EventStream(reply.records(), OLLAMA)
    return json_response(await unless_disconnected(http, reply.whole()))


def _echoed(request: OllamaFields, answer: Answer) -> Parted:
    if not request.echo:
        return Parted("", "")
    raw = isinstance(request, OllamaGenerateRequest) and request.raw
    return Parted("", answer.prompt.text) if raw else answer.given


def _begin(request: OllamaFields, prompt: Prompt, service: Service, grammar: str) -> Answer:
    options = _options(request)
    field = "messages" if isinstance(request, OllamaChatRequest) else "prompt"
    room = _room(options, prompt, service.engine.info.max_model_len, field)
    unlimited = options.num_predict in (None, -1, -2)
    most = room if unlimited else min(options.num_predict or 0, room)
    with naming(NAMES):
        return service.answer(
            prompt,
            _params(request, options, most, service.engine.info.default_sampling),
            request_id=f"ollama-{uuid.uuid4().hex}",
            priority=request.priority,
            cache_salt=request.cache_salt,
            field=field,
            guidance=guidance_of(request, prompt, service, grammar),
        )


def _options(request: OllamaFields) -> OllamaOptions:
    try:
        return parse(request.options or {}, OllamaOptions, OPTIONS_NO_EFFECT, OPTIONS_UNSUPPORTED)
    except RequestError as error:
        raise RequestError(f"options: {error}", f"options.{error.field}") from None


def _room(options: OllamaOptions, prompt: Prompt, context: int, field: str) -> int:
    """How many tokens may come. As in the original, ``num_predict`` may be more than that."""
    limit = context if options.num_ctx is None else options.num_ctx
    if not 1 <= limit <= context:
        raise RequestError(
            f"options.num_ctx must be at least 1 and at most the model's {context}, got {limit}",
            "options.num_ctx",
        )
    used = len(prompt.token_ids)
    if used >= limit:
        raise ContextLengthError(
            f"the context length is {limit} tokens, but {field} has {used}", field
        )
    return limit - used


def _params(
    request: OllamaFields, options: OllamaOptions, most: int, preferences: dict[str, Any]
) -> SamplingParams:
    if request.top_logprobs and not request.logprobs:
        raise RequestError("top_logprobs needs logprobs: true", "top_logprobs")
    fields = {
        **msgspec.structs.asdict(options),
        "seed": None if options.seed == -1 else options.seed,
        "repetition_penalty": options.repeat_penalty,
        "max_tokens": most,
        "logprobs": (request.top_logprobs or 0) if request.logprobs else None,
    }
    return from_fields(fields, preferences)
