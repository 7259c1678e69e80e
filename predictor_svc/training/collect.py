"""What every way of collecting answers' lengths shares.

Owns the count of what is done and when a prompt's row is written: once its last sample
has ended. How samples are had is a driver's: `collect_engine` fills one engine's free
places, `collect_gateway` sends requests as clients do. Called by `ssjf predictor collect`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from predictor_svc.training.example import Lengths, Prompt
from predictor_svc.training.sampling import Sampling, answer_tokens
from ssjf.engine.v1 import sampling_pb2


class CollectError(Exception):
    """The other side cannot be used, or left; what is written so far stays."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What has happened so far, in prompts, answers and tokens."""

    prompts_done: int = 0
    prompts_failed: int = 0
    answers: int = 0
    output_tokens: int = 0


OnRow = Callable[[Prompt, Lengths, str], None]
"""Takes a complete prompt, its lengths and the model's name."""


class Driver(Protocol):
    """A way to sample answers."""

    async def run(self, address: str, prompts: Sequence[Prompt]) -> Progress:
        """Samples all prompts through the service at `address` (host:port).

        Raises CollectError when it refuses, leaves, or never answers.
        """


@dataclass(slots=True)
class Asked:
    """One prompt in work."""

    prompt: Prompt
    unsent: int
    """Samples still to ask for."""
    running: int = 0
    """Samples asked for that have not ended."""
    answers: dict[int, tuple[int, bool]] = field(default_factory=dict)
    """Tokens, and whether the model itself stopped, by number of the sample: in the order of
    their ends the first would be the shortest."""
    failed: bool = False
    settled: bool = False

    def start(self, samples: int) -> int:
        """Takes the next sample of `samples` as asked for; its number."""
        index = samples - self.unsent
        self.unsent -= 1
        self.running += 1
        return index

    def give_up(self) -> None:
        """Asks for no more samples; the prompt gets no row."""
        self.unsent, self.failed = 0, True


class Tally:
    """Answers in, rows and progress out."""

    def __init__(
        self, sampling: Sampling, on_row: OnRow, on_progress: Callable[[Progress], None]
    ) -> None:
        self.sampling = sampling
        self.progress = Progress()
        self.model = ""
        """Name of the LLM that answers, once it is known."""
        self._on_row = on_row
        self._on_progress = on_progress

    @property
    def settled(self) -> int:
        """Prompts of which nothing is left in work."""
        return self.progress.prompts_done + self.progress.prompts_failed

    def answered(
        self,
        asked: Asked,
        index: int,
        output_tokens: int,
        reason: sampling_pb2.FinishReason.ValueType,
    ) -> None:
        """Takes the end of one sample, tokens as the engine counts them."""
        tokens = answer_tokens(output_tokens, reason)
        asked.answers[index] = (tokens, reason == sampling_pb2.FINISH_REASON_EOS)
        asked.running -= 1
        self._advance(
            answers=self.progress.answers + 1,
            output_tokens=self.progress.output_tokens + tokens,
        )
        self.settle(asked)

    def failed(self, asked: Asked) -> None:
        """Takes the failure of one sample: the prompt gets no row."""
        asked.give_up()
        asked.running -= 1
        self.settle(asked)

    def settle(self, asked: Asked) -> None:
        """Writes the prompt's row if nothing of it is left in work."""
        if asked.settled or asked.unsent or asked.running:
            return
        asked.settled = True
        if asked.failed:
            self._advance(prompts_failed=self.progress.prompts_failed + 1)
            return
        tokens, stopped = zip(*(asked.answers[i] for i in sorted(asked.answers)), strict=True)
        self._on_row(asked.prompt, Lengths(tokens, stopped), self.model)
        self._advance(prompts_done=self.progress.prompts_done + 1)

    def _advance(self, **counts: int) -> None:
        self.progress = replace(self.progress, **counts)
        self._on_progress(self.progress)
