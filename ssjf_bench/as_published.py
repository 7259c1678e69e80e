"""The SSJF paper's own simulation, as a set of switches.

Each rule by which the paper's simulator differs from a fair comparison is one field of
`Rules`, with where it stands in the paper's code: github.com/James-QiuHaoran/
LLM-serving-with-proxy-models, folder model-serving, commit 4b86686. `ARTEFACTS` takes them
away one by one. Knows no scheduler: see `as_published_sim`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

from gateway_svc.scheduling.batching import Mode

FCFS: Final = "fcfs"
"""First come, first served."""
SSJF: Final = "ssjf"
"""Shortest first, by prediction."""
ORACLE: Final = "oracle"
"""Shortest first, by truth: what is left of a job where it was preempted."""
PAPER_JCT_CHANGES: Final = (-0.396, -0.305)
"""Mean completion time against first come, first served, over all modes (the abstract)."""
PAPER_THROUGHPUT_FACTORS: Final = (2.2, 3.6)
"""Its throughput, likewise; which figure belongs to which mode is not in the code."""
PAPER_BATCH: Final = 2
"""Jobs in a batch unless varied (util.py, MAX_BATCH_SIZE); run.sh has 2, 4, 6, 8, 10."""
TOKEN_S: Final = 0.02
"""Each output token takes this long, in a batch of any size (simulator.py, --per_token_latency)."""
CONSTANT_TOKENS: Final = 5
"""A job's constant latency of 0.1 s, in tokens (simulator.py, --const_latency)."""
STARVING_S: Final = 100.0
"""Waiting for longer is starving (util.py, SJF_STARVATION_WAITING_TIME_THRES)."""
STARVING_SERVICES: Final = 10.0
"""So is waiting for longer than so many times one's own service (… _COEFFICIENT)."""
PREDICTION_S: Final = 0.0079
"""What a call of the paper's predictor took on average, by its published predictions."""


class Starvation(Enum):
    """Whether the job that has waited longest, if it starves, goes before shorter ones."""

    TRUTH = "truth"
    """By its true service time."""
    PREDICTION = "prediction"
    """By the predicted one."""
    NONE = "none"
    """Never: pure shortest job first."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How a run goes and what is counted; the defaults are the paper's."""

    throughput_share: float = 0.25
    """Throughput is over the first so many of the jobs that finish (simulator.py,
    get_throughput, percentage 25); 1: over the whole run."""
    fcfs_idles_s: float = 10.0
    """First come, first served, and it alone, leaves the engine idle for so long before it starts
    with free places; continuous: its running jobs stand still meanwhile (util.py,
    BATCH_WAIT_TIMEOUT; fcfs.py and fcfs_dynamic.py, run; sjf.py computes the wait without
    waiting)."""
    ssjf_preempts: bool = True
    """Continuous: whenever a job ends, all others are queued anew, at no cost, under shortest job
    first only (sjf_dynamic.py, run); first come, first served has the same batch either way."""
    answers_at_batch_end: bool = True
    """Dynamic: every answer of a batch comes when the longest is done (fcfs.py, sjf.py, run)."""
    joins_at_completions: bool = True
    """Continuous: a job that comes while places are free waits until some job ends
    (fcfs_dynamic.py, sjf_dynamic.py, run)."""
    starvation: Starvation = Starvation.TRUTH
    """What the starvation rule of shortest job first reads (sjf.py, sjf_dynamic.py, run:
    execution_duration also under use_prediction)."""
    forgets_last_job: bool = True
    """Under shortest job first, the last job is never run if it comes when nothing else is there,
    and counts in no mean (sjf.py, sjf_dynamic.py, run: the loop ends at len - 1)."""
    prediction_s: float = 0.0
    """A predicted job reaches the queue so much later (eval.py never adds the *_overhead columns
    of the predictions to anything)."""
    arrivals_as_published: bool = True
    """Poisson arrivals stand on whole seconds, a trace's on tenths; gamma gaps are sorted, the
    shortest first (job.py, create_jobs_from_llm_data: np.sort before np.cumsum)."""
    milliseconds_as_seconds: bool = True
    """A trace's timestamps, in milliseconds, are taken for seconds: scale 1 is a thousandth of
    the recorded rate (traces/convert_timestamps.py, and job.py as above)."""
    jobs: int = 50
    """Jobs of a run (util.py, NUM_JOBS)."""
    load: float | None = None
    """Arrivals come at this share of what first come, first served can do; None: at the paper's
    rates (auto_eval.py), many of which no server could ever keep up with, and others light."""

    def __post_init__(self) -> None:
        if not 0 < self.throughput_share <= 1 or self.jobs < 4:
            raise ValueError("rules: throughput_share in (0, 1] and at least 4 jobs wanted")
        if not (0 <= self.fcfs_idles_s < float("inf") and 0 <= self.prediction_s < float("inf")):
            raise ValueError("rules: times must be finite and at least 0")


@dataclass(frozen=True, slots=True)
class Artefact:
    """One way in which the published comparison is not a fair one."""

    name: str
    """Short, for tables."""
    removed: Mapping[str, Any] = field(default_factory=dict)
    """What `Rules` have without it."""


def artefacts(steady_jobs: int, steady_load: float) -> tuple[Artefact, ...]:
    """In the order in which they are taken away: what is counted, who idles, what runs when."""
    return (
        Artefact("throughput of the first quarter", {"throughput_share": 1.0}),
        Artefact("FCFS idles 10 s", {"fcfs_idles_s": 0.0}),
        Artefact("SSJF preempts, free of charge", {"ssjf_preempts": False}),
        Artefact("answers at the end of the batch", {"answers_at_batch_end": False}),
        Artefact("jobs join at completions only", {"joins_at_completions": False}),
        Artefact("starvation rule reads the truth", {"starvation": Starvation.PREDICTION}),
        Artefact("SSJF forgets the last job", {"forgets_last_job": False}),
        Artefact("predictions take no time", {"prediction_s": PREDICTION_S}),
        Artefact("sorted gaps, whole seconds", {"arrivals_as_published": False}),
        Artefact("traces a thousand times slower", {"milliseconds_as_seconds": False}),
        Artefact("bursts of 50", {"jobs": steady_jobs, "load": steady_load}),
        Artefact("the starvation rule itself", {"starvation": Starvation.NONE}),
    )


def that_matter(rules: Rules, order: str, mode: Mode) -> Rules:
    """The rules, those at their defaults that make no difference to when jobs end."""
    same: dict[str, Any] = {"throughput_share": Rules().throughput_share}
    if order == FCFS:
        same |= {"starvation": Starvation.NONE, "forgets_last_job": False}
    else:
        same |= {"fcfs_idles_s": 0.0}
    if order != SSJF:
        same |= {"prediction_s": 0.0}
    if order == FCFS or mode is not Mode.CONTINUOUS:
        same |= {"ssjf_preempts": False}
    if mode is not Mode.CONTINUOUS:
        same |= {"joins_at_completions": False}
    if mode is not Mode.DYNAMIC:
        same |= {"answers_at_batch_end": False}
    return replace(rules, **same)


def without(rules: Rules, *removed: Artefact) -> Rules:
    """The rules, those artefacts taken away."""
    for each in removed:
        rules = replace(rules, **each.removed)
    return rules
