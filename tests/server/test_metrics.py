"""What /metrics exports, and that docs/operating.md and the dashboard speak of exactly that."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from running_server import RunningServer

ROOT = Path(__file__).parents[2]
HISTOGRAM_PARTS = ("_bucket", "_sum", "_count")


def families(server: RunningServer) -> dict[str, tuple[str, str]]:
    """Of each metric: its name in queries (of a histogram, without its parts) -> type, help."""
    found = {}
    for family in text_string_to_metric_families(server.http.get("/metrics").text):
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = (family.type, family.documentation)
    return found


def value(server: RunningServer, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(server.http.get("/metrics").text):
        for sample in family.samples:
            if sample.name == f"legato:{name}" and sample.labels == labels:
                return sample.value
    return 0.0


@pytest.fixture(scope="module")
def used(server: RunningServer) -> Iterator[RunningServer]:
    """Everything that has labels has been seen."""
    for body in ({"prompt": "One, two,", "max_tokens": 3}, {"prompt": "x", "max_tokens": "y"}):
        server.http.post("/v1/completions", json=body)
    yield server


def documented() -> dict[str, tuple[str, str]]:
    """The table in docs/operating.md: name -> type, unit."""
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w:]+)(?:\{[^`]*\})?` \| (\w+) \| ([^|]+) \| (.+) \|$", text, re.M)
    assert all(meaning.strip() for *_, meaning in rows)
    return {name: (kind, unit.strip()) for name, kind, unit, _ in rows}


def test_the_page_lists_what_is_exported(used: RunningServer) -> None:
    exported = families(used)
    listed = documented()
    assert sorted(listed) == sorted(exported)
    for name, (kind, help) in exported.items():
        assert listed[name][0] == kind, name
        if name.startswith("legato:"):
            unit = re.search(r"\[(.+)\]$", help)
            assert unit is not None and listed[name][1] == unit[1], name
            assert len(help) > len(unit[0]) + 3, f"{name} has no description"


def test_the_dashboard_asks_for_what_is_exported(used: RunningServer) -> None:
    dashboard = json.loads((ROOT / "deploy/grafana.json").read_text(encoding="utf-8"))
    expressions = [
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])
    ]
    expressions += [
        one["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"
    ]
    assert len(expressions) > 30
    exported = families(used)
    queried = set(exported)
    for name, (kind, _) in exported.items():
        if kind == "histogram":
            queried.discard(name)
            queried.update(name + part for part in HISTOGRAM_PARTS)
    asked = set()
    for expression in expressions:
        names = re.findall(r"legato:\w+|\b(?:legato_engine_)?process_\w+", expression)
        assert names, expression
        asked.update(names)
        assert expression.count("(") == expression.count(")")
    assert asked - queried == set()
    left_out = {name for name in families(used) if name.startswith("legato:")} - {
        name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in asked
    }
    assert left_out <= {"legato:model_info", "legato:kv_cache_tokens"}, "something is not shown"


def test_an_answer_is_counted(server: RunningServer) -> None:
    """The times of its phases add up to the whole, and steps and tokens are as many as there were."""
    prompt = f"{time.time()} is a number that nobody has asked for before, and so"
    names = [
        f"{name}_{part}"
        for name in (
            "time_to_first_token_seconds",
            "request_queue_time_seconds",
            "request_prefill_time_seconds",
            "request_decode_time_seconds",
            "e2e_request_latency_seconds",
        )
        for part in ("sum", "count")
    ]
    names += ["generation_tokens_total", "iteration_tokens_total_sum"]
    before = {name: value(server, name) for name in names}
    reply = server.http.post(
        "/v1/completions",
        json={"prompt": prompt, "max_tokens": 20, "ignore_eos": True, "temperature": 0},
    ).json()
    more = {name: value(server, name) - before[name] for name in names}
    assert all(more[name] == 1 for name in names if name.endswith("_count"))
    assert more["generation_tokens_total"] == 20
    usage = reply["usage"]  # another prompt may have begun with the same digits
    computed = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"] + 19
    assert more["iteration_tokens_total_sum"] >= computed  # guesses that were wrong are more
    queue, prefill, decode = (
        more[f"request_{phase}_time_seconds_sum"] for phase in ("queue", "prefill", "decode")
    )
    assert queue >= 0 and prefill > 0 and decode > 0
    assert queue + prefill == pytest.approx(more["time_to_first_token_seconds_sum"], abs=1e-6)
    whole = more["e2e_request_latency_seconds_sum"]
    assert queue + prefill + decode <= whole < queue + prefill + decode + 0.5


def test_kinds_of_steps_and_tokens_ahead(server: RunningServer) -> None:
    kinds = {kind: f"engine_step_time_seconds_count-{kind}" for kind in ("decode", "prefill")}
    before = {k: value(server, "engine_step_time_seconds_count", kind=k) for k in kinds}
    name = "spec_decode_num_{}_tokens_total"
    drafted = {k: value(server, name.format(k), source="constraint") for k in ("draft", "accepted")}
    body = {
        "prompt": f"{time.time()}:" + " word" * 30,
        "max_tokens": 12,
        "structured_outputs": {"choice": ["certainly and without any doubt"]},
    }
    assert server.http.post("/v1/completions", json=body).status_code == 200
    assert value(server, "engine_step_time_seconds_count", kind="prefill") > before["prefill"]
    tried = value(server, name.format("draft"), source="constraint") - drafted["draft"]
    right = value(server, name.format("accepted"), source="constraint") - drafted["accepted"]
    assert tried > 0 and 0 < right <= tried  # the one choice is known ahead


def test_blocks_balance(server: RunningServer) -> None:
    states = [value(server, "kv_cache_blocks", state=s) for s in ("used", "cached", "free")]
    assert sum(states) * 16 == value(server, "kv_cache_tokens")


def test_the_pages_example_of_sizes_is_what_the_server_says(server: RunningServer) -> None:
    """docs/operating.md, sizing memory: SmolLM2-135M with --kv-cache-memory 300MB."""
    layers, kv_heads, head = 30, 3, 64
    token = layers * 2 * kv_heads * 2 * head
    blocks = 300_000_000 // (16 * token)
    page = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    for number in (token, layers * 2 * kv_heads * (head + 4), blocks, 16 * blocks):
        assert f"{number:,}" in page
    assert value(server, "kv_cache_tokens") == 16 * blocks
    assert value(server, "kv_cache_bytes") == 16 * blocks * token
    weights = round(value(server, "weights_bytes") / 1e6)
    assert f"{weights} MB of weights" in page
    assert f"KV cache 300 MB for {16 * blocks} tokens" in page


def test_statuses_are_counted(server: RunningServer) -> None:
    before = value(server, "http_responses_total", status="404")
    assert httpx.get(f"{server.url}/nothing").status_code == 404
    assert value(server, "http_responses_total", status="404") == before + 1
