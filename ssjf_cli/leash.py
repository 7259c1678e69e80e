"""Runs a command that dies with the process that started it: `leash.py PARENT COMMAND…`.

Replaces itself with the command, so the process id stays the same. It sets the
kernel's parent-death signal here, after the exec of a fresh interpreter: code that
runs between fork and exec in a parent with threads can deadlock. Called by
`process`; imports nothing that is not needed, because it runs before every service.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ties this process to its parent and becomes the command."""
    parent, *command = sys.argv[1:]
    # Linux only. Elsewhere a parent that is killed outright leaves its services running.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it died before the signal was set
            sys.exit("leash: the parent is gone")
    os.execv(command[0], command)  # noqa: S606 (our own argument list, no shell)


if __name__ == "__main__":
    main()
