"""Prometheus metrics. Names follow vLLM's, with ``legato:`` for ``vllm:``.

Each is a ``Measure``: docs/operating.md has the same list, and a test holds one to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from legato import __version__
from legato.messages import Stats, StepKind
from legato.models.info import ModelInfo
from legato.server.timeline import Timeline

PREFIX = "legato:"
disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, which nobody reads
FIRST_TOKEN_BUCKETS = (
    0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160
)  # fmt: skip
TOKEN_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5
)  # fmt: skip
REQUEST_BUCKETS = (
    0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 60, 120, 240, 480, 960
)  # fmt: skip
COUNT_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)


@dataclass(frozen=True)
class Measure:
    """``name``: without prefix, and of a counter without ``_total``."""

    name: str
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()

    @property
    def help(self) -> str:
        return f"{self.meaning} [{self.unit}]"


Reading = Callable[[Stats], float]
# The engine's statistics. Gauges may fall, counters may not (but a restarted engine counts anew).
GAUGES: tuple[tuple[Measure, Reading], ...] = (
    (Measure("num_requests_running", "answers", "In execution"), lambda s: s.running),
    (Measure("num_requests_waiting", "answers", "Waiting to be scheduled"), lambda s: s.waiting),
    (
        Measure("kv_cache_usage_perc", "share", "Of the KV blocks in use; 1 is all"),
        lambda s: s.blocks_used / max(s.blocks_total, 1),
    ),
)
BLOCKS = Measure(
    "kv_cache_blocks",
    "blocks",
    "KV blocks that answers hold (used), that a prefix may find (cached), or that are empty (free)",
    ("state",),
)
COUNTERS: tuple[tuple[Measure, Reading], ...] = (
    (
        Measure("num_preemptions", "answers", "Put back into the queue for want of blocks"),
        lambda s: s.preemptions,
    ),
    (
        Measure("prefix_cache_queries", "tokens", "Of prompts, looked up in the cache"),
        lambda s: s.prompt_tokens,
    ),
    (
        Measure("prefix_cache_hits", "tokens", "Of prompts, found in the cache"),
        lambda s: s.cached_tokens,
    ),
)
AHEAD: tuple[tuple[Measure, Reading, Reading], ...] = (
    (
        Measure(
            "spec_decode_num_draft_tokens",
            "tokens",
            "Computed ahead, as guessed (guess), or as a constraint knew them (constraint)",
            ("source",),
        ),
        lambda s: s.guessed_tokens,
        lambda s: s.drafted_tokens,
    ),
    (
        Measure(
            "spec_decode_num_accepted_tokens",
            "tokens",
            "Of those that were computed ahead, right",
            ("source",),
        ),
        lambda s: s.guessed_accepted,
        lambda s: s.drafted_accepted,
    ),
)
RESTARTS = Measure("engine_restarts", "engines", "Took over from one that died")
RESUMED = Measure("requests_resumed", "requests", "Sent to another engine")
MODEL = Measure(
    "model_info", "always 1", "What is served, and by what", ("model", "architecture", "version")
)
WEIGHTS = Measure("weights_bytes", "bytes", "Packed weights in memory")
KV_BYTES = Measure("kv_cache_bytes", "bytes", "The KV cache when all of it is in use")
KV_TOKENS = Measure("kv_cache_tokens", "tokens", "That the KV cache has room for")
TASKS = Measure("server_tasks", "tasks", "Of the server's event loop")
STREAMS = Measure("kept_streams", "streams", "Kept for clients that come back")


@dataclass
class Sources:
    """What is asked at each scrape."""

    stats: Callable[[], Stats] = Stats
    faults: Callable[[], tuple[int, int]] = lambda: (0, 0)  # engines replaced, requests resumed
    model: Callable[[], ModelInfo | None] = lambda: None
    tasks: Callable[[], int] = lambda: 0
    streams: Callable[[], int] = lambda: 0
    engine_pid: Callable[[], int | None] = lambda: None


class Metrics:
    """The server's own measurements, and at each scrape the engine's."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sources = Sources()
        self.prompt_tokens = self._counter("prompt_tokens", "tokens", "Of prompts, when answered")
        self.generation_tokens = self._counter("generation_tokens", "tokens", "Generated")
        self.success = self._counter(
            "request_success", "answers", "Finished, by what ended them", "finished_reason"
        )
        self.responses = self._counter("http_responses", "responses", "By HTTP status", "status")
        self.first_token = self._seconds(
            "time_to_first_token_seconds", "From arrival to the first token", FIRST_TOKEN_BUCKETS
        )
        self.inter_token = self._seconds(
            "inter_token_latency_seconds", "Between two tokens of an answer", TOKEN_BUCKETS
        )
        self.end_to_end = self._seconds(
            "e2e_request_latency_seconds", "From arrival to the end", REQUEST_BUCKETS
        )
        self.queue = self._seconds(
            "request_queue_time_seconds", "From arrival to the first step", FIRST_TOKEN_BUCKETS
        )
        self.prefill = self._seconds(
            "request_prefill_time_seconds",
            "From the first step to the first token",
            FIRST_TOKEN_BUCKETS,
        )
        self.decode = self._seconds(
            "request_decode_time_seconds", "From the first token to the last", REQUEST_BUCKETS
        )
        self.steps = self._seconds(
            "engine_step_time_seconds", "Steps, by what they computed", TOKEN_BUCKETS, "kind"
        )
        self.step_tokens = self._histogram(
            Measure("iteration_tokens_total", "tokens", "Computed in a step"), COUNT_BUCKETS
        )
        self._kinds = {kind: self.steps.labels(kind.value) for kind in StepKind}
        self._steps_seen = 0
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        ProcessCollector(namespace="legato_engine", pid=self._engine_pid, registry=self.registry)

    def _engine_pid(self) -> int:
        """While there is no engine, that of nobody."""
        pid = self.sources.engine_pid()
        return pid if pid is not None and Path(f"/proc/{pid}").exists() else -1

    def _counter(self, name: str, unit: str, meaning: str, *labels: str) -> Counter:
        measure = Measure(name, unit, meaning, labels)
        return Counter(PREFIX + name, measure.help, labels, registry=self.registry)

    def _seconds(
        self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return self._histogram(Measure(name, "seconds", meaning, labels), buckets)

    def _histogram(self, measure: Measure, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            PREFIX + measure.name,
            measure.help,
            measure.labels,
            buckets=buckets,
            registry=self.registry,
        )

    def stepped(self, stats: Stats) -> None:
        """The engine has told how it is; perhaps because a step has run."""
        if stats.steps != self._steps_seen:
            self._steps_seen = stats.steps
            self._kinds[stats.last_step_kind].observe(stats.last_step_seconds)
            self.step_tokens.observe(stats.last_step_tokens)

    def answered(self, timeline: Timeline) -> None:
        """An answer is over, whatever ended it."""
        for choice in timeline.answer.choices:
            self.success.labels(choice.finish_reason or "abort").inc()
        self.end_to_end.observe(timeline.ended - timeline.arrival)
        if timeline.scheduled is not None and timeline.first is not None:
            self.queue.observe(max(timeline.scheduled - timeline.arrival, 0.0))
            self.prefill.observe(max(timeline.first - timeline.scheduled, 0.0))
            self.decode.observe(timeline.last - timeline.first)

    def collect(self) -> Iterable[Metric]:
        """Called by the registry at each scrape."""
        stats = self.sources.stats()
        for measure, read in GAUGES:
            yield gauge(measure, read(stats))
        blocks = {
            "used": stats.blocks_used,
            "cached": stats.blocks_cached,
            "free": stats.blocks_free,
        }
        yield gauge(BLOCKS, {(state,): float(count) for state, count in blocks.items()})
        yield gauge(TASKS, self.sources.tasks())
        yield gauge(STREAMS, self.sources.streams())
        for measure, read in COUNTERS:
            yield counter(measure, read(stats))
        for measure, guessed, known in AHEAD:
            yield counter(measure, {("guess",): guessed(stats), ("constraint",): known(stats)})
        for measure, value in zip((RESTARTS, RESUMED), self.sources.faults(), strict=True):
            yield counter(measure, value)
        yield from self._model(self.sources.model())

    def _model(self, info: ModelInfo | None) -> Iterable[Metric]:
        """Known once the model is loaded."""
        if info is None:
            return
        yield gauge(MODEL, {(info.name, info.architecture, __version__): 1.0})
        yield gauge(WEIGHTS, info.weight_bytes)
        yield gauge(KV_BYTES, info.num_blocks * info.kv_bytes_per_block)
        yield gauge(KV_TOKENS, info.kv_cache_tokens)

    def describe(self) -> Iterable[Metric]:
        return []


Values = float | dict[tuple[str, ...], float]


def gauge(measure: Measure, values: Values) -> Metric:
    family = GaugeMetricFamily(PREFIX + measure.name, measure.help, labels=measure.labels)
    return _filled(family, values)


def counter(measure: Measure, values: Values) -> Metric:
    family = CounterMetricFamily(PREFIX + measure.name, measure.help, labels=measure.labels)
    return _filled(family, values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Values) -> Metric:
    for labels, value in (values if isinstance(values, dict) else {(): values}).items():
        family.add_metric(labels, value)
    return family
