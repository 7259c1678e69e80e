"""Commits the results of a step: tokens appended, endings found, reports made.

It knows neither tensors nor streams. Rows whose sequence has gone in the meantime (it
ended by an end-of-sequence token, was cancelled, gave way) are dropped here: that is the
price of launching a step before the last one's tokens are known. Called by the loop.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Protocol

from engine_svc.messages import Failed, Finished, FirstToken, Report, TokenLogprobs
from engine_svc.progress import Progress, Rows, Tokens
from engine_svc.results import NUMERIC_FAULT, Results
from engine_svc.scheduler import Scheduler
from engine_svc.sequence import Ending, FailureCode, Sequence


class Releases(Protocol):
    """What a commit needs of the runner."""

    def end(self, sequence: Sequence) -> None:
        """A sequence that began is not coming back."""

    def clear(self, blocks: Items[int]) -> None:
        """Wipes blocks that a failed sequence spoiled."""


@dataclass(slots=True)
class Outcome:
    """What a step came to, gathered part by part."""

    began_s: float
    prompt_tokens: int
    preempted: int
    out_of_memory: int
    sequence_ids: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    indices: tuple[int, ...] = ()
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    first: list[FirstToken] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)

    def report(self, step: int, step_ms: float) -> Report:
        """All of it as step number `step`, without what is free."""
        return Report(
            step=step,
            step_ms=step_ms,
            sequence_ids=self.sequence_ids,
            token_ids=self.token_ids,
            indices=self.indices,
            logprobs=self.logprobs or None,
            first=tuple(self.first),
            finished=tuple(self.finished),
            failed=tuple(self.failed),
            prompt_tokens=self.prompt_tokens,
            preempted=self.preempted,
            out_of_memory=self.out_of_memory,
        )


class Commit:
    """Appends to sequences and ends them."""

    def __init__(self, scheduler: Scheduler, runner: Releases, eos_token_ids: Set[int]) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._eos_token_ids = eos_token_ids
        self._progress = Progress(scheduler.max_sequences, eos_token_ids)

    def start(self, sequence: Sequence) -> None:
        """A sequence has got its place."""
        self._progress.start(sequence)

    def results(self, rows: Rows, results: Results, now_s: float, outcome: Outcome) -> None:
        """One part of a step has run."""
        tokens, logprobs = results.tokens, results.logprobs
        alive = rows.alive()
        if len(alive) < len(rows.sequences) or (tokens.size and int(tokens.min()) < 0):
            sound = [row for row in alive if tokens[row] != NUMERIC_FAULT]
            for row in set(alive).difference(sound):
                outcome.failed.append(self._fault(rows.sequences[row]))
            tokens = tokens[sound]
            rows = rows.only(sound)
            if logprobs is not None:
                logprobs = {new: logprobs[row] for new, row in enumerate(sound) if row in logprobs}
        self._append(rows, tokens, now_s, outcome)
        if logprobs is not None:
            outcome.logprobs |= {rows.sequence_ids[row]: each for row, each in logprobs.items()}

    def exhausted(self, rows: Rows, outcome: Outcome) -> None:
        """Memory was not enough for these sequences alone."""
        message = "out of memory with this sequence alone"
        for row in rows.alive():
            failed = self._fail(rows.sequences[row], FailureCode.KV_EXHAUSTED, message)
            outcome.failed.append(failed)

    def _append(self, rows: Rows, tokens: Tokens, now_s: float, outcome: Outcome) -> None:
        indices, candidates = self._progress.advance(rows, tokens)
        outcome.sequence_ids += rows.sequence_ids
        outcome.token_ids += tuple(tokens.tolist())
        outcome.indices += tuple(indices.tolist())
        for row in (indices == 0).nonzero()[0].tolist():
            outcome.first.append(_first(rows.sequences[row], now_s))
        for row in candidates:
            sequence = rows.sequences[row]
            ending = sequence.ending(self._eos_token_ids)
            if ending is not None:
                outcome.finished.append(self._finish(sequence, ending, now_s))

    def _finish(self, sequence: Sequence, ending: Ending, now_s: float) -> Finished:
        self._runner.end(sequence)
        self._scheduler.end(sequence)
        return Finished(
            sequence_id=sequence.sequence_id,
            ending=ending,
            prompt_tokens=len(sequence.prompt),
            output_tokens=len(sequence.output),
            prefill_ms=_prefill_ms(sequence),
            decode_ms=(now_s - sequence.first_token_s) * 1e3,
            cached_prompt_tokens=sequence.cached_prompt_tokens,
        )

    def _fault(self, sequence: Sequence) -> Failed:
        return self._fail(sequence, FailureCode.NUMERIC, "NaN or infinity in the logits")

    def _fail(self, sequence: Sequence, code: FailureCode, message: str) -> Failed:
        self._runner.end(sequence)
        self._runner.clear(self._scheduler.fail(sequence))
        return Failed(sequence.sequence_id, code, message, len(sequence.output))


def _first(sequence: Sequence, now_s: float) -> FirstToken:
    sequence.first_token_s = now_s
    cached = sequence.cached_prompt_tokens
    return FirstToken(sequence.sequence_id, cached, _prefill_ms(sequence))


def _prefill_ms(sequence: Sequence) -> float:
    return (sequence.first_token_s - sequence.first_step_s) * 1e3
