"""What the pages show is what happens: their snippets run, and print what stands below them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_server import MODEL, SETTINGS, RunningServer, start_server
from snippets import OUTPUT, PAGES, ROOT, RUN, SHOWN, Snippet, blocks, comparable, run, snippets

from legato.server import (
    anthropic,
    ollama,
    ollama_models,
    openai_chat,
    openai_completions,
    responses,
)
from legato.server.routes import Operation

ROOMS = (openai_chat, openai_completions, anthropic, responses, ollama, ollama_models)
ALL = [snippet for page in PAGES for snippet in snippets(page)]

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/api/chat")


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[RunningServer]:
    """One that remembers no other test's answers."""
    running = start_server(MODEL, *SETTINGS)
    yield running
    running.process.terminate()
    running.process.wait(20)


@pytest.mark.parametrize("snippet", ALL, ids=str)
def test_snippet_prints_what_the_page_shows(
    snippet: Snippet, server: RunningServer, tmp_path: Path
) -> None:
    assert comparable(run(snippet, server.url, tmp_path)) == comparable(snippet.output)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_run_or_marked(page: Path) -> None:
    """No example slips through, and no output stands below nothing."""
    marks = [mark for _, mark, _ in blocks(page)]
    assert page.read_text(encoding="utf-8").count("```") == 2 * len(marks)
    assert {*marks} <= {*RUN, *SHOWN, *OUTPUT}
    for number in (len([mark for mark in marks if mark in kind]) for kind in (RUN, OUTPUT)):
        assert number == len(snippets(page))


def test_the_pages_have_examples() -> None:
    found = {page.name: snippets(page) for page in PAGES}
    assert len(found["README.md"]) >= 6
    code = "\n".join(snippet.code for snippet in found["continuation.md"])
    for dialect in (*ENDPOINTS, "messages.create", "responses.create", "prefix", "partial", "LLM"):
        assert dialect in code


@pytest.mark.parametrize(
    "operation",
    [one for room in ROOMS for one in room.router.operations if one.body],
    ids=lambda operation: operation.path,
)
def test_every_field_of_a_request_is_on_the_page(operation: Operation) -> None:
    """What is not is promised to be a 400."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert operation.body is not None
    names = {*operation.body.__struct_encode_fields__, *operation.no_effect, *operation.unsupported}
    assert not [name for name in sorted(names) if f"`{name}`" not in page]


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("serve", "test", "check", "bench"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub names them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
