"""Flags are the fields of the settings."""

from __future__ import annotations

import argparse
from dataclasses import fields

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
    with pytest.raises(ConfigError, match="max_num_seqs must be at least 1"):
        from_flags(EngineConfig, arguments)


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
