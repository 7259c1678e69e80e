"""The engine loop in a thread of this process.

For computing on the CPU, where the loop waits for no device and a second process would
load every library twice. Called by the composition root.
"""

from __future__ import annotations

import asyncio
import threading

from engine_svc.assembly import Assembled, assemble
from engine_svc.config import EngineSettings
from engine_svc.loop import LoopBroke, ready_of
from engine_svc.messages import Command, Ready
from engine_svc.tokenizer import Tokenizer


class LoopThread:
    """A loop that runs from its construction on."""

    def __init__(self, assembled: Assembled) -> None:
        """Starts the thread; an event loop must be running."""
        self._assembled = assembled
        self._events = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._events.create_future()
        # A daemon: a thread that hangs in a broken device must not keep the process alive.
        threading.Thread(target=self._run, name="engine", daemon=True).start()

    @property
    def ready(self) -> Ready:
        """What the engine says of itself."""
        return ready_of(self._assembled)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of its model."""
        return self._assembled.loaded.tokenizer

    def post(self, command: Command) -> None:
        """Leaves a command; any thread, never blocks."""
        self._assembled.mailbox.post(command)

    def _run(self) -> None:
        try:
            self._assembled.engine.run_forever()
        except BaseException as error:
            broke = LoopBroke(type(error).__name__)
            broke.__cause__ = error
            self._events.call_soon_threadsafe(self.ended.set_exception, broke)
        else:
            self._events.call_soon_threadsafe(self.ended.set_result, None)


async def start(settings: EngineSettings) -> LoopThread:
    """Builds the engine and starts its loop. Raises StartupError."""
    return LoopThread(await asyncio.to_thread(assemble, settings))
