"""The engine loop in a process of its own, seen from the serving side.

For CUDA, where a step takes a millisecond or two and the loop must never wait for this
process's interpreter lock. Commands go to the child's standard input, reports come through
a pipe, in `loop_frames`. Either side notices the other's end by the end of its pipe.
Called by the composition root; the child's side is `loop_child`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
from typing import IO, Any, Final

from engine_svc.config import EngineSettings
from engine_svc.loop import LoopBroke
from engine_svc.loop_frames import FrameReader, frame
from engine_svc.messages import Attach, Command, Ready, Report, Sink, Stop
from engine_svc.model.loading import load_tokenizer
from engine_svc.tokenizer import Tokenizer
from ssjf.wire.run import StartupError

PIPE_BYTES: Final = 1 << 20
"""Room for what the loop reports while this process is busy: half a second of 256 sequences at
500 steps a second. The system's default of 64 KiB is 30 ms."""


STOP_LIMIT_S: Final = 10.0
"""Time that the child has after `Stop`; a broken device can hold it for ever."""


class LoopProcess:
    """A child process that runs the loop; `open` starts it."""

    def __init__(self, process: asyncio.subprocess.Process, reports: _Reports) -> None:
        if process.stdin is None:
            raise ValueError("the child has no standard input")
        self._process = process
        self._stdin = process.stdin
        self._reports = reports
        self.ready: Ready
        self.tokenizer: Tokenizer
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watching = asyncio.ensure_future(self._watch())

    async def open(self, settings: EngineSettings) -> None:
        """Waits until the child is ready to run. Raises StartupError."""
        self._stdin.write(frame(settings.model_dump_json()))
        # It is read here as well as there; what is wrong with it, the child says.
        tokenizer = asyncio.ensure_future(asyncio.to_thread(load_tokenizer, settings.model))
        try:
            self.ready = await self._reports.ready
            self.tokenizer = await tokenizer
        except BaseException as error:
            await self._give_up(tokenizer)
            if isinstance(error, LoopBroke):
                raise StartupError(f"the engine loop did not start: {error}") from error
            raise

    async def _give_up(self, tokenizer: asyncio.Future[Tokenizer]) -> None:
        """Waits until nothing is left of what has not started."""
        self._stdin.close()
        # What they say is told already, by the error at hand.
        await asyncio.gather(self.ended, tokenizer, return_exceptions=True)

    def post(self, command: Command) -> None:
        """Leaves a command; the event loop's thread, never blocks."""
        with contextlib.suppress(OSError, RuntimeError):  # the child's end is told by `ended`
            if isinstance(command, Attach):
                stream = self._reports.attach(command.sink)
                self._stdin.write(frame("attach", stream, command.batching_mode))
            else:
                self._stdin.write(frame("command", command))
            if isinstance(command, Stop):
                asyncio.get_running_loop().call_later(STOP_LIMIT_S, self._kill)

    def _kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()

    async def _watch(self) -> None:
        """Sets `ended` once the child has."""
        status = await self._process.wait()
        await self._reports.closed
        if status == 0:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(LoopBroke(self._reports.broken or _how(status)))


class _Reports(asyncio.Protocol):
    """What comes from the child."""

    def __init__(self) -> None:
        events = asyncio.get_running_loop()
        self.ready: asyncio.Future[Ready] = events.create_future()
        self.closed: asyncio.Future[None] = events.create_future()
        self.broken = ""
        self._frames = FrameReader()
        self._sink: Sink | None = None
        self._stream = 0

    def attach(self, sink: Sink) -> int:
        """Reports go to `sink` from now on; those of earlier streams are dropped by number."""
        self._stream, self._sink = self._stream + 1, sink
        return self._stream

    def data_received(self, data: bytes) -> None:
        """Carries out what has come."""
        for kind, *values in self._frames.feed(data):
            match kind:
                case "report":
                    self._report(*values)
                case "ready":
                    self.ready.set_result(*values)
                case "refused":
                    self.ready.set_exception(StartupError(*values))
                case "broken":
                    (self.broken,) = values

    def connection_lost(self, exc: Exception | None) -> None:
        """The child has ended, or is about to."""
        del exc
        self.closed.set_result(None)
        if not self.ready.done():
            self.ready.set_exception(LoopBroke(self.broken or "it ended"))

    def _report(self, stream: int, report: Report) -> None:
        if stream == self._stream and self._sink is not None:
            self._sink(report)


async def start(settings: EngineSettings) -> LoopProcess:
    """Starts the child and waits until its engine runs. Raises StartupError."""
    reading, writing = os.pipe()
    with contextlib.suppress(OSError):  # more than this system allows: the default will do
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "engine_svc.loop_child", str(writing)),
            stdin=asyncio.subprocess.PIPE,
            pass_fds=(writing,),
        )
    finally:
        os.close(writing)
    pipe: IO[Any] = os.fdopen(reading, "rb", buffering=0)
    _, reports = await asyncio.get_running_loop().connect_read_pipe(_Reports, pipe)
    loop = LoopProcess(process, reports)
    await loop.open(settings)
    return loop


def _how(status: int) -> str:
    """What a status of a process that has ended says."""
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
