"""Damaged model files, loaded for as long as asked: ``python scripts/fuzz_models.py --minutes 30``.

Prints how many were loaded and refused, and what went wrong; keeps the files that did in ``--folder``. Ends with 1
if any did. The same ``--seed`` makes the same files.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit" / "models"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fuzz"))

from model_fuzz import ModelFuzz


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="default: a new one")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="legato-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + asked.minutes * 60
    found = ModelFuzz(folder, asked.seed).run(lambda count: time.monotonic() > end)
    for wrong in found.wrong:
        print(wrong)
    print(
        f"{found.kinds.total()} files: {dict(found.kinds)}; the slowest took {found.slowest:.1f} s"
    )
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
