"""The operators' own tests (native/tests): built with CMake, run by ctest, on every instruction set of this CPU."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(*command: str) -> None:
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, env={**os.environ, "PATH": tools}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]


@pytest.mark.timeout(1200)
def test_operators_against_their_references() -> None:
    tools = [Path(sys.executable).parent / "cmake", shutil.which("cmake")]
    if not any(tool and Path(tool).exists() for tool in tools):
        pytest.skip("cmake is not installed")
    folder = str(ROOT / "build" / "native_tests")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run(
        *("cmake", "-S", str(ROOT), "-B", folder, *generator, "-DCMAKE_BUILD_TYPE=Release"),
        *("-DLEGATO_PYTHON_MODULE=OFF", "-DLEGATO_NATIVE_TESTS=ON"),
    )
    run("cmake", "--build", folder, "--parallel", str(len(os.sched_getaffinity(0))))
    run("ctest", "--test-dir", folder, "--output-on-failure")
