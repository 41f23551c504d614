"""The files in deploy/: what a machine can say of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from legato.cli import build_parser

DEPLOY = Path(__file__).parents[2] / "deploy"


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<=\s)--[a-z-]+", text))


def test_flags_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """Those of ``legato serve`` in unit and container file."""
    with pytest.raises(SystemExit):
        build_parser().parse_args(["serve", "--help"])
    known = flags_in(capsys.readouterr().out.replace("[", " ").replace(",", " "))
    assert "--drain-timeout" in known
    for name in ("legato.service", "Containerfile"):
        lines = (DEPLOY / name).read_text(encoding="utf-8").splitlines()
        served = [line.partition("legato serve")[2] for line in lines if "legato serve" in line]
        used = set().union(*map(flags_in, served))
        assert used and not used - known, name


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_the_unit_is_sound(tmp_path: Path) -> None:
    """systemd understands every line, and finds little exposed."""
    unit = tmp_path / "legato.service"
    text = (DEPLOY / "legato.service").read_text(encoding="utf-8")
    unit.write_text(text.replace("/opt/legato/bin/legato", "/bin/true"), encoding="utf-8")
    said = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert "legato.service:" not in said.stderr, said.stderr
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = re.search(r"exposure level for legato.service: ([\d.]+)", judged.stdout)
    assert found is not None and float(found[1]) < 2.5
