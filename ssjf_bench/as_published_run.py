"""The paper's experiments: bursts drawn, run in every order, and averaged as the paper does.

Owns what is compared with what: every order and every set of rules sees the same jobs and
arrivals. Means are over all values of an arrival kind and all runs before any ratio is
taken (auto_eval_barplot.py, report_stats). Called by `as_published_report`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway_svc.scheduling.batching import Batching, Mode
from ssjf_bench import as_published_sim as sim
from ssjf_bench.as_published import (
    CONSTANT_TOKENS,
    FCFS,
    ORACLE,
    SSJF,
    TOKEN_S,
    Rules,
    that_matter,
)
from ssjf_bench.as_published_arrivals import Kind, Replayed, Times, at_rate
from ssjf_bench.as_published_data import Predictor
from ssjf_bench.as_published_sim import Burst

BASELINES: Final = (FCFS, ORACLE)
Key = tuple[Rules, Mode, int, str]


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run, or means over several."""

    mean_jct_s: float
    """Mean completion time, arrival to answer."""
    p99_jct_s: float
    """Its 99th percentile."""
    throughput_per_s: float
    """Jobs a second, over the share of the run that the rules count."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What jobs are drawn from."""

    output_tokens: NDArray[np.int64]
    """True lengths, shape (answers,)."""
    predictors: Sequence[Predictor]
    """What each predictor says of them; SSJF is run once for each."""


class Draw:
    """One burst's jobs and arrivals, and what became of them under rules already tried."""

    def __init__(self, answers: Answers, kind: Kind, value: float, seeds: Sequence[int]) -> None:
        self._answers, self._kind, self._value = answers, kind, value
        self._seeds = tuple(seeds)
        self._ends: dict[Key, Times] = {}
        self._drawn: dict[tuple[object, ...], tuple[Times, NDArray[np.int64]]] = {}

    def figures(self, rules: Rules, batching: Batching, order: str) -> Figures:
        """The run in one order: a baseline's name, or a predictor's."""
        if not isinstance(self._kind, Replayed):
            rules = replace(rules, milliseconds_as_seconds=True)  # so that it is run once
        arrivals_s, rows = self._jobs(rules, batching)
        ends_s = self._ends_s(rules, batching, order, arrivals_s, rows)
        done = ~np.isnan(ends_s)
        jct_s = (ends_s - arrivals_s)[done]
        return Figures(
            float(jct_s.mean()),
            float(np.percentile(jct_s, 99)),
            throughput_per_s(ends_s[done], float(arrivals_s[0]), rules.throughput_share),
        )

    def _jobs(self, rules: Rules, batching: Batching) -> tuple[Times, NDArray[np.int64]]:
        key = (
            *(rules.arrivals_as_published, rules.milliseconds_as_seconds, rules.jobs, rules.load),
            *((batching.mode, batching.places) if rules.load is not None else ()),
        )
        if key not in self._drawn:
            random = np.random.default_rng(self._seeds)
            tokens = self._answers.output_tokens
            rows = random.choice(len(tokens), rules.jobs, replace=rules.jobs > len(tokens))
            times_s = self._kind.times_s(self._value, rules, random)
            if rules.load is not None:
                capacity = capacity_per_s(tokens[rows], batching)
                times_s = at_rate(times_s, rules.load * capacity)
            self._drawn[key] = times_s, rows
        return self._drawn[key]

    def _ends_s(
        self,
        rules: Rules,
        batching: Batching,
        order: str,
        arrivals_s: Times,
        rows: NDArray[np.int64],
    ) -> Times:
        kept = order if order in BASELINES else SSJF
        key = (that_matter(rules, kept, batching.mode), batching.mode, batching.places, order)
        if key not in self._ends:
            lengths = self._answers.output_tokens[rows].tolist()
            predicted = {each.name: each.tokens for each in self._answers.predictors}
            told = predicted[order][rows].tolist() if kept == SSJF else lengths
            burst = Burst(arrivals_s.tolist(), lengths, told)
            self._ends[key] = sim.ends_s(burst, kept, batching, rules)
        return self._ends[key]


def throughput_per_s(ends_s: Times, first_s: float, share: float) -> float:
    """Jobs a second. Whole run: all jobs over the time from the first arrival to the last end.

    Less: so many jobs over the time at which the next one ends, counted from 0 (simulator.py,
    get_throughput).
    """
    ordered = np.sort(ends_s)
    if share == 1:
        return float(len(ordered) / (ordered[-1] - first_s))
    place = int(share * (len(ordered) - 1))
    return float(place / ordered[place])


def capacity_per_s(output_tokens: NDArray[np.int64], batching: Batching) -> float:
    """Jobs a second that first come, first served finishes of these with every place taken."""
    service_s = TOKEN_S * (output_tokens + CONSTANT_TOKENS)
    if batching.mode is not Mode.DYNAMIC:
        return float(batching.places / service_s.mean())
    places = batching.places
    batches = [service_s[at : at + places].max() for at in range(0, len(service_s), places)]
    return float(len(service_s) / np.sum(batches))


def draws(answers: Answers, kind: Kind, seed: int, runs: int) -> list[Draw]:
    """The bursts of one kind, `runs` at each of its values, those of a value one after the other.

    They are the same for every set of rules, batching and order.
    """
    return [
        Draw(answers, kind, value, (seed, place, number))
        for place, value in enumerate(kind.values)
        for number in range(runs)
    ]


def means(
    bursts: Sequence[Draw], rules: Rules, batching: Batching, orders: Sequence[str]
) -> Mapping[str, Figures]:
    """Each order's figures, averaged over the bursts."""
    return {
        order: _mean([burst.figures(rules, batching, order) for burst in bursts])
        for order in orders
    }


def _mean(figures: Sequence[Figures]) -> Figures:
    return Figures(
        float(np.mean([each.mean_jct_s for each in figures])),
        float(np.mean([each.p99_jct_s for each in figures])),
        float(np.mean([each.throughput_per_s for each in figures])),
    )
