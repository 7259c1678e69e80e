"""An engine's step time and handover, found in what clients of a live run saw.

Nobody records steps: all that is known of an answer is when its first and last token came
and how many there were. Owns the way from there to `StepTime` and `Handover`; needs no load
in particular, but batches of different sizes to tell a step's base from each sequence's
share. Called by `live_against_sim`, on runs of fcfs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from ssjf_bench.live_records import LiveRow
from ssjf_bench.step_time import StepTime
from ssjf_bench.virtual_engine import Handover

Floats = NDArray[np.float64]
ITERATIONS: Final = 8
"""The step clock needs step times and step times the clock; it stands still long before."""
FEWEST_ANSWERS: Final = 20
TERMS: Final = (
    *("base_ms", "per_sequence_ms", "prefill_ms", "prefill_token_ms"),
    *("context_token_ms", "per_doubling_ms"),
)
"""What of a `StepTime` is found, in the order of the columns of `_terms`."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What was found, and in how much."""

    step_time: StepTime
    """Of the engine."""
    handover: Handover
    """From the gateway's decision to the first step."""
    admission_ms: float
    """From a request's arrival until its client learns that it is queued, on average: what
    predictor, tokenizer and gateway take."""
    answers: int
    """Answers of at least two tokens that the step time was fitted to."""
    relative_error: float
    """Root mean square of what answers took after their first tokens against the fitted times, as
    a share; answers count by their times, as a client may see all tokens of a short one at once."""
    batch_p10: float
    """Sequences that ran at once, 10th percentile over the answers' own means."""
    batch_p90: float
    """The same, 90th."""
    refills: int
    """Starts that a busy engine's `busy_steps` was averaged over; 0: none was seen."""
    idle_starts: int
    """The same for `idle_ms`."""


class _Answers:
    """The finished answers of one run as arrays, in the order of their first tokens."""

    def __init__(self, rows: Sequence[LiveRow]) -> None:
        done = [row for row in rows if row.ok and row.first_token_s is not None]
        done.sort(key=lambda row: row.first_token_s or 0.0)
        self.queued_s = _array(row.queued_s for row in done)
        self.started_s = _array(row.started_s for row in done)
        self.first_s = _array(row.first_token_s for row in done)
        self.end_s = np.maximum(_array(row.end_s for row in done), self.first_s)
        self.prompt_tokens = _array(row.prompt_tokens or 0 for row in done)
        self.steps = _array(row.output_tokens - 1 for row in done)
        self.several = (self.steps > 0) & (self.end_s > self.first_s)
        pace = (self.end_s - self.first_s)[self.several] / self.steps[self.several]
        self.half_step_s = 0.5 * float(np.median(pace)) if len(pace) else 0.0
        """What is apart by less has happened at the end of one step."""
        # Prompts that were read in one step give their first tokens together.
        apart = np.diff(self.first_s, prepend=-np.inf) > self.half_step_s
        self.group = np.cumsum(apart) - 1
        self.group_first_s = self.first_s[apart]
        self.group_tokens: Floats = np.bincount(self.group, self.prompt_tokens).astype(np.float64)

        # Who runs on when a job starts: not those whose end has made room for it.
        starts_s = self.started_s + self.half_step_s
        begun = np.searchsorted(self.first_s, starts_s, "right")
        self.others = begun - np.searchsorted(np.sort(self.end_s), starts_s, "right")


