"""The small JSON files of a Hugging Face folder: read strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec

from legato.errors import ModelError

Id = Annotated[int, msgspec.Meta(ge=0)]


class AddedToken(msgspec.Struct):
    """A token that is matched in text before anything else."""

    id: Id
    content: str
    special: bool
    normalized: bool
    single_word: bool
    lstrip: bool
    rstrip: bool


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty if there is no such file. Raises ``ModelError``."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: must hold a JSON object")
    return value


def token_name(value: Any) -> str | None:
    """The text of a token that is given as a string or as an object with ``content``."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def special_token_names(folder: Path) -> dict[str, str]:
    """``bos_token``, ``eos_token`` and the like, as the folder's two files give them."""
    files = ("special_tokens_map.json", "tokenizer_config.json")
    entries = [item for file in files for item in read_json(folder / file).items()]
    names = {key: token_name(value) for key, value in entries if key.endswith("_token")}
    return {key: name for key, name in names.items() if name is not None}


def declared_tokens(folder: Path, config: dict[str, Any]) -> list[AddedToken]:
    """Those of ``tokenizer_config.json``, by their ids. Most tokenizer.json have the same ones."""
    name, plain = "added_tokens_decoder", dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    try:
        found = [
            {
                **plain,
                "special": False,
                "normalized": not token.get("special"),
                **token,
                "id": int(id),
            }
            for id, token in (config.get(name) or {}).items()
        ]
        return sorted(msgspec.convert(found, list[AddedToken]), key=lambda token: token.id)
    except (AttributeError, TypeError, ValueError, msgspec.ValidationError) as error:
        raise ModelError(f"{folder / 'tokenizer_config.json'}: key {name!r}: {error}") from error
