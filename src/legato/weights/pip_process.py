"""``python -m legato.weights.pip_process PARENT ARGUMENTS``: this interpreter's pip, which ends with the
process that asked for it. Of a download that was interrupted nobody wants the rest."""

from __future__ import annotations

import runpy
import sys

from legato.parent import die_with

if __name__ == "__main__":
    die_with(int(sys.argv.pop(1)))
    runpy.run_module("pip", run_name="__main__", alter_sys=True)
