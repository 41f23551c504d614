"""The template dialect against transformers' own renderer, and what a template may not do."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import gguf
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from legato.errors import ConfigError, ModelError, RequestError
from legato.text import budget
from legato.text.template import ChatTemplate, load_chat_template

CHAT = [
    {"role": "system", "content": "Be <brief> & “kind”."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": " Hello\n"},
    {"role": "user", "content": "naïve?  "},
]
# They loop over tools that are not there, which transformers leaves to the caller.
WITHOUT_TOOLS = {
    "hfjs-CohereForAI_c4ai-command-r-v01.jinja",
    "hfjs-CohereForAI_c4ai-command-r-v01__4f0185.jinja",
    "hfjs-NousResearch_Hermes-2-Pro-Llama-3-8B.jinja",
}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": "<é>"}}}]

DIALECT = {
    "trimmed blocks": "a\n    {% if true %}\nb\n    {% endif %}\nc",
    "loop controls": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}"
    "{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{% set x = m.role %}{{ x }}\n"
    "{% endgeneration %}{{ x }}{% endfor %}",
    "json": "{{ tools | tojson }}|{{ tools | tojson(indent=2) }}|{{ tools | tojson(ensure_ascii=true) }}"
    "|{{ tools | tojson(separators=(',', ':'), sort_keys=true) }}",
    "tokens": "{{ bos_token }}{{ missing }}{{ messages[0]['content'] }}{{ add_generation_prompt }}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% endfor %}{{ ns.n }}{{ messages[1:] | length }}{{ messages | map(attribute='role') | join }}",
    "kwargs": "{{ enable_thinking }}{{ bos_token }}{{ documents }}",
    "clock": "{{ strftime_now('%Y') | length }}",
}


def reference(source: str, chat: list[dict[str, Any]], **kwargs: Any) -> str:
    rendered, _ = render_jinja_template([chat], chat_template=source, **kwargs)
    text: str = rendered[0]
    return text


@pytest.mark.parametrize("name", sorted(DIALECT))
def test_the_dialect_is_transformers_own(name: str) -> None:
    source = DIALECT[name]
    expected = reference(
        source,
        CHAT,
        tools=TOOLS,
        add_generation_prompt=True,
        bos_token="<s>",
        enable_thinking=False,
    )
    template = ChatTemplate(source, bos_token="<s>")
    text = template.render(CHAT, tools=TOOLS, add_generation_prompt=True, enable_thinking=False)
    assert text == expected


def test_published_templates_render_as_in_transformers(
    published: dict[str, ChatTemplate],
) -> None:
    """All of them: the same text, or an error from both."""
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    same = 0
    for name, template in published.items():
        source = template.sources["default"]
        for chat in (CHAT, CHAT[1:2]):
            try:
                expected = reference(source, chat, add_generation_prompt=True, **tokens)
            except Exception:
                expected = None
            try:
                text = template.render(chat, add_generation_prompt=True)
            except RequestError:
                text = None
            assert text == expected or name in WITHOUT_TOOLS, name
            same += text is not None
    assert same > 400


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ messages[9].content }}", "has no element 9"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% include 'x' %}", "no loader"),
        ("{% for a in range(99999999) %}{% endfor %}", "Range too big"),
    ],
)
def test_what_a_template_refuses_or_must_not_do_names_the_messages(source: str, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        ChatTemplate(source).render(CHAT, add_generation_prompt=True)
    assert caught.value.field == "messages"


ENDLESS = {
    "loops that write": "{% for a in range(9999) %}{% for b in range(9999) %}x{{ b }}{% endfor %}{% endfor %}",
    "loops that write nothing": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "loops over a filter": "{% for a in range(9999) %}{% for b in range(9999) | map('string') %}"
    "{% endfor %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursion": "{% for a in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}"
    "{% endfor %}",
}


@pytest.mark.parametrize("name", sorted(ENDLESS))
def test_an_endless_template_is_stopped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate(ENDLESS[name])
    monkeypatch.setattr(budget, "MAX_SECONDS", 0.05)
    started = time.process_time()
    with pytest.raises(RequestError, match="too long"):
        template.render(CHAT, add_generation_prompt=True)
    assert time.process_time() - started < 5
    monkeypatch.setattr(budget, "MAX_SECONDS", 60.0)
    monkeypatch.setattr(budget, "MAX_STEPS", 1000)
    with pytest.raises(RequestError, match="too long"):
        template.render(CHAT, add_generation_prompt=True)


DOUBLE = "{{% set ns = namespace(x='xxxx') %}}{{% for a in range(60) %}}{{% set ns.x = {} %}}{{% endfor %}}"


@pytest.mark.parametrize(
    "source",
    [
        *(
            DOUBLE.format(x)
            for x in ("ns.x ~ ns.x", "ns.x + ns.x", "ns.x * 9", "[ns.x] * 99999999")
        ),
        DOUBLE.format("ns.x.replace('x', ns.x)"),
        "{% set ns = namespace(x='x') %}{% for a in range(60) %}{% set y %}{{ ns.x }}{{ ns.x }}"
        "{% endset %}{% set ns.x = y %}{% endfor %}",
        "{{ 'x' * 10**10 }}",
        "{{ 10**9999 }}",
        "{{ 'x'.ljust(9999999999) }}",
        "{{ 'x' | center(9999999999) }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ '{:999999999}'['format'](1) }}",
        "{{ ('{:999999999}' | attr('format'))(1) }}",
        "{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}",
    ],
)
def test_a_template_that_builds_or_writes_too_much_is_stopped(source: str) -> None:
    with pytest.raises(RequestError, match="too (much|large)"):
        ChatTemplate(source).render(CHAT, add_generation_prompt=True)


def test_a_named_template_is_chosen_by_what_the_request_holds() -> None:
    template = ChatTemplate({"default": "d", "tool_use": "t", "rag": "r"})
    assert template.render(CHAT, add_generation_prompt=True) == "d"
    assert template.render(CHAT, tools=TOOLS, add_generation_prompt=True) == "t"
    assert template.render(CHAT, documents=[{"text": ""}], add_generation_prompt=True) == "r"
    with pytest.raises(RequestError, match="tool_use"):
        ChatTemplate({"tool_use": "t"}).render(CHAT, add_generation_prompt=True)


def test_how_a_template_reads_content_is_found_by_trying() -> None:
    string = "{% for m in messages %}{{ m.role + m.content }}{% endfor %}"
    parts = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
    assert ChatTemplate(string).content_format == "string"
    assert ChatTemplate(parts).content_format == "parts"


class TestLoading:
    def test_from_a_gguf_file(self, smollm2_path: Path, gemma3_path: Path) -> None:
        template = load_chat_template(smollm2_path)
        assert template is not None
        text = template.render([{"role": "user", "content": "Hi"}], add_generation_prompt=True)
        assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
        assert load_chat_template(gemma3_path) is None  # a base model

    def test_several_named_ones_in_a_gguf_file(self, tmp_path: Path) -> None:
        file = tmp_path / "m.gguf"
        writer = gguf.GGUFWriter(file, "llama")
        writer.add_chat_template(
            [
                {"name": "default", "template": "{{ bos_token }}d{{ unk_token }}"},
                {"name": "tool_use", "template": "t"},
            ]
        )
        writer.add_token_list(["<unk>", "<s>"])
        writer.add_bos_token_id(1)
        writer.add_unk_token_id(0)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        template = load_chat_template(file)
        assert template is not None
        assert template.render(CHAT, add_generation_prompt=True) == "<s>d<unk>"
        assert template.render(CHAT, tools=TOOLS, add_generation_prompt=True) == "t"

    def folder(self, path: Path, template: Any, **files: str) -> Path:
        config = {"bos_token": {"content": "<s>"}, "chat_template": template}
        (path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        for name, text in files.items():
            file = path / name.replace("__", "/")
            file.parent.mkdir(exist_ok=True)
            file.with_suffix(".jinja").write_text(text, encoding="utf-8")
        return path

    def render(self, path: Path, **kwargs: Any) -> str:
        template = load_chat_template(path)
        assert template is not None
        return template.render(CHAT, add_generation_prompt=True, **kwargs)

    def test_from_a_folder(self, tmp_path: Path) -> None:
        assert load_chat_template(tmp_path) is None
        assert self.render(self.folder(tmp_path, "{{ bos_token }}config")) == "<s>config"
        named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
        assert self.render(self.folder(tmp_path, named), tools=TOOLS) == "t"
        files = {"chat_template": "file", "additional_chat_templates__rag": "rag"}
        self.folder(tmp_path, "config", **files)
        assert self.render(tmp_path) == "file"
        assert self.render(tmp_path, documents=[{}]) == "rag"

    def test_the_users_own_file_comes_first(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path, "config")
        own = tmp_path / "own.jinja"
        own.write_text("{{ bos_token }}own", encoding="utf-8")
        template = load_chat_template(folder, own)
        assert template is not None
        assert template.render(CHAT, add_generation_prompt=True) == "<s>own"
        with pytest.raises(ConfigError, match="absent"):
            load_chat_template(folder, tmp_path / "absent")
        own.write_text("{% if %}", encoding="utf-8")
        with pytest.raises(ConfigError, match=r"own\.jinja.*line 1"):
            load_chat_template(folder, own)

    def test_what_is_no_text_or_no_template_is_named(self, tmp_path: Path) -> None:
        file = tmp_path / "chat_template.jinja"
        for content, words in (
            (b"\xff\xfe{{", r"chat_template\.jinja: cannot be read"),
            (b"{{ a }}" * 50_000, "has 350000 characters, at most"),
            (b"{% if a %}" * 200 + b"{% endif %}" * 200, "chat template 'default'"),
        ):
            file.write_bytes(content)
            with pytest.raises(ModelError, match=words):
                load_chat_template(tmp_path)
        file.unlink()
        self.folder(tmp_path, [{"name": ["a"], "template": 7}])
        assert load_chat_template(tmp_path) is not None  # an odd name is no harm

    def test_a_broken_template_names_the_model(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=rf"{tmp_path.name}.*line 2"):
            load_chat_template(self.folder(tmp_path, "\n{% endfor %}"))
        with pytest.raises(ModelError, match="chat_template"):
            load_chat_template(self.folder(tmp_path, [{"name": "x"}]))
