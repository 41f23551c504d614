"""Flags are the fields of the settings."""

from __future__ import annotations

import argparse
from dataclasses import Field, fields
from typing import get_args, get_type_hints

import pytest

from legato.cli import build_parser
from legato.config import EngineConfig, ServerConfig
from legato.errors import ConfigError
from legato.flags import from_flags, size


@pytest.mark.parametrize(
    ("text", "expected"),
    [("123", 123), ("2GiB", 2 * 1024**3), ("500MB", 500_000_000), ("1.5g", 1_500_000_000),
     ("64 KiB", 65536), ("10b", 10), ("3Mi", 3 * 1024**2)],
)  # fmt: skip
def test_sizes(text: str, expected: int) -> None:
    assert size(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "two", "1TB", "-1", "1.2.3"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        size(text)


def test_every_field_is_a_flag_of_serve() -> None:
    for field in (*fields(EngineConfig), *fields(ServerConfig)):
        flag = "--" + field.name.replace("_", "-")
        value = {"bool": []}.get(str(field.type), ["1"])
        if field.metadata.get("choices"):
            value = [field.metadata["choices"][0]]
        arguments = build_parser().parse_args(["serve", flag, *value])
        assert field.name in vars(arguments), flag


def test_what_is_not_given_keeps_its_default() -> None:
    arguments = build_parser().parse_args(
        ["serve", "m.gguf", "--kv-cache-memory", "2GiB", "--no-enable-prefix-caching"]
    )
    config = from_flags(EngineConfig, arguments)
    assert config == EngineConfig(
        model="m.gguf", kv_cache_memory=2 * 1024**3, enable_prefix_caching=False
    )
    assert from_flags(ServerConfig, arguments) == ServerConfig()


def test_model_is_a_word_or_a_flag() -> None:
    parse = build_parser().parse_args
    assert parse(["serve", "a"]).model == parse(["serve", "--model", "a"]).model == "a"
    assert from_flags(EngineConfig, parse(["serve"])).model == "smollm2"


def test_invalid_values_are_config_errors() -> None:
    arguments = build_parser().parse_args(["serve", "--max-num-seqs", "0"])
    with pytest.raises(ConfigError, match="max_num_seqs must be 1 to 65536, got 0"):
        from_flags(EngineConfig, arguments)


BOUNDED = [
    (settings, spec)
    for settings in (EngineConfig, ServerConfig)
    for spec in fields(settings)
    if spec.metadata.get("within")
]


@pytest.mark.parametrize(("settings", "spec"), BOUNDED, ids=[spec.name for _, spec in BOUNDED])
def test_numbers_have_bounds(settings: type, spec: Field[object]) -> None:
    """No number gets as far as the core, or to another process, which would not know its field."""
    least, most = spec.metadata["within"]
    for value in (least, most):
        assert getattr(settings(**{spec.name: value}), spec.name) == value
    beyond = {least - 1, most * 2, 10**30, float("nan"), float("inf"), "1"}
    for value in beyond | ({least + 0.5} if isinstance(least, int) else set()):
        kind = "a whole number, " if isinstance(least, int) and not isinstance(value, int) else ""
        said = f"{spec.name} must be {kind}{least} to {most}"
        with pytest.raises(ConfigError, match=f"^{said}") as refused:
            settings(**{spec.name: value})
        assert refused.value.field == spec.name


def test_every_number_has_bounds() -> None:
    for settings in (EngineConfig, ServerConfig):
        kinds = get_type_hints(settings)
        for spec in fields(settings):
            if {int, float} & {kinds[spec.name], *get_args(kinds[spec.name])}:
                assert spec.metadata.get("within"), spec.name


OPTIONAL = {"max_model_len", "step_time_target_ms", "speculative_config", "draft_model"}
OPTIONAL |= {"kv_cache_memory", "threads", "isa"}


@pytest.mark.parametrize("spec", fields(EngineConfig), ids=lambda spec: spec.name)
def test_none_is_a_value_of_few(spec: Field[object]) -> None:
    """In Python None is soon passed on, and would be found out by whatever computes with it."""
    if spec.name in OPTIONAL:
        assert getattr(EngineConfig(**{spec.name: None}), spec.name) is None
    else:
        with pytest.raises(ConfigError, match=f"^{spec.name} must be .*, got None$") as refused:
            EngineConfig(**{spec.name: None})
        assert refused.value.field == spec.name


@pytest.mark.parametrize("given", ["", ",", " , "])
def test_a_key_that_is_none_does_not_open_the_server(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """``--api-key "$KEY"`` with an unset variable."""
    with pytest.raises(ConfigError, match="api_key has no key in it"):
        ServerConfig(api_key=given)
    assert ServerConfig(api_key="a, b,").api_keys == ["a", "b"]
    monkeypatch.setenv("LEGATO_API_KEY", "")
    assert ServerConfig().api_keys == []
    monkeypatch.setenv("LEGATO_API_KEY", ",")
    with pytest.raises(ConfigError):
        ServerConfig()


def test_a_size_beyond_all_sizes_is_none() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a size"):
        size("9" * 400)
