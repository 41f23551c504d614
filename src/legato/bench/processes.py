"""What processes cost: memory and processor time, read from /proc (Linux)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1024.0 * 1024.0


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (status := _stat(int(entry.name))):
            children.setdefault(int(status[1]), []).append(int(entry.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def resident_bytes(pids: list[int]) -> int:
    """Proportional set size: a page that several of the processes share counts once."""
    return sum(_rollup(pid).get("Pss", 0) for pid in pids)


def processor_seconds(pid: int, *, ended: bool = False) -> float:
    """User and system time of a process, all its threads; 0 once it is gone.

    ``ended``: and of its children that have ended.
    """
    return sum(map(int, _stat(pid)[11 : 15 if ended else 13])) / TICKS


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from ``state`` (0) on; the name before may hold spaces."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _rollup(pid: int) -> dict[str, int]:
    """Bytes by name, from /proc/PID/smaps_rollup; empty if the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines)
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def machine_busy_seconds() -> float:
    """Processor time that anything on the machine has used since it started."""
    with open("/proc/stat", encoding="ascii") as lines:
        user, nice, system, _idle, _wait, irq, soft_irq, *_ = map(int, lines.readline().split()[1:])
    return (user + nice + system + irq + soft_irq) / TICKS


class Noise:
    """Processors that everything but this process and its descendants kept busy since it was made."""

    def __init__(self) -> None:
        self._start = perf_counter()
        self._others = self._others_so_far()

    def processors(self) -> float:
        seconds = perf_counter() - self._start
        return max(self._others_so_far() - self._others, 0.0) / seconds

    @staticmethod
    def _others_so_far() -> float:
        ours = sum(processor_seconds(pid, ended=True) for pid in family(os.getpid()))
        return machine_busy_seconds() - ours


@dataclass
class ProcessorUse:
    """Processors that each of the processes used between the making of this and ``stop()``."""

    pids: list[int]
    seconds: float = 0.0
    by_process: dict[int, float] = field(default_factory=dict)  # 1.0 is one processor

    def __post_init__(self) -> None:
        self._start = perf_counter()
        self._before = {pid: processor_seconds(pid) for pid in self.pids}

    def stop(self) -> ProcessorUse:
        self.seconds = perf_counter() - self._start
        self.by_process = {
            pid: max(processor_seconds(pid) - before, 0.0) / self.seconds
            for pid, before in self._before.items()
        }
        return self
