"""OpenTelemetry traces over OTLP/HTTP, where an endpoint is configured: ``pip install 'legato[otel]'``.

A span for each answer, below the client's own if it sent W3C's ``traceparent``, and in it one each for
queue, prefill and decode. They are made when the answer is over, from its timeline: while it grows they
cost nothing. Nothing here waits for the collector: spans are sent by a thread, in batches, and dropped
when there are too many.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from legato import __version__
from legato.errors import ConfigError
from legato.server.calls import Call
from legato.server.timeline import Timeline

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

FLUSH_MILLISECONDS = 3000
COMPLETIONS = ("/v1/completions", "/api/generate")


class Tracing:
    """``endpoint``: where spans are posted to. Raises ConfigError without the packages."""

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise ConfigError(
                f"traces need packages that are not here ({error}): pip install 'legato[otel]'",
                "otlp_traces_endpoint",
            ) from None
        resource = Resource.create({"service.name": "legato", "service.version": __version__})
        self._provider: TracerProvider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint=endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("legato", __version__)

    def answered(self, timeline: Timeline, call: Call, model: str) -> None:
        """An answer is over."""
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        from opentelemetry.trace.status import Status, StatusCode

        parent = TraceContextTextMapPropagator().extract(dict(call.trace))
        attributes = attributes_of(timeline, call, model)
        clock = Clock()
        span = self._tracer.start_span(
            f"{attributes['gen_ai.operation.name']} {model}",
            parent,
            SpanKind.SERVER,
            attributes,
            start_time=clock(timeline.arrival),
        )
        inside = set_span_in_context(span)
        for name, start, end in phases(timeline):
            phase = self._tracer.start_span(name, inside, start_time=clock(start))
            phase.end(clock(end))
        if timeline.error:
            span.set_status(Status(StatusCode.ERROR, timeline.error))
        span.end(clock(timeline.ended))

    def close(self) -> None:
        """Sends what is left, for as long as FLUSH_MILLISECONDS."""
        self._provider.force_flush(FLUSH_MILLISECONDS)
        self._provider.shutdown()


class Clock:
    """Nanoseconds since 1970 of a ``time.monotonic()``."""

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()

    def __call__(self, moment: float) -> int:
        return int(moment * 1e9) + self._offset


def phases(timeline: Timeline) -> list[tuple[str, float, float]]:
    """(name, start, end) of those that the answer has come to."""
    scheduled, first, ended = timeline.scheduled, timeline.first, timeline.ended
    if scheduled is None:
        return [("queue", timeline.arrival, ended)]
    found = [("queue", timeline.arrival, max(scheduled, timeline.arrival))]
    found.append(("prefill", scheduled, ended if first is None else first))
    if first is not None:
        found.append(("decode", first, max(timeline.last, first)))
    return found


def attributes_of(timeline: Timeline, call: Call, model: str) -> dict[str, Any]:
    """OpenTelemetry's conventions for generative models, and vLLM's for latencies."""
    answer, params = timeline.answer, timeline.answer.request.params
    arrival, scheduled, first = timeline.arrival, timeline.scheduled, timeline.first
    reasons = [choice.finish_reason or "abort" for choice in answer.choices]
    found = {
        "gen_ai.operation.name": "text_completion" if call.path in COMPLETIONS else "chat",
        "gen_ai.provider.name": "legato",
        "gen_ai.request.model": model,
        "gen_ai.response.model": model,
        "gen_ai.response.id": answer.request.id,
        "gen_ai.response.finish_reasons": reasons,
        "gen_ai.request.max_tokens": params.max_tokens,
        "gen_ai.request.temperature": params.temperature,
        "gen_ai.request.top_p": params.top_p,
        "gen_ai.request.top_k": params.top_k,
        "gen_ai.request.seed": params.seed,
        "gen_ai.request.choice.count": params.n,
        "gen_ai.usage.input_tokens": len(answer.prompt_token_ids),
        "gen_ai.usage.output_tokens": answer.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": answer.cached_tokens,
        "gen_ai.latency.time_in_queue": scheduled and scheduled - arrival,
        "gen_ai.latency.time_to_first_token": first and first - arrival,
        "gen_ai.latency.e2e": timeline.ended - arrival,
        "http.request.method": call.method,
        "url.path": call.path,
        "legato.request_id": call.request_id,
        "error.type": timeline.error or None,
    }
    return {name: value for name, value in found.items() if value is not None}
