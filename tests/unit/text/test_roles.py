"""What a message says besides its words: roles that a template shows or not, keys without a value."""

from __future__ import annotations

from typing import Any

import pytest

from legato.errors import RequestError
from legato.text.continuation import build_prompt
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
