"""Templates that ask for little in writing and for much in doing are stopped before they have it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from legato.errors import RequestError
from legato.text import budget
from legato.text.template import ChatTemplate

CHAT = [{"role": "user", "content": "Hi"}]
MILLIONS = "{% set l = [0] * 1000 %}{% set l = [l] * 1000 %}{% set l = [l] * 100 %}"
TREES = (
    "{% set a = namespace(x=(0,)) %}{% set b = namespace(x=(0,)) %}{% for i in range(60) %}"
    "{% set a.x = (a.x, a.x) %}{% set b.x = (b.x, b.x) %}{% endfor %}"
)
"""A tuple of two of the next, 60 levels deep: 2**60 ends in the memory of 120."""

LARGE = [
    "{{ ('a' * 20000) | replace('a', 'b' * 20000) | length }}",
    "{{ ('a' * 20000) | replace('a', new='b' * 20000) | length }}",
    "{{ ['a' * 20000] | map('replace', 'a', 'b' * 20000) | join }}",
    "{{ ('a' * 20000).encode().replace('a'.encode(), ('b' * 20000).encode()) | length }}",
    "{{ (['a' * 1000000] * 400) | join | length }}",
    "{{ (['a'] * 1000) | join('b' * 1000000) | length }}",
    "{{ ([{'t': 'a' * 1000000}] * 400) | join(attribute='t') | length }}",
    "{{ ''.join(['a' * 1000000] * 400) | length }}",
    "{{ ''.join((['a' * 1000000] * 400) | map('string')) | length }}",
    "{{ 'a'.translate({97: 'b' * 1000000}) | length }}",
    "{{ '{:{}}'.format('x', 500000000) | length }}",
    "{{ '{:{w}}'.format('x', w=500000000) | length }}",
    "{{ ('{0}' * 1000).format('x' * 1000000) | length }}",
    "{{ ('{:999999}' * 300).format(*([1] * 300)) | length }}",
    "{{ (('%999999d' * 300) % ((1,) * 300)) | length }}",
    "{{ (('%999999d' * 300) | format(*((1,) * 300))) | length }}",
    "{{ (('%(a)s' * 1000) % {'a': 'x' * 1000000}) | length }}",
    "{{ ('%*d' % (500000000, 1)) | length }}",
    "{{ 'x' | indent('y' * 1000000 * 60, true) | indent('y' * 1000000 * 60, true) }}",
    "{{ (['a\n' * 1000] | map('indent', 1000000) | list)[0] | length }}",
    "{{ 1 | round(3000000, 'ceil') }}",
    "{{ 1 | round(-3000000) }}",
    "{{ messages | length | round(precision=3000000, method='floor') }}",
    "{{ messages | tojson(indent=300000000) | length }}",
    "{{ ([0] * 1000000) | tojson(separators=(',' * 1000, ':')) | length }}",
    "{% set l = namespace(x=[]) %}{% for i in range(400) %}{% set l.x = [l.x] %}{% endfor %}"
    "{{ ([l.x] * 2000) | tojson(indent=100) | length }}",
    "{{ ('f' * 1000000) | int(base=16) // 3 }}",
    "{{ (1).to_bytes(500000000, 'big') | length }}",
    "{{ ('x ' * 30000000).split() | length }}",
    "{{ ('aB ' * 20000000) | title | length }}",
    "{{ ('é' * 1000000).encode('punycode') | length }}",
    "{{ strftime_now('%c' * 10000000) | length }}",
    *(
        f"{MILLIONS}{{{{ {use} | length }}}}"
        for use in (
            "l | string", "l | tojson", "l | trim", "l | upper", "l | join", "(l ~ 'x')", "l | e",
            "('%s' % l)", "('%s' % (l,))", "('{}'.format(l))", "('{x}'.format(x=l))", "'{x}'.format_map({'x': l})",
            "{'a': l}.items() | string", "{'a': l}.values() | string", "namespace(l=l) | string",
            "('%s' | format(l))", "'a' | replace(l, 'b')", "'a' | indent(l)", "([l] | map('string') | join)",
        )
    ),
    MILLIONS + "{{ l }}",
    MILLIONS + "{% set x %}{{ l }}{% endset %}",
    *(
        f"{TREES}{{{{ {use} }}}}"
        for use in (
            "a.x", "a.x == b.x", "a.x is eq(b.x)", "a.x in [b.x]", "1 < 2 != a.x == b.x", "{a.x: 1} | length",
            "{}[a.x]", "{}.get(a.x)", "[b.x].index(a.x)", "[a.x, b.x] | unique | list | length",
            "[a.x, b.x] | sort | length", "[a.x] | select('equalto', b.x) | list | length", "dict.fromkeys([a.x])",
            "{}.fromkeys([a.x])",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("source", LARGE)
def test_what_builds_much_from_little_is_stopped(source: str) -> None:
    start = time.process_time()
    with pytest.raises(RequestError, match="too (much|large|long)|translate|UTF-8"):
        ChatTemplate(source).render(CHAT, add_generation_prompt=True)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("name", ["batch", "slice", "wordwrap", "urlize", "striptags", "pprint"])
def test_filters_for_web_pages_are_refused_where_they_are_reached(name: str) -> None:
    with pytest.raises(RequestError, match=f"the filter {name}, which is not there"):
        ChatTemplate(f"{{{{ 'a' | {name} }}}}").render(CHAT, add_generation_prompt=True)
    unused = ChatTemplate(f"{{% if false %}}{{{{ 'a' | {name} }}}}{{% endif %}}a")
    assert unused.render(CHAT, add_generation_prompt=True) == "a"


def test_to_ask_whether_there_are_tools_costs_nothing() -> None:
    """However many there are, and however often it is asked."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": [*range(1000)]}}] * 100
    asked = ("tools != none", "tools == []", "none == tools", "tools is ne(none)", "tools == 1")
    source = "".join(f"{{% if {one} %}}{{% endif %}}" for one in asked)
    template = ChatTemplate(f"{{% for m in range(1000) %}}{source}{{% endfor %}}a")
    assert template.render(CHAT, tools=tools, add_generation_prompt=True) == "a"


