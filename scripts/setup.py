"""Builds the environment that ``make serve``, ``make test`` or ``make check`` runs in.

Usage: python3 scripts/setup.py serve|test|check VENV

Standard library only, and syntax that an old Python understands, so that it can say what is wrong.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile

MINIMUM_PYTHON = (3, 11)
DISK = {"serve": 1 << 30, "test": 3 << 30, "check": 1 << 30}  # bytes that an installation may take
BUILD = ["scikit-build-core>=0.10", "nanobind>=2.4", "ninja", "cmake>=3.24"]
CHECK = ["ruff==0.17.6", "mypy==2.4.1", "clang-format==23.1.5", "pytest>=8"]
TORCH = ["torch==2.13.0"]  # tests only: the independent oracle
TEST_MODELS = ["smollm2", "gemma3-270m"]
SCHEMA_TESTS = "jsonschema==4.26.0"
CPP20 = "#include <concepts>\n#include <barrier>\ntemplate <std::integral T> T id(T x) { return x; }\nint main() { return id(0); }\n"


def fail(message):
    sys.stderr.write("legato: " + message + "\n")
    sys.exit(1)


def say(message):
    sys.stdout.write("legato: " + message + "\n")
    sys.stdout.flush()


def check_python():
    if sys.version_info < MINIMUM_PYTHON:
        fail(
            "Python %d.%d or newer is needed, this is %s. Name one: make serve PYTHON=python3.12"
            % (MINIMUM_PYTHON + (sys.version.split()[0],))
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        fail("this Python has no venv module (Debian, Ubuntu: apt install python3-venv)")


def check_compiler():
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        fail("no C++ compiler found: install g++ >= 12 or clang >= 15, or set CXX")
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "probe.cc")
        with open(source, "w") as file:
            file.write(CPP20)
        command = compiler.split() + ["-std=c++20", source, "-o", os.path.join(folder, "probe")]
        try:
            probe = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            fail("the C++ compiler %s does not run: %s" % (compiler, error))
    if probe.returncode:
        fail("the C++ compiler %s cannot build C++20: install g++ >= 12 or clang >= 15" % compiler)


def check_disk(kind, venv):
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(venv))).free
    if free < DISK[kind]:
        fail("%.1f GB of disk are needed here, %.1f GB are free" % (DISK[kind] / 1e9, free / 1e9))


def run(command, progress=None):
    """Runs a command; its output is kept for the case that it fails, and searched for progress."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if progress:
            progress(line)
    if process.wait():
        sys.stderr.write("".join(lines[-40:]))
        reason = "no space left on the disk" if "No space left" in "".join(lines) else "see above"
        fail("failed (%s): %s" % (reason, " ".join(command)))


def build_progress(line):
    """Shows ninja's [12/60] as one moving line on a terminal, as every tenth step elsewhere."""
    found = re.search(r"\[(\d+)/(\d+)\]", line)
    if found:
        step, steps = int(found.group(1)), int(found.group(2))
        if sys.stdout.isatty():
            sys.stdout.write("\rlegato: compiling %d/%d%s" % (step, steps, "\n" * (step == steps)))
        elif step % 10 == 0 or step == steps:
            sys.stdout.write("legato: compiling %d/%d\n" % (step, steps))
        sys.stdout.flush()
        return
    found = re.match(r"\s*(Collecting|Downloading) (\S+)", line)
    if found and sys.stdout.isatty():
        sys.stdout.write("\r\033[Klegato: %s %s" % (found.group(1).lower(), found.group(2)))
        sys.stdout.flush()


def runtime_requirements():
    """What legato imports, for the type checker."""
    import tomllib

    with open("pyproject.toml", "rb") as file:
        return tomllib.load(file)["project"]["dependencies"]


def install(kind, venv):
    python = os.path.join(venv, "bin", "python")
    if not os.path.exists(python):
        say("creating the environment in %s" % venv)
        run([sys.executable, "-m", "venv", venv])
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    if kind == "check":
        say("installing the tools of make check")
        run(pip + CHECK + runtime_requirements(), build_progress)
        return
    say("installing the build tools")
    run(pip + BUILD, build_progress)
    if kind == "test":
        say("installing torch (CPU; for tests only)")
        run(pip + TORCH, build_progress)
    say("compiling and installing legato")
    target = ".[test]" if kind == "test" else "."
    run(pip + ["-v", "--no-build-isolation", target], build_progress)
    if kind == "test":
        fetch_models(os.path.join(venv, "bin", "legato"))
        fetch_schema_tests(pip, os.path.join(venv, "share", "legato-tests"))


def fetch_models(legato):
    """The real models that the tests run; without one, its tests say that they are skipped."""
    for name in TEST_MODELS:
        say("fetching the model %s, unless it is here" % name)
        if subprocess.run([legato, "pull", name], stdout=subprocess.DEVNULL).returncode:
            say("%s could not be fetched: its tests will be skipped" % name)


def fetch_schema_tests(pip, folder):
    """The JSON Schema Test Suite, which the sources of jsonschema hold; nothing is installed."""
    if os.path.isdir(folder) and any(name.startswith("jsonschema-") for name in os.listdir(folder)):
        return
    say("fetching the JSON Schema Test Suite")
    command = [pip[0], "-m", "pip", "download", "--disable-pip-version-check", "--quiet"]
    command += ["--no-deps", "--no-binary", "jsonschema", "--dest", folder, SCHEMA_TESTS]
    if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        say("the JSON Schema Test Suite could not be fetched: its tests will be skipped")


def main():
    kind, venv = sys.argv[1], sys.argv[2]
    check_python()
    check_disk(kind, venv)
    if kind != "check":
        check_compiler()
    install(kind, venv)
    # One installation serves both, but not the other way round: tests need more.
    for stamp in ("serve", "test") if kind == "test" else (kind,):
        open(os.path.join(venv, "." + stamp), "w").close()
    say("ready")


if __name__ == "__main__":
    main()
