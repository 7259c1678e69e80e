from __future__ import annotations

import os
import subprocess
import sys

from ssjf_bench import proc

BUSY = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"


def test_processor_time_counts_what_a_process_has_started() -> None:
    outer = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        alone_s, together_s = proc.cpu_s(process.pid), proc.tree_cpu_s(process.pid)
        process.communicate(b"\n")
    assert together_s >= alone_s + 0.25


def test_a_process_uses_memory() -> None:
    assert proc.resident_bytes(os.getpid()) > 1 << 20
