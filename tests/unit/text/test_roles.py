"""What a message says besides its words: roles that a template shows or not, keys without a value."""

from __future__ import annotations

from typing import Any

import pytest

from legato.errors import RequestError
from legato.text.continuation import build_prompt
from legato.text.messages import check_keys
from legato.text.template import ChatTemplate

USER = {"role": "user", "content": "hi"}
NAMES_ROLES = (
    "{% for m in messages %}{% if m.role == 'user' or m.role == 'system' %}{{ m.role }}: "
    "{{ m.content }}\n{% endif %}{% endfor %}"
)
SHOWS_ANY = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
# What ``message.model_dump()`` of the official client holds besides role and content.
NOTHING = dict.fromkeys(["tool_calls", "function_call", "refusal", "audio", "annotations"])


def said(source: str, role: str) -> str:
    return build_prompt(ChatTemplate(source), None, [{"role": role, "content": "Be brief"}]).text


def test_a_developer_is_the_system_where_the_template_does_not_name_it() -> None:
    assert said(NAMES_ROLES, "developer") == said(SHOWS_ANY, "developer") == "system: Be brief\n"
    named = SHOWS_ANY + "{# 'developer' #}"
    assert said(named, "developer") == "developer: Be brief\n"


def test_a_message_that_would_vanish_is_refused() -> None:
    assert said(SHOWS_ANY, "critic") == "critic: Be brief\n"
    with pytest.raises(RequestError, match="shows no messages of the role 'sytem'") as caught:
        build_prompt(
            ChatTemplate(NAMES_ROLES), None, [USER, {"role": "sytem", "content": "Be brief"}]
        )
    assert caught.value.field == "messages[1].role"


def test_a_developer_stays_where_the_system_would_vanish() -> None:
    source = (
        "{% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    assert said(source, "developer") == "developer: Be brief\n"
    vain = NAMES_ROLES + "{% if developer_preamble %}{% endif %}{# 'developer' #}"
    assert said(vain, "developer") == "system: Be brief\n"


def test_however_many_roles_were_tried_the_next_one_is_too() -> None:
    template = ChatTemplate(NAMES_ROLES)
    for number in range(200):
        with pytest.raises(RequestError, match="shows no messages of the role"):
            build_prompt(template, None, [USER, {"role": f"role{number}", "content": "x"}])
    assert template._shows.cache_info().currsize < 100


def test_a_chat_has_few_roles_with_short_names() -> None:
    messages = [{"role": f"role{number}", "content": "x"} for number in range(33)]
    for refused in (messages, [{"role": "x" * 257, "content": ""}]):
        with pytest.raises(RequestError, match="at most 32 roles of 256 characters"):
            build_prompt(ChatTemplate(SHOWS_ANY), None, refused)
    assert build_prompt(ChatTemplate(SHOWS_ANY), None, messages[:32]).text.count("x") == 32


def test_a_reply_goes_back_as_the_client_holds_it(published: dict[str, ChatTemplate]) -> None:
    """A key without a value is the same as none, in every published template."""
    answer: dict[str, Any] = {"role": "assistant", "content": "yes"}

    def rendered(template: ChatTemplate, more: dict[str, Any]) -> str:
        try:
            return build_prompt(template, None, [USER, answer | more, USER]).text
        except RequestError as error:
            return str(error)

    for name, template in published.items():
        plain = rendered(template, {})
        assert rendered(template, {**NOTHING}) == plain, name
        assert rendered(template, {"tool_calls": []}) == plain, name


@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_no_content_is_an_empty_one(published: dict[str, ChatTemplate], role: str) -> None:
    """Whether it is null or left out; only beside calls of tools some templates ask for null."""

    def rendered(template: ChatTemplate, content: dict[str, Any]) -> str:
        turns = [USER, {"role": role, **content}, USER]
        turns = turns[1:] if role == "system" else turns
        try:
            return build_prompt(template, None, turns).text
        except RequestError as error:
            return str(error)

    for name, template in published.items():
        empty = rendered(template, {"content": ""})
        assert rendered(template, {"content": None}) == rendered(template, {}) == empty, name
    asks = "{% for m in messages %}{{ m.content is none }}{% endfor %}"
    for key in ("tool_calls", "function_call"):
        called = {"role": "assistant", "content": None, key: [{"id": "1"}]}
        assert build_prompt(ChatTemplate(asks), None, [called, USER]).text == "TrueFalse"


CLIENTS: dict[
    str, Any
] = {  # OpenAI's, vLLM's, DeepSeek's, Kimi's; an answer that is sent back as it came
    "name": "x",
    "tool_call_id": "1",
    "refusal": "no",
    "annotations": [{"type": "url_citation"}],
    "parsed": {"a": 1},
    "reasoning": "hm",
    "reasoning_content": "hm",
    "prefix": True,
    "partial": True,
}


@pytest.mark.parametrize("key", CLIENTS)
def test_what_clients_say_of_a_message_is_known(key: str) -> None:
    check_keys([USER, {**USER, key: CLIENTS[key]}], [NAMES_ROLES])


@pytest.mark.parametrize(
    ("key", "complaint"),
    [
        ("tool_calls", "messages[1].tool_calls is not supported: the chat template shows none"),
        ("function_call", "messages[1].function_call is not supported"),
        ("audio", "messages[1].audio is not supported"),
        ("contnet", "unknown field 'messages[1].contnet'; did you mean 'content'?"),
        ("zzz", "unknown field 'messages[1].zzz'"),
    ],
)
def test_what_a_template_would_drop_is_refused(key: str, complaint: str) -> None:
    messages = [USER, {**USER, key: [{"id": "1"}]}]
    with pytest.raises(RequestError) as caught:
        check_keys(messages, [NAMES_ROLES, f"{{{{ {key} }}}}"])
    assert str(caught.value).startswith(complaint) and caught.value.field == f"messages[1].{key}"
    for nothing in (None, [], ""):
        check_keys([{**USER, key: nothing}], [NAMES_ROLES])
    for reads in (f"m.{key}", f"m['{key}']", f'm.get("{key}")', f"'{key}' in m"):
        check_keys(messages, [NAMES_ROLES, f"{{{{ {reads} }}}}"])
