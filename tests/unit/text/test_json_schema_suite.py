"""Schemas against the official JSON Schema Test Suite: what a grammar accepts is what is valid.

A schema that is not supported must be refused by name. ``make test`` fetches the suite, in the sources
of the package ``jsonschema``.
"""

from __future__ import annotations

import json
import sys
import tarfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from legato.constraint.grammar import Grammar
from legato.constraint.tokens import TokenTable
from legato.errors import RequestError
from legato.text.grammar import json_schema

FOLDER = Path(sys.prefix) / "share" / "legato-tests"
BYTES = TokenTable.of([bytes([byte]) for byte in range(256)] + [b"</s>"], [256], [256])
META = {
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
    "draft7": "http://json-schema.org/draft-07/schema#",
}

REFUSED = (
    "Unimplemented key",  # the suite's schemas for: not, if, contains, uniqueItems, propertyNames,
    # dependent*, unevaluated*, $dynamicRef
    "oneOf constraints are not supported",  # unless no text is valid under two of them
    "Default retriever does not fetch",  # a $ref to another document: nothing is fetched
    "Unsatisfiable schema",
    "Unknown format",
    "Expected positive integer",  # maxItems: 2.0
    "are not disjoint",  # patternProperties that overlap
    "too many digit",  # multipleOf: 0.123456789
    "must be a JSON schema",  # false
)
"""What a refusal says; anything else is a defect."""

DEVIATIONS = {
    "properties come in the schema's order": {
        ("allOf", "allOf"),
        ("const", "same object with different property order is valid"),
    },
    "keywords beside a $ref hold, in old drafts, too": {("ref", "ref valid, maxItems ignored")},
    "a whole number is written without a fraction": {
        ("const", "float zero is valid"),
        ("const", "float one is valid"),
        ("const", "float -2.0 is valid"),
        ("const", "float is valid"),
        ("enum", "float zero is valid"),
        ("enum", "[0.0] is valid"),
        ("enum", "float one is valid"),
        ("enum", "[1.0] is valid"),
        ("type", "a float with zero fractional part is an integer"),
    },
}
"""Valid texts that a grammar does not allow, by reason. None that is invalid is allowed."""


@cache
def cases(draft: str) -> list[tuple[str, dict[str, Any]]]:
    """(file, case) of a draft's mandatory tests."""
    archives = sorted(FOLDER.glob("jsonschema-*.tar.gz"))
    if not archives:
        pytest.skip(f"SKIPPED LOUDLY: no JSON Schema Test Suite in {FOLDER} (make test fetches it)")
    found = []
    with tarfile.open(archives[-1]) as archive:
        for member in archive.getmembers():
            folder, _, name = member.name.rpartition(f"/json/tests/{draft}/")
            if not folder or "/" in name:
                continue
            file = archive.extractfile(member)
            assert file is not None
            found += [(name.removesuffix(".json"), case) for case in json.load(file)]
    return found


def written(value: Any, schema: Any) -> Any:
    """``value`` with its properties in the order of the schema, as the grammar writes them."""
    inner = schema if isinstance(schema, dict) else {}
    if isinstance(value, list):
        items = inner.get("items")
        return [written(item, items) for item in value]
    if not isinstance(value, dict):
        return value
    properties = inner.get("properties", {})
    keys = [
        *(key for key in properties if key in value),
        *(k for k in value if k not in properties),
    ]
    return {key: written(value[key], properties.get(key)) for key in keys}


def accepts(grammar: Grammar, text: str) -> bool:
    try:
        grammar.feed(text.encode())
    except RequestError:
        return False
    return grammar.is_accepting


def is_known(file: str, description: str) -> bool:
    is_format = file == "format" and description.endswith("only an annotation by default")
    return is_format or any((file, description) in known for known in DEVIATIONS.values())


@pytest.mark.parametrize("draft", META)
def test_what_is_valid_is_accepted_and_nothing_else(draft: str) -> None:
    wrong, seen = [], Counter[str]()
    for file, case in cases(draft):
        schema = case["schema"]
        marked = {"$schema": META[draft], **schema} if isinstance(schema, dict) else schema
        try:
            grammar = Grammar.compile(json_schema(marked, "schema"), BYTES, "schema")
        except RequestError as error:
            assert any(reason in str(error) for reason in REFUSED), (file, case, str(error))
            seen["refused"] += 1
            continue
        for test in case["tests"]:
            text = json.dumps(written(test["data"], schema), ensure_ascii=False)
            got = accepts(grammar.copy(), text)
            assert not got or test["valid"], (file, case["description"], test["description"])
            if got != test["valid"] and not is_known(file, test["description"]):
                wrong.append((file, case["description"], test["description"]))
            seen["tested"] += 1
    assert not wrong
    assert seen["tested"] > 500 and seen["refused"] < 250
