"""Prometheus metrics. Names follow vLLM's, with ``legato:`` for ``vllm:``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from legato.answer import Answer, Piece
from legato.messages import Stats

FIRST_TOKEN_BUCKETS = (
    0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160
)  # fmt: skip
TOKEN_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5
)  # fmt: skip
REQUEST_BUCKETS = (
    0.1,
    0.3,
    0.5,
    0.8,
    1,
    1.5,
    2,
    2.5,
    5,
    10,
    15,
    20,
    30,
    40,
    60,
    120,
    240,
    480,
    960,
)

Reading = Callable[[Stats], float]
# The engine's statistics. Gauges may fall, counters may not (but a restarted engine counts anew).
GAUGES: dict[str, tuple[str, Reading]] = {
    "num_requests_running": ("Sequences in execution", lambda s: s.running),
    "num_requests_waiting": ("Sequences waiting to be scheduled", lambda s: s.waiting),
    "kv_cache_usage_perc": (
        "Share of the KV blocks in use; 1 is all",
        lambda s: s.blocks_used / max(s.blocks_total, 1),
    ),
    "kv_cache_blocks_cached": (
        "Unused KV blocks that a prefix may find",
        lambda s: s.blocks_cached,
    ),
}
COUNTERS: dict[str, tuple[str, Reading]] = {
    "num_preemptions": ("Sequences preempted", lambda s: s.preemptions),
    "prefix_cache_queries": ("Prompt tokens looked up in the cache", lambda s: s.prompt_tokens),
    "prefix_cache_hits": ("Prompt tokens found in the cache", lambda s: s.cached_tokens),
    "engine_steps": ("Steps of the engine", lambda s: s.steps),
    "engine_step_seconds": ("Time spent in steps", lambda s: s.step_seconds),
}


class Metrics:
    """The server's own measurements, and at each scrape the engine's."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.engine_stats: Callable[[], Stats] = Stats
        self.faults: Callable[[], tuple[int, int]] = lambda: (
            0,
            0,
        )  # engines replaced, requests resumed
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of finished requests")
        self.generation_tokens = self._counter("generation_tokens", "Tokens generated")
        self.success = Counter(
            "legato:request_success", "Choices finished", ["finished_reason"],
            registry=self.registry,
        )  # fmt: skip
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "Arrival to first token", FIRST_TOKEN_BUCKETS
        )
        self.inter_token = self._histogram(
            "inter_token_latency_seconds", "Between two tokens of a choice", TOKEN_BUCKETS
        )
        self.end_to_end = self._histogram(
            "e2e_request_latency_seconds", "Arrival to last token", REQUEST_BUCKETS
        )
        self.registry.register(self)

    def _counter(self, name: str, help: str) -> Counter:
        return Counter(f"legato:{name}", help, registry=self.registry)

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"legato:{name}", help, buckets=buckets, registry=self.registry)

    def collect(self) -> Iterable[Metric]:
        """Called by the registry at each scrape."""
        stats = self.engine_stats()
        for name, (help, read) in GAUGES.items():
            yield GaugeMetricFamily(f"legato:{name}", help, value=read(stats))
        for name, (help, read) in COUNTERS.items():
            yield CounterMetricFamily(f"legato:{name}", help, value=read(stats))

        names = ("engine_restarts", "requests_resumed")
        helps = ("Engines that took over from one that died", "Requests sent to another engine")
        for name, help, value in zip(names, helps, self.faults(), strict=True):
            yield CounterMetricFamily(f"legato:{name}", help, value=value)

    def describe(self) -> Iterable[Metric]:
        return []


class Stopwatch:
    """Measures one request from its arrival to its last token."""

    __slots__ = ("_arrival", "_last", "_metrics")

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._arrival = time.perf_counter()
        self._last: dict[int, float] = {}  # choice -> time of its latest token

    def tokens(self, pieces: list[Piece]) -> None:
        now = time.perf_counter()
        for piece in pieces:
            count = len(piece.token_ids)
            if not count:
                continue
            last = self._last.get(piece.index)
            if last is None:
                if not self._last:
                    self._metrics.first_token.observe(now - self._arrival)
            else:
                self._metrics.inter_token.observe((now - last) / count)
            self._last[piece.index] = now

    def end(self, answer: Answer) -> None:
        """The request is over, whatever ended it."""
        metrics = self._metrics
        metrics.prompt_tokens.inc(len(answer.prompt_token_ids))
        metrics.generation_tokens.inc(answer.completion_tokens)
        for choice in answer.choices:
            metrics.success.labels(choice.finish_reason or "abort").inc()
        metrics.end_to_end.observe(time.perf_counter() - self._arrival)
