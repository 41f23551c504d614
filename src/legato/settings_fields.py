"""Fields of a settings class: default, help for the command line, and what they may be."""

from __future__ import annotations

from dataclasses import field, fields
from typing import TYPE_CHECKING, Any

from legato.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def flag(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    within: tuple[int, int] | tuple[float, float] | None = None,
    unit: str = "",
) -> Any:
    """A field that is also a command-line flag, with its help text. ``within``: least and most; whole
    numbers, if these are."""
    metadata = {"help": help, "choices": choices, "within": within, "unit": unit}
    return field(default=default, metadata=metadata)


def check(settings: DataclassInstance) -> None:
    """Each value against what its field allows. Raises ConfigError."""
    for spec in fields(settings):
        value = getattr(settings, spec.name)
        choices, within = spec.metadata.get("choices"), spec.metadata.get("within")
        if value is None and "None" in str(spec.type):
            continue
        if choices and value not in choices:
            allowed = f"one of {', '.join(choices)}"
        elif within and not _is_within(value, *within):
            wants_whole = isinstance(within[0], int) and not isinstance(value, int)
            kind = "a whole number, " if wants_whole else ""
            allowed = f"{kind}{within[0]} to {within[1]} {spec.metadata['unit']}".rstrip()
        elif value is None:
            allowed = f"a {spec.type}"
        else:
            continue
        raise ConfigError(f"{spec.name} must be {allowed}, got {value!r}", spec.name)


def _is_within(value: object, least: float, most: float) -> bool:
    kinds = int if isinstance(least, int) else (int, float)
    return isinstance(value, kinds) and least <= value <= most