def _array(values: Any) -> Floats:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def fit(runs: Sequence[Sequence[LiveRow]]) -> Fit:
    """Fits one engine to the rows (warm-up among them) of runs on it.

    The time of each answer after its first token is the sum of its steps, and a step takes
    base + running · per_sequence + log2 running · per_doubling + context · context_token, and
    where prompts are read prefill + tokens · prefill_token. Counting steps by a clock that goes
    by the times found so far makes it linear: least squares, none of them negative. Raises
    ValueError for too few answers.
    """
    found = [_Answers(rows) for rows in runs]
    if sum(int(each.several.sum()) for each in found) < FEWEST_ANSWERS:
        raise ValueError(f"step fit: fewer than {FEWEST_ANSWERS} answers of two tokens or more")
    pace_ms = 2e3 * float(np.mean([each.half_step_s for each in found]))
    step_time = StepTime(pace_ms, 0.0, 0.0)
    for _ in range(ITERATIONS):
        matrix = np.concatenate([_terms(each, step_time) for each in found])
        seen_s = np.concatenate([(each.end_s - each.first_s)[each.several] for each in found])
        step_time = _solve(matrix, seen_s)
    starts = _idle_starts(found, step_time)
    reading_seen = bool(matrix[:, 2].any())
    step_time, idle_ms = _with_starts(step_time, starts, reading_seen=reading_seen)
    missed = _busy_steps(found, step_time)
    busy_steps = max(0.0, float(np.mean(missed))) if missed else 0.0
    batches = matrix[:, 1] / matrix[:, 0]
    times_s = 1e-3 * matrix @ _coefficients(step_time)
    return Fit(
        step_time=step_time,
        handover=Handover(idle_ms, busy_steps),
        admission_ms=_admission_ms(runs),
        answers=len(seen_s),
        relative_error=float(np.sqrt(np.average((seen_s / times_s - 1) ** 2, weights=times_s))),
        batch_p10=float(np.quantile(batches, 0.1)),
        batch_p90=float(np.quantile(batches, 0.9)),
        refills=len(missed),
        idle_starts=len(starts),
    )


def drift(rows: Sequence[LiveRow], step_time: StepTime) -> float:
    """How much longer the answers of a run took after their first tokens than these step
    times say, as a share: the engine was slower (or faster) than where they were fitted.

    Raises ValueError without an answer of two tokens.
    """
    of = _Answers(rows)
    if not of.several.any():
        raise ValueError("step fit: no answer of two tokens")
    seen_s = (of.end_s - of.first_s)[of.several]
    fitted_ms = _terms(of, step_time) @ _coefficients(step_time)
    return float(1e3 * seen_s.sum() / fitted_ms.sum() - 1)


@dataclass(frozen=True, slots=True)
class _Clock:
    """What had come by each time; linear in between."""

    times_s: Floats
    sums: Floats
    """A row for the steps that had run, and for what is added up over them: the sequences that
    ran (that is tokens), the tokens that they looked back on, and the binary logarithms of
    their number."""

    def between(self, first_s: Floats, last_s: Floats) -> Floats:
        """The rows of `sums`, from each first time to its last."""
        return np.stack(
            [
                np.interp(last_s, self.times_s, each) - np.interp(first_s, self.times_s, each)
                for each in self.sums
            ]
        )


def _clock(of: _Answers, step_time: StepTime) -> _Clock:
    """The clock that goes by these times.

    A job is in the batch from the beginning of its first step on, and the clock stands while
    prompts are read, which is before that.
    """
    joins_s = of.group_first_s - step_time.decode_s(1)
    reads_s = joins_s - _reading_s(of, step_time)
    # A context is prompt + rate · (time - first), as long as its job runs: offset + rate · time.
    rate = np.divide(of.steps, of.end_s - of.first_s, out=np.zeros_like(of.steps), where=of.several)
    offset = of.prompt_tokens - rate * of.first_s
    ones = np.ones_like(rate)
    times_s = np.concatenate([joins_s, of.end_s, reads_s, joins_s])
    order = np.argsort(times_s, kind="stable")
    times_s = times_s[order]
    nobody = np.zeros(2 * len(joins_s))

    def going_on(each: Floats) -> Floats:
        """The sum over the jobs in the batch, from each time on."""
        joined = np.bincount(of.group, each)
        return np.asarray(np.cumsum(np.concatenate([joined, -each, nobody])[order])[:-1])

    begins = np.ones_like(joins_s)
    reading = np.concatenate([np.zeros(len(begins) + len(ones)), begins, -begins])
    stands = np.cumsum(reading[order])[:-1] > 0
    gaps_s, middles_s = np.diff(times_s), (times_s[:-1] + times_s[1:]) / 2
    running = np.round(going_on(ones)).astype(int)
    context = np.maximum(going_on(offset) + going_on(rate) * middles_s, 0.0)
    decode_s = np.array([step_time.decode_s(each) for each in range(running.max(initial=0) + 1)])
    step_s = decode_s[running] + 1e-3 * step_time.context_token_ms * context
    goes = (running > 0) & ~stands & (step_s > 0)
    steps = np.divide(gaps_s, step_s, out=np.zeros_like(step_s), where=goes)
    each_step = (np.ones_like(steps), running, context, np.log2(np.maximum(running, 1)))
    return _Clock(times_s, np.stack([_summed(steps * each) for each in each_step]))


