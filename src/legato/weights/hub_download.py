"""Models of the Hugging Face hub. What an interrupted download left behind is continued, byte for byte.

``huggingface_hub`` finds the repository, its files and the credentials. Its own download starts a file
anew in each process, so the bytes are fetched here: into ``<file>.part``, from where it ends, checked
against the size (and SHA-256, where the hub knows it), then renamed.

A commit is fetched beside the model that is there, and takes its place when it is complete.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

from legato.errors import ModelError
from legato.weights import hub_store
from legato.weights.alone import alone, beside
from legato.weights.files import ModelFiles
from legato.weights.hub_store import HubModel, Record
from legato.weights.progress import offset_by, reporting

_SIDE_FILES: Final = re.compile(
    r"(config|generation_config|tokenizer\w*|chat_template|special_tokens_map|added_tokens|vocab)\.json"
    r"|.+\.jinja|tokenizer\.model|merges\.txt"
)
_WEIGHTS: Final = re.compile(r"model.*\.safetensors|model\.safetensors\.index\.json")
ATTEMPTS: Final = 5  # in a row without a single new byte
PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 60.0  # that a hub can ask for, by Retry-After
CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 30.0  # without a byte; the session's own timeout is none at all


class _BrokenOff(Exception):
    """The connection ended before the file did."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of the repository's top level."""

    name: str
    nbytes: int
    sha256: str | None  # known for large files


def pull(model: HubModel, root: Path, progress: bool) -> ModelFiles:
    """The newest revision of ``model``; the one on disk if the hub cannot be reached."""
    try:
        commit, files = _listing(model)
    except ModelError:
        raise
    except Exception as error:  # the transport's own exceptions differ between hub versions
        if (found := hub_store.find(model, root)) is not None:
            return found
        raise ModelError(f"{model.name}: the hub cannot be reached: {_line(error)}") from error
    folder = model.folder(root)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone(folder):
            _fetch_all(model, commit, files, folder, progress)
    except HfHubHTTPError as error:  # an OSError too, but not the disk's
        raise _refusal(model, error) from error
    except OSError as error:
        reason = error.strerror or _line(error)
        raise ModelError(f"{model.name}: cannot be stored in {folder}: {reason}") from error
    found = hub_store.find(model, root)
    if found is None:
        raise ModelError(f"{model.name}: the download into {folder} is incomplete")
    return found


def _listing(model: HubModel) -> tuple[str, list[RemoteFile]]:
    """The commit and the files to fetch."""
    try:
        info = HfApi().model_info(
            model.repo,
            files_metadata=True,
            timeout=_timeout(),  # type: ignore[arg-type]  # handed on to the session as it is
        )
    except RepositoryNotFoundError as error:  # GatedRepoError is one as well
        raise _refusal(model, error) from error
    found: list[RemoteFile] = []
    for sibling in info.siblings or []:
        if "/" not in sibling.rfilename and sibling.size is not None:
            sha256 = sibling.lfs.sha256 if sibling.lfs is not None else None
            found.append(RemoteFile(sibling.rfilename, sibling.size, sha256))
    if info.sha is None:
        raise ModelError(f"{model.repo}: the hub did not name a commit")
    return info.sha, _choose(model, found)


def _refusal(model: HubModel, error: HfHubHTTPError) -> ModelError:
    """What the hub's final answer means for ``model``."""
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        reason = "access is restricted: accept its terms on the hub and set HF_TOKEN"
    elif isinstance(error, RepositoryNotFoundError):
        reason = "the hub has no such model (or it is private: set HF_TOKEN)"
    elif status in (401, 403):
        reason = f"the hub refuses access ({status}): check what HF_TOKEN permits"
    else:
        reason = f"the hub refuses the download ({status}): {_line(error)}"
    return ModelError(f"{model.repo}: {reason}")


def _timeout() -> tuple[float, float, float, float]:
    """To connect, to read, to write and to get a connection: a stalled hub is a broken one."""
    return CONNECT_SECONDS, READ_SECONDS, READ_SECONDS, CONNECT_SECONDS


def _choose(model: HubModel, files: list[RemoteFile]) -> list[RemoteFile]:
    """Safetensors and what belongs to them, or one GGUF file."""
    if model.choice is None:
        weights = [f for f in files if _WEIGHTS.fullmatch(f.name)]
        if any(f.name == "config.json" for f in files) and weights:
            return weights + [f for f in files if _SIDE_FILES.fullmatch(f.name)]
    found = _chosen((model.choice or "").lower(), [f for f in files if f.name.endswith(".gguf")])
    if len(found) == 1:
        return found
    names = ", ".join(f.name for f in files if f.name.endswith(".gguf"))
    if not names:
        raise ModelError(
            f"{model.repo}: it has neither safetensors with a config.json nor GGUF files"
        )
    raise ModelError(
        f"{model.name}: choose one GGUF file with {model.repo}:PART_OF_ITS_NAME, of: {names}"
    )


