"""What the serving side sees of an engine loop, wherever it runs.

Two forms of one thing: `loop_thread` runs it in a thread of this process, `loop_process`
in a process of its own, where nothing that the serving side does can hold it up.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from engine_svc.assembly import Assembled
from engine_svc.mailbox import Commands
from engine_svc.messages import Ready
from engine_svc.tokenizer import Tokenizer


class LoopBroke(Exception):
    """The loop has ended without `Stop`; the message says in a few words what ended it."""


class EngineLoop(Commands, Protocol):
    """A loop that is ready and runs until `Stop`."""

    @property
    def ready(self) -> Ready:
        """What it said of itself at the start."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of its model."""

    @property
    def ended(self) -> asyncio.Future[None]:
        """Done when the loop is; holds LoopBroke where it broke."""


def ready_of(assembled: Assembled) -> Ready:
    """What an assembled engine says of itself."""
    loaded, shape = assembled.loaded, assembled.shape
    return Ready(
        architecture=loaded.config.family,
        vocabulary_size=loaded.config.vocabulary_size,
        eos_token_ids=tuple(sorted(loaded.eos_token_ids)),
        parameters=loaded.parameters,
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        device=str(loaded.model.device),
        max_sequences=shape.max_sequences,
        max_context_tokens=shape.max_context_tokens,
        kv_tokens=shape.total_blocks * shape.block_tokens,
        kv_block_tokens=shape.block_tokens,
    )
