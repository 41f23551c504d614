"""Settings, frozen once built. Command-line flags are derived from these fields (``cli.py``).

This is the only module that reads the environment; "auto" values are resolved before construction
or by properties, never by mutation.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from legato.errors import ConfigError
from legato.settings_fields import check, flag
from legato.speculation import Speculation

ASSISTANT_PREFILLS = ("continue", "new-turn", "reject")
REASONING_PARSERS = (
    "auto",
    "none",
    "cohere_command3",
    "cohere_command4",
    "deepseek_r1",
    "deepseek_v3",
    "deepseek_v4",
    "ernie45",
    "gemma4",
    "glm45",
    "glm47",
    "gpt_oss",
    "granite",
    "holo2",
    "hunyuan_a13b",
    "hy_v3",
    "kimi",
    "kimi_k2",
    "mimo",
    "minimax_m2",
    "minimax_m3",
    "mistral",
    "nemotron_v3",
    "olmo3",
    "openai_gptoss",
    "poolside_v1",
    "qwen3",
    "seed_oss",
    "smollm3",
    "step3",
    "step3p5",
)
QUANTIZATIONS = ("none", "int8", "int4")
KV_CACHE_DTYPES = ("auto", "float16", "bfloat16", "float32", "int8")
LOG_FORMATS = ("text", "json")
LEAST_LOGIT_ROWS = 17
DAY = 86_400.0  # seconds
MOST_TOKENS = 2**31 - 1
MOST_BYTES = 2**50
MOST_COUNT = 10**9
TRACES_PATH = "/v1/traces"


def available_memory() -> int:
    """Bytes of memory that can be used without swapping, from /proc/meminfo."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    raise ConfigError(
        "/proc/meminfo has no MemAvailable: give --kv-cache-memory", "kv_cache_memory"
    )


def default_threads() -> int:
    """The processors this process may run on."""
    return len(os.sched_getaffinity(0))


def isa_from_environment() -> str | None:
    """``LEGATO_ISA`` forces an instruction set; the native core rejects an unknown one."""
    return os.environ.get("LEGATO_ISA") or None


def traces_endpoint_from_environment() -> str | None:
    """As OpenTelemetry says: one for traces as it is, one for all signals with their path behind it."""
    own = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    common = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    return own or (common.rstrip("/") + TRACES_PATH if common else None)


def home() -> Path:
    """Where downloaded models are kept: ``LEGATO_HOME``, or ``~/.cache/legato``."""
    return expanded(os.environ.get("LEGATO_HOME") or "~/.cache/legato")