def test_what_is_common_has_room() -> None:
    source = "{{ [[1], [2]] | sum(start=[]) }}{{ 'a'.encode('UTF8') }}"
    template = ChatTemplate(source)
    assert template.render(CHAT, add_generation_prompt=True) == "[1, 2]b'a'"


def test_nothing_is_computed_while_a_template_is_compiled() -> None:
    source = "{{ ('a' | center(60000000)) }}{% if 'a' | center(60000000) %}{% endif %}"
    start = time.process_time()
    template = ChatTemplate(source * 500)
    assert time.process_time() - start < 5
    with pytest.raises(RequestError, match="too much"):
        template.render(CHAT, add_generation_prompt=True)


def test_filters_alone_take_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MAX_STEPS", 30)
    with pytest.raises(RequestError, match="too long"):
        ChatTemplate("{{ 'a'" + " | trim" * 50 + " }}").render(CHAT, add_generation_prompt=True)
    with pytest.raises(RequestError, match="too long"):
        ChatTemplate("{{ ('a' * 200) | list }}").render(CHAT, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ '{{\"a\": {}, **{:>4d}}}'.format('x', 7) }}", '{"a": x, **   7}'),
        ("{{ '{i:d}'.format(i=3) }}{{ '{a}'.format_map({'a': 1}) }}", "31"),
        ("{{ '**%s** %3d%%' % ('x', 5) }}{{ '%s' | format([1, 'a']) }}", "**x**   5%[1, 'a']"),
        ("{{ ', '.join(['a', 'b'] | map('upper')) }}{{ 'a.b'.split('.') }}", "A, B['a', 'b']"),
        ("{{ [1, 'a', none] | join('-') }}{{ 'ab' | join(',') }}", "1-a-Nonea,b"),
        ("{{ [{'n': 1}, {'n': 2}] | join('+', attribute='n') }}", "1+2"),
        ("{{ absent | join }}{{ absent | list }}{{ absent | items | list }}", "[][]"),
        ("{{ [3, 1, 2] | sort | reverse | list }}{{ [1, 1] | unique | list }}", "[3, 2, 1][1]"),
        ("{{ {'b': 1, 'a': 2} | dictsort }}{{ [1, 2] | sum }}", "[('a', 2), ('b', 1)]3"),
        ("{{ 2.567 | round(1) }}{{ 7 // 2 }}{{ 'x' | center(3) }}|", "2.63 x |"),
        ("{{ 'a-b' | replace('-', '+') }}{{ 'a\nb' | indent(2, true) }}", "a+b  a\n  b"),
        ("{{ {'a': [1, {}]} | tojson(indent=1) }}", '{\n "a": [\n  1,\n  {}\n ]\n}'),
        ("{{ [1, 2] == [1, 2] }}{{ [1] in [[1]] }}{{ {(1, 2): 3}[(1, 2)] }}", "TrueTrue3"),
        ("{{ 'é'.encode('utf-8') }}{{ 'a bc' | title }}", "b'\\xc3\\xa9'A Bc"),
        ("{{ '10' | int(base=16) }}{{ '12' | int }}{{ 'a' ~ 1 ~ none }}", "1612a1None"),
        ("{{ [{'r': 'a'}, {'r': 'b'}] | selectattr('r', 'equalto', 'b') | list }}", "[{'r': 'b'}]"),
    ],
)
def test_what_templates_do_is_as_it_was(source: str, text: Any) -> None:
    assert ChatTemplate(source).render(CHAT, add_generation_prompt=True) == text
