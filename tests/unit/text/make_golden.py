"""Writes golden_*.json: the token ids that llama.cpp's llama-tokenize gives for the corpus.

    LEGATO_LLAMA_CPP_BIN=.../build/bin python tests/unit/text/make_golden.py

needs the models installed (legato pull smollm2; legato pull gemma3-270m).
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import corpus

from legato.weights import hub

HERE = Path(__file__).parent
GOLDEN = {"smollm2": HERE / "golden_smollm2.json", "gemma3-270m": HERE / "golden_gemma3.json"}


def llama_tokenize(binaries: Path, model: Path, text: str, *, parse_special: bool) -> list[int]:
    """Ids without BOS. The program reads its prompt from a file, byte for byte."""
    if not text:
        return []  # the program refuses an empty prompt
    command = [str(binaries / "llama-tokenize"), "-m", str(model)]
    command += ["--ids", "--no-bos", "--no-escape", "--log-disable"]
    if not parse_special:
        command.append("--no-parse-special")
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write(text.encode())
        file.flush()
        done = subprocess.run([*command, "-f", file.name], capture_output=True, check=True)
    ids: list[int] = json.loads(done.stdout)
    return ids


def golden(binaries: Path, model: Path) -> list[dict[str, object]]:
    cases = [(text, True) for text in corpus.ALL_TEXTS]
    cases += [(text, False) for text in corpus.SPECIAL]
    return [
        {
            "text": text,
            "parse_special": parse,
            "ids": llama_tokenize(binaries, model, text, parse_special=parse),
        }
        for text, parse in cases
    ]


def main() -> None:
    binaries = Path(os.environ["LEGATO_LLAMA_CPP_BIN"])
    for files in hub.installed():
        if files.name in GOLDEN:
            cases = golden(binaries, files.path)
            lines = ",\n".join(json.dumps(case) for case in cases)
            GOLDEN[files.name].write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
