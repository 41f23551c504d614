"""One frame of ``legato top``."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from legato.top.readings import Between, Reading

BAR = 24  # characters
TIMES = (
    ("first token", "time_to_first_token_seconds"),
    ("  in the queue", "request_queue_time_seconds"),
    ("  prefill", "request_prefill_time_seconds"),
    ("between tokens", "inter_token_latency_seconds"),
    ("whole answer", "e2e_request_latency_seconds"),
)


def frame(before: Reading, now: Reading) -> RenderableType:
    between = Between(before, now)
    return Group(
        title(now),
        Text(),
        numbers(between),
        Text(),
        times(between),
        Text(),
        steps(between),
        Text(),
        ends(between),
    )


def title(now: Reading) -> Text:
    model = now.labels("model_info")
    parts = [
        f"legato {model.get('version', '')}",
        f"{model.get('model', 'loading')} ({model.get('architecture', '...')})",
        now.url,
    ]
    line = Text(" · ".join(parts), style="bold")
    return line.append(f"  {now.problem}", style="bold red") if now.problem else line


def numbers(between: Between) -> Table:
    now = between.now
    table = Table.grid(padding=(0, 2))
    asked, hit = between.more("prefix_cache_queries_total"), between.more("prefix_cache_hits_total")
    table.add_row(
        "answers",
        f"{now.value('num_requests_running'):,.0f} running, "
        f"{now.value('num_requests_waiting'):,.0f} waiting, {now.value('kept_streams'):,.0f} kept",
    )
    table.add_row(
        "tokens/s",
        f"{between.rate('prompt_tokens_total'):,.0f} in ({share(hit, asked)} cached), "
        f"{between.rate('generation_tokens_total'):,.0f} out ({ahead(between)})",
    )
    table.add_row("KV blocks", blocks(now))
    table.add_row(
        "memory",
        f"server {megabytes(now, 'process_resident_memory_bytes')}, "
        f"engine {megabytes(now, 'legato_engine_process_resident_memory_bytes')}; "
        f"weights {megabytes(now, 'weights_bytes')}, KV {megabytes(now, 'kv_cache_bytes')}",
    )
    table.add_row(
        "since start",
        f"{now.value('engine_restarts_total'):,.0f} engines replaced, "
        f"{now.value('requests_resumed_total'):,.0f} requests resumed, "
        f"{now.value('num_preemptions_total'):,.0f} preemptions",
    )
    return table


def ahead(between: Between) -> str:
    """What was computed ahead."""
    name = "spec_decode_num_{}_tokens_total"
    kinds = (("guessed", "guess"), ("known", "constraint"))
    parts = []
    for said, source in kinds:
        tried = between.more(name.format("draft"), source=source)
        right = between.more(name.format("accepted"), source=source)
        parts.append(f"{right / between.seconds if between.seconds else 0:,.0f} {said}")
        if tried:
            parts[-1] += f", {share(right, tried)} right"
    return "; ".join(parts)


def blocks(now: Reading) -> Text:
    states = now.labelled("kv_cache_blocks", "state")
    total = sum(states.values()) or 1.0
    used, cached = (round(BAR * states.get(state, 0.0) / total) for state in ("used", "cached"))
    cached = min(cached, BAR - used)
    bar = Text("█" * used, style="red").append("▒" * cached, style="yellow")
    bar.append("·" * (BAR - used - cached), style="dim")
    said = ", ".join(f"{states.get(s, 0.0):,.0f} {s}" for s in ("used", "cached", "free"))
    return bar.append(f"  {said}", style="default")


def times(between: Between) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("seconds", min_width=15)
    for head in ("half below", "95 %", "99 %", "counted"):
        table.add_column(head, justify="right", min_width=10)
    for said, name in TIMES:
        cells = [seconds(between.quantile(name, part)) for part in (0.5, 0.95, 0.99)]
        table.add_row(said, *cells, f"{between.more(f'{name}_count'):,.0f}")
    return table


def steps(between: Between) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("steps", min_width=15)
    for head in ("a second", "mean ms", "busy"):
        table.add_column(head, justify="right", min_width=10)
    name = "engine_step_time_seconds"
    for kind in ("decode", "prefill", "mixed"):
        count = between.more(f"{name}_count", kind=kind)
        spent = between.more(f"{name}_sum", kind=kind)
        mean = f"{1000 * spent / count:,.1f}" if count else "-"
        busy = share(spent, between.seconds)
        table.add_row(kind, f"{between.rate(f'{name}_count', kind=kind):,.1f}", mean, busy)
    return table


def ends(between: Between) -> Text:
    parts = []
    for name, label in (
        ("request_success_total", "finished_reason"),
        ("http_responses_total", "status"),
    ):
        for value in sorted(between.now.labelled(name, label)):
            if rate := between.rate(name, **{label: value}):
                parts.append(f"{value} {rate:,.1f}")
    return Text("ends a second: " + ("  ".join(parts) or "none"))


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole > 0 else "- %"


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def megabytes(now: Reading, name: str) -> str:
    return f"{now.value(name) / 1e6:,.0f} MB"