def expanded(path: str) -> Path:
    """With the home folder that ``~`` or ``~name`` stands for. Raises ConfigError if nobody knows it."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}: {error}") from None


def child_environment(**changes: str) -> dict[str, str]:
    """The environment for a program that is started from here."""
    return {**os.environ, **changes}


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Everything the engine process needs. Names are vLLM's where the meaning is the same."""

    model: str = flag("smollm2", "short name, hub id, GGUF file or Hugging Face folder")
    max_model_len: int | None = flag(
        None,
        "context length; default: the model's own",
        unit="tokens",
        within=(1, MOST_TOKENS),
    )
    max_num_seqs: int = flag(256, "most sequences running at once", within=(1, 65_536))
    max_num_batched_tokens: int = flag(512, "token budget of one step", within=(1, 2**20))
    step_time_target_ms: float | None = flag(
        None,
        "longest step while answers are written and prompts enter (the more enter for each that "
        "is written, the longer); 0: no limit; default: prompts of more than "
        "--max-num-batched-tokens enter in chunks with which a step takes 2.5 times as long as "
        "without, shorter ones at once",
        unit="ms",
        within=(0.0, 1000.0 * DAY),
    )
    speculative_config: str | dict[str, Any] | None = flag(
        "{}",
        "guessing ahead, as JSON: method (ngram), num_speculative_tokens, prompt_lookup_min, "
        "prompt_lookup_max; or off",
        unit="JSON",
    )
    draft_model: str | None = flag(
        None,
        "a smaller model with the same vocabulary that guesses what comes next; named like --model",
    )
    draft_quantization: str = flag(
        "none", "quantise the draft model's 16/32-bit weights on loading", choices=QUANTIZATIONS
    )
    kv_cache_memory: int | None = flag(
        None,
        "size of the KV cache; default: a share of free memory",
        unit="bytes",
        within=(1, MOST_BYTES),
    )
    kv_cache_memory_share: float = flag(
        0.3, "share of free memory for the KV cache", within=(0.0001, 0.95)
    )
    kv_cache_dtype: str = flag(
        "auto", "storage of keys and values; auto: bfloat16", choices=KV_CACHE_DTYPES
    )
    enable_prefix_caching: bool = flag(True, "reuse the KV of equal prefixes")
    quantization: str = flag("none", "quantise 16/32-bit weights on loading", choices=QUANTIZATIONS)
    load_cache: str = flag(
        "auto",
        "keep what loading computes for the next start: auto (beside the model, or in the cache "
        "directory), off, or a folder",
        unit="auto|off|DIR",
    )
    threads: int | None = flag(
        None, "compute threads; default: the processors available", within=(1, 1024)
    )
    isa: str | None = flag(None, "force an instruction set (default: LEGATO_ISA, or the best)")
    seed: int = flag(
        0, "seed for requests that give none; -1 draws one from the system", within=(-1, 2**63 - 1)
    )

    def __post_init__(self) -> None:
        check(self)
        Speculation.parse(self.speculative_config)
        if self.draft_quantization != "none" and self.draft_model is None:
            raise ConfigError("draft_quantization needs a draft_model", "draft_quantization")

    @property
    def step_time_target(self) -> float | None:
        """Seconds; 0: there is none; None: it follows from what steps take."""
        target = self.step_time_target_ms
        return None if target is None else target / 1000

    @property
    def most_at_once(self) -> int:
        """Tokens to compute of a prompt that decoding waits for as a whole: one step, and then no more.
        Only a longer one would stall others again and again; chunks would make the short ones late,
        and many that come together, without sparing anybody much."""
        return self.max_num_batched_tokens if self.step_time_target_ms is None else 0

    @property
    def speculation(self) -> Speculation | None:
        """How tokens are guessed; None: they are not."""
        return Speculation.parse(self.speculative_config)

    @property
    def max_logit_rows(self) -> int:
        """Most rows of a step that want logits: one for each sequence, and a draft's."""
        return min(max(self.max_num_seqs, LEAST_LOGIT_ROWS), self.max_num_batched_tokens)

    @property
    def resolved_threads(self) -> int:
        return self.threads if self.threads is not None else default_threads()

    @property
    def resolved_isa(self) -> str | None:
        return self.isa or isa_from_environment()

    @property
    def resolved_kv_cache_dtype(self) -> str:
        return "bfloat16" if self.kv_cache_dtype == "auto" else self.kv_cache_dtype

    def resolved_kv_cache_memory(self) -> int:
        """Bytes; asks the system for free memory unless the size was given."""
        if self.kv_cache_memory is not None:
            return self.kv_cache_memory
        return int(available_memory() * self.kv_cache_memory_share)


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Everything the HTTP server needs besides the engine."""

    host: str = flag("127.0.0.1", "address to listen on")
    port: int = flag(8000, "port to listen on", within=(0, 65_535))
    api_key: str | None = flag(
        None,
        "key that clients must send as a bearer token; several with commas between them; "
        "default: LEGATO_API_KEY",
    )
    served_model_name: str | None = flag(None, "name in the API; default: the model's")
    chat_template: str | None = flag(
        None, "file of a Jinja chat template to use instead of the model's"
    )
    trust_request_chat_template: bool = flag(False, "accept chat templates inside requests")
    assistant_prefill: str = flag(
        "continue",
        "what becomes of a last message from the assistant when the request does not say",
        choices=ASSISTANT_PREFILLS,
    )
    reasoning_parser: str = flag(
        "auto",
        "part thoughts from content in chats: by the marks of the chat template, or of this family",
        choices=REASONING_PARSERS,
    )
    receive_timeout: float = flag(
        60.0,
        "a request must have come as a whole within this time",
        unit="seconds",
        within=(0.001, DAY),
    )
    cors_origins: str = flag("", "allowed origins, comma-separated; * for any")
    max_body_bytes: int = flag(
        16 * 1024 * 1024, "largest request body", unit="bytes", within=(1, MOST_BYTES)
    )
    max_bodies_bytes: int = flag(
        32 * 1024 * 1024,
        "of request bodies above 64 KB that are here at once; more wait to be read",
        unit="bytes",
        within=(1, MOST_BYTES),
    )
    anthropic_strict: bool = flag(
        False,
        "in /v1/messages, refuse what the original does: a prefill that ends with white space",
    )
    step_timeout: float | None = flag(
        None,
        "an engine that takes longer for a step is replaced; default: 30, and 10 for each GB of weights",
        unit="seconds",
        within=(0.001, DAY),
    )
    resume_window: float = flag(
        0.0,
        "streams are kept for a client that lost its connection; 0: they are cancelled at once",
        unit="seconds",
        within=(0.0, 600.0),
    )
    max_kept_streams: int = flag(
        1000, "streams that are kept for clients that may come back", within=(1, MOST_COUNT)
    )
    stall_timeout: float = flag(
        300.0,
        "a client that takes in nothing of its answer for so long is disconnected; 0: never",
        unit="seconds",
        within=(0.0, DAY),
    )
    max_queue: int = flag(
        2048, "answers that may wait beside those that run; more get a 429", within=(0, MOST_COUNT)
    )
    max_requests_per_client: int = flag(
        0, "answers that a client may have open; 0: no limit", within=(0, MOST_COUNT)
    )
    requests_per_minute: int = flag(
        0, "requests of a client in a minute; 0: no limit", within=(0, MOST_COUNT)
    )
    drain_timeout: float = flag(
        30.0,
        "open requests may finish for so long after SIGTERM",
        unit="seconds",
        within=(0.0, DAY),
    )
    cache_dir: str | None = flag(
        None,
        "the prefix cache outlives the server in this folder; default: it does not",
        unit="DIR",
    )
    cache_dir_size: int = flag(
        10**9, "most that is kept in --cache-dir", unit="bytes", within=(1, MOST_BYTES)
    )
    log_level: str = flag("info", "logging", choices=("debug", "info", "warning", "error"))
    log_format: str = flag(
        "text", "of the log on standard error: lines, or a JSON object a line", choices=LOG_FORMATS
    )
    log_prompts: bool = flag(False, "the log has the prompts, too")
    otlp_traces_endpoint: str | None = flag(
        None,
        "where OpenTelemetry traces go (OTLP over HTTP); default: as OTEL_EXPORTER_OTLP_ENDPOINT says",
        unit="URL",
    )

    def __post_init__(self) -> None:
        check(self)
        given = self.api_key if self.api_key is not None else _key_of_environment()
        if given is not None and not _keys(given):  # an unset variable must not open the server
            raise ConfigError("api_key has no key in it", "api_key")
        endpoint = self.otlp_traces_endpoint
        if endpoint and not _is_http(endpoint):
            raise ConfigError(
                f"otlp_traces_endpoint must be an http or https URL, got {endpoint!r}",
                "otlp_traces_endpoint",
            )

    @property
    def resolved_otlp_traces_endpoint(self) -> str | None:
        """A URL with its path; None: there are no traces."""
        given = self.otlp_traces_endpoint
        if given:
            return given if urlsplit(given).path.strip("/") else given.rstrip("/") + TRACES_PATH
        return traces_endpoint_from_environment()

    @property
    def api_keys(self) -> list[str]:
        return _keys(self.api_key if self.api_key is not None else _key_of_environment())


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _key_of_environment() -> str | None:
    return os.environ.get("LEGATO_API_KEY") or None


def _keys(given: str | None) -> list[str]:
    return [key.strip() for key in (given or "").split(",") if key.strip()]
