"""What Linux says of a running process: CPU time and memory.

Reads /proc (proc(5)). Called by benchmarks that watch a server on this machine.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used (fields 14 and 15 of its stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def tree_cpu_s(pid: int) -> float:
    """The same of a process and all that it has started and that still run."""
    used_s = cpu_s(pid)
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in tasks.read_text(encoding="ascii").split():
            with suppress(OSError):  # it has just ended
                used_s += tree_cpu_s(int(child))
    return used_s


def resident_bytes(pid: int) -> int:
    """Bytes of memory that a process holds now (field 2 of its statm)."""
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
