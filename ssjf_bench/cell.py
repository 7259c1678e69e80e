"""One cell of a grid: every policy on the same requests, beside fcfs and the oracle.

A cell is an offered load under one batching rule. Owns what policies are run with (`Point`),
what they are told of lengths (`Source`), and a row's figures. Knows no grid: that is
`frontier`'s and `sweep`'s, which call it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final, Protocol, TypeVar

from gateway_svc.scheduling.batching import Batching
from gateway_svc.scheduling.policy import PolicyOptions
from ssjf_bench import sim_report, sim_run
from ssjf_bench.lengths import Answered
from ssjf_bench.sim_predictions import Predictions
from ssjf_bench.sim_run import Offered
from ssjf_bench.simulator import Setup
from ssjf_bench.step_time import StepTime

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Point:
    """A policy at one setting."""

    policy: str
    """Its name in the registry."""
    setting: float | None = None
    """The value of what it trades mean against tail with; None where there is nothing."""
    options: PolicyOptions = field(default_factory=PolicyOptions)
    """The same for the policy."""
    variant: str = ""
    """What tells curves of one policy apart."""

    @property
    def curve(self) -> str:
        """The points of one curve differ in their setting alone."""
        return f"{self.policy}{self.variant}"

    @property
    def label(self) -> str:
        """Curve and setting."""
        return self.curve if self.setting is None else f"{self.curve} {self.setting:g}"


FCFS: Final = Point("fcfs")
ORACLE: Final = Point("oracle")


class Source(Protocol):
    """Where predictions come from."""

    @property
    def label(self) -> str:
        """Short, for rows and titles."""

    @property
    def origin(self) -> str:
        """Which trained predictor; empty for noise."""

    def predictions(self, answered: Sequence[Answered], seed: int) -> Predictions:
        """What the policies are told of these requests. Raises ValueError."""


AnySource = TypeVar("AnySource", bound=Source)


@dataclass(frozen=True, slots=True)
class Noise:
    """The true lengths times log-normal noise."""

    tau: float
    """Kendall's tau-b of the predictions, in (0, 1]."""

    @property
    def label(self) -> str:
        """The tau alone."""
        return f"{self.tau:g}"

    @property
    def origin(self) -> str:
        """None: it is noise."""
        return ""

    def predictions(self, answered: Sequence[Answered], seed: int) -> Predictions:
        """Raises ValueError where these lengths do not allow the tau."""
        return sim_run.noise(answered, seed, tau=self.tau)


@dataclass(frozen=True, slots=True)
class Trained:
    """What a trained predictor said of each row that can be drawn."""

    known: Mapping[Answered, tuple[float, float | None]]
    """Expected tokens and, where the predictor says, their 90th percentile."""
    origin: str
    """Which predictor."""

    @classmethod
    def of(cls, rows: Sequence[Answered], predictions: Predictions) -> Trained:
        """From predictions in the order of `rows`."""
        p90 = predictions.p90_tokens or (None,) * len(rows)
        both = zip(predictions.tokens, p90, strict=True)
        return cls(dict(zip(rows, both, strict=True)), predictions.origin)

    @property
    def label(self) -> str:
        """No number: its tau differs from draw to draw."""
        return "predictor"

    def predictions(self, answered: Sequence[Answered], seed: int) -> Predictions:
        """The same for the same prompt, whatever the seed. Raises KeyError for other rows."""
        del seed
        found = [self.known[row] for row in answered]
        p90 = tuple(each for _, each in found if each is not None)
        return Predictions(
            tuple(tokens for tokens, _ in found),
            p90 if len(p90) == len(found) else None,
            self.origin,
        )


KEPT: Final = (
    *("policy", "kendall_tau_b", "jobs", "mean_jct_s", "p50_jct_s", "p99_jct_s", "max_jct_s"),
    *("max_wait_s", "mean_ttft_s", "throughput_tokens_s", "bound_violations"),
    "simulated_jobs_per_s",
)
"""What a row has of a simulation's figures: the rest is the same in every row of a cell."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What every policy is run on."""

    offered: Offered
    """The requests and their arrivals."""
    answered: Sequence[Answered]
    """Their prompts and lengths, in the same order."""
    batching: Batching
    step_time: StepTime
    seed: int
    """Of noise."""

    def rows(
        self, points: Sequence[Point], sources: Sequence[AnySource]
    ) -> Iterator[tuple[AnySource | None, Point, Row]]:
        """fcfs, the oracle, then every point under each source; figures and comparison.

        The first two, which need no predictions, have no source.
        """
        truth = sim_run.noise(self.answered, self.seed, sigma=0.0)
        fcfs, oracle = self._figures(FCFS, truth), self._figures(ORACLE, truth)
        for point, figures in ((FCFS, fcfs), (ORACLE, oracle)):
            yield None, point, _compared(figures, fcfs, oracle)
        for source in sources:
            predictions = source.predictions(self.answered, self.seed)
            for point in points:
                figures = self._figures(point, predictions)
                yield source, point, _compared(figures, fcfs, oracle)

    def _figures(self, point: Point, predictions: Predictions) -> Row:
        setup = Setup(point.policy, point.options, self.batching, self.step_time)
        return sim_run.figures(self.offered, predictions, setup)


def _compared(figures: Row, fcfs: Row, oracle: Row) -> Row:
    kept = {name: figures[name] for name in KEPT}
    return kept | sim_report.against(figures, fcfs, oracle)


AVERAGED: Final = (
    *("mean_jct_s", "p99_jct_s", "max_jct_s"),
    *("mean_jct_change", "p99_jct_factor", "max_jct_factor", "share_of_oracle_gain"),
)


def over_seeds(rows: Sequence[Row]) -> Row:
    """Means of what one point did in one cell under several seeds; violations are added up.

    A figure that is not defined under one of the seeds (None) has no mean.
    """
    means = {name: _mean([row[name] for row in rows]) for name in AVERAGED}
    changes = [row["mean_jct_change"] for row in rows]
    return {
        **means,
        "mean_jct_change_spread": max(changes) - min(changes),
        "bound_violations": sum(row["bound_violations"] for row in rows),
        "runs": len(rows),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None
