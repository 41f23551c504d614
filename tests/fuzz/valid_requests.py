"""One request of each kind that the server answers with 200: what mutations start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

Dialect = Literal["openai", "anthropic", "ollama"]


@dataclass(frozen=True)
class Endpoint:
    path: str
    dialect: Dialect
    body: dict[str, Any]
    method: str = "POST"


CHAT: Final = [{"role": "user", "content": "hi"}]
BEGUN: Final = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": [{"type": "text", "text": "Name a colour."}]},
    {"role": "assistant", "content": "The colour is "},
]
SCHEMA: Final = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
# So that a mutation which asks for much more than this is answered in time, too: with a 408.
TIMEOUT: Final = 3.0
FEW: Final = {"max_tokens": 3, "timeout": TIMEOUT}

ENDPOINTS: Final = [
    Endpoint("/v1/chat/completions", "openai", {"model": "smollm2", "messages": CHAT, **FEW}),
    Endpoint(
        "/v1/chat/completions",
        "openai",
        {
            "messages": BEGUN,
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 40,
            "min_p": 0.01,
            "seed": 7,
            "n": 2,
            "stop": ["\n", "###"],
            "logprobs": True,
            "top_logprobs": 2,
            "logit_bias": {"5": 1.5, "6": -100},
            "presence_penalty": 0.1,
            "frequency_penalty": 0.1,
            "repetition_penalty": 1.1,
            "continue_final_message": True,
            "add_generation_prompt": False,
            "echo": True,
            **FEW,
        },
    ),
    Endpoint(
        "/v1/chat/completions",
        "openai",
        {
            "messages": CHAT,
            "stream": True,
            "stream_options": {"include_usage": True},
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
            },
            "prediction": {"type": "content", "content": '{"a": 1}'},
            **FEW,
        },
    ),
    Endpoint(
        "/v1/chat/completions",
        "openai",
        {
            "messages": CHAT,
            "chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
            "chat_template_kwargs": {"a": 1},
            "documents": [{"title": "a", "text": "b"}],
            **FEW,
        },
    ),
    Endpoint(
        "/v1/completions",
        "openai",
        {
            "prompt": ["One, two,", "Red, green,"],
            "n": 2,
            "echo": True,
            "logprobs": 2,
            "prompt_logprobs": 1,
            "stop_token_ids": [5],
            "allowed_token_ids": [5, 6, 7, 8],
            "min_tokens": 1,
            "cache_salt": "s",
            "priority": 1,
            **FEW,
        },
    ),
    Endpoint("/v1/completions", "openai", {"prompt": [1, 2, 3], "stream": True, **FEW}),
    Endpoint(
        "/v1/completions",
        "openai",
        {"prompt": "Yes or no?", "structured_outputs": {"regex": "(yes|no){1,3}"}, **FEW},
    ),
    Endpoint("/v1/completions", "openai", {"prompt": "a", "guided_choice": ["yes", "no"], **FEW}),
    Endpoint("/v1/completions", "openai", {"prompt": "a", "grammar": 'root ::= "a"+', **FEW}),
    Endpoint(
        "/v1/chat/completions/render", "openai", {"messages": BEGUN, "chat_template_kwargs": {}}
    ),
    Endpoint(
        "/v1/responses",
        "openai",
        {
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
            "instructions": "Be short.",
            "max_output_tokens": 3,
            "include": ["message.output_text.logprobs"],
            "top_logprobs": 1,
            "metadata": {"a": "b"},
            "store": False,
            "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}},
            "reasoning": {"summary": "auto"},
            "timeout": TIMEOUT,
        },
    ),
    Endpoint(
        "/v1/responses",
        "openai",
        {"input": "hi", "max_output_tokens": 3, "stream": True, "timeout": TIMEOUT},
    ),
    Endpoint(
        "/v1/messages",
        "anthropic",
        {
            "model": "smollm2",
            "system": [{"type": "text", "text": "Be short."}],
            "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "A"}],
            "stop_sequences": ["\n"],
            "temperature": 0.5,
            "top_k": 10,
            "thinking": {"type": "disabled"},
            **FEW,
        },
    ),
    Endpoint("/v1/messages", "anthropic", {"messages": CHAT, "stream": True, **FEW}),
    Endpoint("/v1/messages/count_tokens", "anthropic", {"messages": CHAT, "system": "a"}),
    Endpoint(
        "/api/chat",
        "ollama",
        {
            "model": "smollm2:latest",
            "messages": CHAT,
            "stream": False,
            "format": SCHEMA,
            "options": {"num_predict": 3, "temperature": 0.5, "stop": ["x"], "seed": 1},
            "logprobs": True,
            "top_logprobs": 2,
            "think": False,
            "keep_alive": "5m",
        },
    ),
    Endpoint("/api/chat", "ollama", {"messages": CHAT, "options": {"num_predict": 3}}),
    Endpoint(
        "/api/generate",
        "ollama",
        {"prompt": "hi", "raw": True, "stream": False, "options": {"num_predict": 3}},
    ),
    Endpoint("/api/show", "ollama", {"model": "smollm2", "verbose": False}),
    Endpoint("/tokenize", "openai", {"prompt": "hello", "return_token_strs": True}),
    Endpoint("/tokenize", "openai", {"messages": CHAT, "add_generation_prompt": True}),
    Endpoint("/detokenize", "openai", {"tokens": [1, 2, 3]}),
]
