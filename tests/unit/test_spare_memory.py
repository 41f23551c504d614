"""What C's allocator keeps of memory that nobody needs any more, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import re, sys
from legato.spare_memory import give_back, keep_no_large_blocks
def resident():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmRSS:\\s+(\\d+)", status.read())[1]) * 1024
if "tuned" in sys.argv:
    keep_no_large_blocks()
large = bytearray(30 << 20)  # freed, it makes glibc keep blocks up to this size
del large
before, kept = resident(), []
for _ in range(20):
    large = [bytearray(2 << 20) for _ in range(2)]
    kept.append((large.pop(), bytes(1000)))
kept = [small for _, small in kept]
del large
between = resident()
give_back()
print(between - before)
"""


def kept(*arguments: str) -> int:
    """Bytes that stay although only small blocks are in use."""
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_large_blocks_go_back_when_they_are_freed() -> None:
    assert kept("tuned") < 8 << 20 < 30 << 20 < kept()
