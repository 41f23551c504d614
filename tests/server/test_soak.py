"""The soak, in short: ``make soak`` and ``scripts/soak.py`` have longer ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[2] / "scripts" / "soak.py"


def test_a_minute_of_everything() -> None:
    command = [sys.executable, str(SOAK), "--minutes", "1", "--connections", "1500"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=290)
    print(f"\n{ended.stdout}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1,500 connections" in ended.stdout and "'kills': 0" not in ended.stdout