def _chosen(choice: str, files: list[RemoteFile]) -> list[RemoteFile]:
    """Those whose names have ``choice`` in them; the one alone that it says in full, where another goes
    on: ``Q6_K`` is not ``Q6_K_L``, and ``f16`` no end of ``bf16``."""
    found = [f for f in files if choice in f.name.lower()]
    whole = re.compile(rf"(.*[-._])?{re.escape(choice.removesuffix('.gguf'))}\.gguf")
    exact = [f for f in found if whole.fullmatch(f.name.lower())]
    return exact if len(exact) == 1 else found


def _fetch_all(
    model: HubModel, commit: str, files: list[RemoteFile], folder: Path, progress: bool
) -> None:
    sizes = {file.name: file.nbytes for file in files}
    record = hub_store.read_record(folder)
    is_there = record is not None and record.commit == commit
    into = folder if is_there else beside(folder, "next")
    if not is_there:
        _start_commit(into, commit)
    missing = [f for f in files if _length(into / f.name) != f.nbytes]
    _need_space(into, sum(f.nbytes - _length(_part(into, f)) for f in missing))
    total = sum(sizes.values())
    done = total - sum(f.nbytes for f in missing)
    with reporting(f"Downloading {model.name}", total, progress) as report:
        for file in missing:
            _fetch(model.repo, commit, file, into, offset_by(done, report))
            done += file.nbytes
        report(total)
    hub_store.write_record(into, Record(commit, sizes))
    if not is_there:
        _replace(folder, into)


def _start_commit(folder: Path, commit: str) -> None:
    """Partial files of another commit must not be continued with this one's bytes."""
    marker = folder / ".commit"
    if not marker.exists() or marker.read_text(encoding="ascii") != commit:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        marker.write_text(commit, encoding="ascii")


def _replace(folder: Path, complete: Path) -> None:
    """``complete`` takes the place of ``folder``, if there is one."""
    former = beside(folder, "former")
    if former.exists():  # of a process that was killed here
        shutil.rmtree(former)
    if folder.exists():
        folder.rename(former)
    complete.rename(folder)
    shutil.rmtree(former, ignore_errors=True)


def _fetch(
    repo: str, commit: str, file: RemoteFile, folder: Path, report: Callable[[int], None]
) -> None:
    """One file, in as many attempts as it takes while each brings something new."""
    part = _part(folder, file)
    failures = 0
    while (have := _length(part)) < file.nbytes or not part.exists():
        try:
            _append(repo, commit, file, part, report)
        except Exception as error:
            if not _worth_repeating(error):
                raise
            failures = 0 if _length(part) > have else failures + 1
            if failures == ATTEMPTS:
                raise ModelError(
                    f"{repo}: {file.name}: the download broke off at {_length(part)} of "
                    f"{file.nbytes} bytes ({_line(error)}); run it again to continue"
                ) from error
            time.sleep(max(PAUSE_SECONDS * failures, _asked_pause(error)))
    if _length(part) != file.nbytes or not _intact(part, file.sha256):
        part.unlink()
        raise ModelError(f"{repo}: {file.name}: the download is corrupt; run it again")
    part.replace(folder / file.name)


def _worth_repeating(error: Exception) -> bool:
    """Broken connections, by whatever name the transport gives them; not a full disk, not a 404."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status >= 500 or status == 429  # too many requests, for now
    return not isinstance(error, (OSError, ModelError))


def _asked_pause(error: Exception) -> float:
    """Seconds to wait that a busy hub asks for, within reason."""
    if not isinstance(error, HfHubHTTPError):
        return 0.0
    asked = error.response.headers.get("Retry-After", "")
    return min(float(asked), LONGEST_PAUSE_SECONDS) if asked.isdecimal() else 0.0


def _append(
    repo: str, commit: str, file: RemoteFile, part: Path, report: Callable[[int], None]
) -> None:
    have = _length(part)
    headers: dict[str, Any] = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    url = hf_hub_url(repo, file.name, revision=commit)
    stream = get_session().stream(
        "GET", url, headers=headers, follow_redirects=True, timeout=_timeout()
    )
    with stream as response, open(part, "ab") as out:
        hf_raise_for_status(response)
        if have and response.status_code != 206:  # the server sends it from the start
            have = 0
            out.truncate(0)
        # pieces of a fixed size would be lost half full when the connection breaks
        for chunk in response.iter_bytes():
            out.write(chunk)
            have += len(chunk)
            report(have)
    if have < file.nbytes:
        raise _BrokenOff("the server closed the connection early")


def _intact(path: Path, sha256: str | None) -> bool:
    if sha256 is None:
        return True
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _part(folder: Path, file: RemoteFile) -> Path:
    return folder / (file.name + ".part")


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _need_space(folder: Path, nbytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise ModelError(
            f"{folder}: no disk space: {nbytes // 2**20} MB are needed, {free // 2**20} MB are free"
        )


def _line(error: Exception) -> str:
    """The first line of a message, with the exception's name where the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
