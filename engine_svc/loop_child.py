"""The engine loop's own process: `python -m engine_svc.loop_child FD`.

Reads settings and commands from standard input, writes what the loop reports to the pipe
FD. Its parent decides when it ends: signals that reach the whole process group are left to
the parent, and the end of standard input, the parent's death included, ends the loop.
Started by `loop_process`.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

from engine_svc.assembly import assemble
from engine_svc.config import EngineSettings
from engine_svc.loop import ready_of
from engine_svc.loop_frames import FrameReader, frame
from engine_svc.mailbox import Mailbox
from engine_svc.messages import Attach, Report, Sink, Stop
from ssjf.wire import logs
from ssjf.wire.run import StartupError

STDIN_FD: Final = 0
READ_BYTES: Final = 1 << 20
GRACE_S: Final = 2.0
"""How long the loop has to end after its parent is gone; a broken device can hold it for ever."""


class Parent:
    """The other side of the pipes."""

    def __init__(self, reports_fd: int) -> None:
        self._reports_fd = reports_fd
        self._mailbox: Mailbox | None = None
        self._frames = self._read()

    def say(self, *said: Any) -> None:
        """Writes a frame; waits while the pipe is full, which is when nobody would read it."""
        left = memoryview(frame(*said))
        while left:
            left = left[os.write(self._reports_fd, left) :]

    def settings(self) -> EngineSettings | None:
        """The settings, which come first; None where the parent has gone already."""
        first = next(self._frames, None)
        return None if first is None else EngineSettings(**json.loads(*first))

    def obey(self, mailbox: Mailbox) -> None:
        """From now on commands go to `mailbox`."""
        self._mailbox = mailbox

    def listen(self) -> None:
        """Hands commands on until the parent is gone, and then ends the process."""
        for found in self._frames:
            if self._mailbox is not None:
                match found:
                    case "attach", stream, mode:
                        self._mailbox.post(Attach(self._sink(stream), mode))
                    case "command", command:
                        self._mailbox.post(command)
        if self._mailbox is not None:
            self._mailbox.post(Stop())
            time.sleep(GRACE_S)
        os._exit(1)

    def _read(self) -> Iterator[tuple[Any, ...]]:
        reader = FrameReader()
        # Not sys.stdin, whose lock this thread would hold while the interpreter ends.
        while data := os.read(STDIN_FD, READ_BYTES):
            yield from reader.feed(data)

    def _sink(self, stream: int) -> Sink:
        def sink(report: Report) -> None:
            self.say("report", stream, report)

        return sink


def main() -> None:
    """Runs the loop; exits with 0 after `Stop`, with 1 where it cannot start or breaks."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    parent = Parent(int(sys.argv[1]))
    settings = parent.settings()
    if settings is None:
        sys.exit(1)
    logs.configure("engine_svc", level=settings.log_level, json=settings.log_json)
    threading.Thread(target=parent.listen, name="parent", daemon=True).start()
    try:
        assembled = assemble(settings)
    except StartupError as error:
        parent.say("refused", str(error))
        sys.exit(1)
    # What is there now stays: collecting garbage need not walk through it between two steps.
    gc.collect()
    gc.freeze()
    parent.obey(assembled.mailbox)
    parent.say("ready", ready_of(assembled))
    try:
        assembled.engine.run_forever()
    except BrokenPipeError:
        sys.exit(1)  # nobody is left to tell
    except BaseException as error:
        logs.get_logger().error("the engine loop broke", exc_info=error)
        parent.say("broken", type(error).__name__)
        os._exit(1)  # tearing a broken device down can hang
    os._exit(0)  # and tearing a sound one down takes its time: the system does it faster


if __name__ == "__main__":
    main()