def _summed(values: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values)])


def _reading_s(of: _Answers, step_time: StepTime) -> Floats:
    """What the prompts of each group added to their step."""
    return np.array([step_time.prefill_s(tokens) for tokens in of.group_tokens])


def _terms(of: _Answers, step_time: StepTime) -> Floats:
    """A row for each answer of several tokens: its steps, the tokens of all in these steps,
    the steps among them in which prompts of others are read, the tokens of those, the tokens
    that all looked back on, and the doublings of how many they were.
    """
    clock = _clock(of, step_time)
    steps, tokens, contexts, doublings = clock.between(of.first_s, of.end_s)
    # The clock says what was there on average; how many steps there were is known better.
    right = np.divide(of.steps, steps, out=np.zeros_like(steps), where=steps > 0)
    last = np.searchsorted(of.group_first_s, of.end_s + of.half_step_s, "right")
    read = _summed(of.group_tokens)
    groups, prompts = last - of.group - 1, read[last] - read[of.group + 1]
    columns = (
        *(of.steps, tokens * right, groups, prompts),
        *(contexts * right, doublings * right),
    )
    return np.asarray(np.stack(columns, axis=1)[of.several], dtype=np.float64)


def _solve(matrix: Floats, seen_s: Floats) -> StepTime:
    # What steps take more or less than others adds up: errors grow with the root of their number.
    weight = 1 / np.sqrt(matrix[:, 0])
    scale = np.maximum(np.abs(matrix).max(axis=0), 1e-12)
    scaled = matrix / scale * weight[:, None]
    found = optimize.nnls(scaled, seen_s * 1e3 * weight)[0] / scale
    return StepTime(**dict(zip(TERMS, found.tolist(), strict=True)))


def _coefficients(step_time: StepTime) -> Floats:
    return np.array([getattr(step_time, name) for name in TERMS])


def _busy_steps(found: Sequence[_Answers], step_time: StepTime) -> list[float]:
    """Steps that each job missed which had waited for its place, others running on."""
    missed: list[float] = []
    for each in found:
        clock = _clock(each, step_time)
        steps = clock.between(each.started_s, each.first_s)[0] - 1
        waited = each.started_s - each.queued_s > 2 * each.half_step_s
        missed += steps[waited & (each.others > 0)].tolist()
    return missed


def _idle_starts(found: Sequence[_Answers], step_time: StepTime) -> Floats:
    """A row for each start of an idle engine: milliseconds before the first step, reading
    among them, and the prompt tokens that were read.
    """
    rows = []
    for each in found:
        leaders = np.searchsorted(each.first_s, each.group_first_s, "left")
        begun = np.searchsorted(each.group_first_s, each.started_s[leaders], "right")
        alone = (each.others[leaders] == 0) & (begun == np.arange(len(leaders)))
        sizes = np.bincount(each.group)
        decode_s = np.array([step_time.decode_s(int(size)) for size in sizes])
        lost_s = each.group_first_s - each.started_s[leaders] - decode_s
        rows.append(np.stack([1e3 * lost_s, each.group_tokens], axis=1)[alone])
    return np.concatenate(rows)


def _with_starts(
    step_time: StepTime, starts: Floats, *, reading_seen: bool
) -> tuple[StepTime, float]:
    """The step time and `idle_ms`.

    Where prompts are never read while others decode, what reading takes shows in the starts
    of the idle engine alone; `prefill_ms` is part of `idle_ms` then.
    """
    if not len(starts):
        return step_time, 0.0
    lost_ms, tokens = starts[:, 0], starts[:, 1]
    if reading_seen:
        reading_ms = np.array([1e3 * step_time.prefill_s(each) for each in tokens])
        return step_time, max(0.0, float(np.mean(lost_ms - reading_ms)))
    terms = np.stack([np.ones_like(tokens), tokens], axis=1)
    idle_ms, token_ms = optimize.nnls(terms, np.maximum(lost_ms, 0.0))[0].tolist()
    return replace(step_time, prefill_token_ms=token_ms), idle_ms


def _admission_ms(runs: Sequence[Sequence[LiveRow]]) -> float:
    delays_s = [
        row.queued_s - row.arrival_s
        for rows in runs
        for row in rows
        if row.ok and row.queued_s is not None
    ]
    return 1e3 * float(np.mean(delays_s)) if delays_s else 0.0
