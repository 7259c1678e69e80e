"""What a live evaluation runs, and in which order: settings, policies, loads, repeats.

Pure: the plan is plain data with a digest, by which a folder of records knows its own.
Policies alternate within each repeat, and the order turns by one from repeat to repeat, so
that none always comes first. Knows no service; called by `ssjf bench live` and its folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from gateway_svc.scheduling import policy
from gateway_svc.scheduling.batching import Mode
from gateway_svc.scheduling.policy import PolicyOptions

Flags = Mapping[str, str | int | float | bool]
OPTIONS: Final = ("alpha", "tail", "tail_longest", "ageing_s_per_token")
"""What of a policy the gateway has flags for."""
NONE: Final = Mode.NONE.value


@dataclass(frozen=True, slots=True)
class Choice:
    """A policy, and the settings it is given. Raises ValueError for what there is not."""

    policy: str
    """Name in the registry, or "default"."""
    options: Mapping[str, float] = field(default_factory=dict)
    """Its settings by name; what is left out keeps the policy's own."""

    def __post_init__(self) -> None:
        if self.policy not in ("default", *policy.names()):
            raise ValueError(f"no policy {self.policy!r}; there are: {', '.join(policy.names())}")
        if unknown := set(self.options) - set(OPTIONS):
            raise ValueError(f"policy {self.policy}: no {sorted(unknown)[0]}; {', '.join(OPTIONS)}")
        PolicyOptions(**self.options)  # type: ignore[arg-type]

    @property
    def label(self) -> str:
        """What `parse_choice` reads."""
        given = ",".join(f"{name}={value:g}" for name, value in self.options.items())
        return f"{self.policy}:{given}" if given else self.policy


def parse_choice(text: str) -> Choice:
    """`NAME` or `NAME:OPTION=VALUE,…`. Raises ValueError."""
    name, _, given = text.partition(":")
    options: dict[str, float] = {}
    for part in given.split(",") if given else ():
        option, equals, value = part.partition("=")
        try:
            options[option] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise ValueError(f"policy {text!r}: NAME:OPTION=VALUE,… wanted")
    return Choice(name, options)


@dataclass(frozen=True, slots=True)
class Engine:
    """How requests share an engine: what a capacity is measured for."""

    mode: str
    """none, dynamic or continuous."""
    max_batch: int
    """Requests that it runs at once; 1 where the mode is none."""

    @property
    def name(self) -> str:
        """E.g. continuous-16."""
        return f"{self.mode}-{self.max_batch}"


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One replay under one policy."""

    engine: Engine
    """Batching."""
    load: float
    """Offered requests a second as a share of capacity."""
    choice: Choice
    """The policy."""
    repeat: int
    """From 1."""

    @property
    def name(self) -> str:
        """E.g. continuous-16-0.9-ssjf-1; the name of its file."""
        label = self.choice.label.replace(":", "-").replace(",", "-").replace("=", "-")
        return f"{self.engine.name}-{self.load:g}-{label}-{self.repeat}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides what is measured. Raises ValueError for values out of range."""

    arrivals: str
    """As `arrivals.parse` reads it; of a trace its file's name."""
    prompts: str
    """Name of the file that prompts and lengths are drawn from."""
    checksums: Mapping[str, str]
    """SHA-256 of each file that the traffic is made from, by its name."""
    modes: Sequence[str]
    """Batching modes."""
    batches: Sequence[int]
    """Sizes of batches; mode none has 1."""
    loads: Sequence[float]
    """Shares of measured capacity."""
    policies: Sequence[str]
    """Labels of choices."""
    repeats: int = 1
    """How often everything is run."""
    llm: str = ""
    """The LLM whose lengths are drawn, and that predictions are asked for."""
    split: str = ""
    """The part of the data set that prompts are drawn from; empty for all of it."""
    longest: int | None = None
    """Rows with a longer answer are left out."""
    unseen_by: str = ""
    """Name of the folder of weights whose training prompts are left out; empty for none."""
    skip: int = 0
    """Requests of the trace left out before the first."""
    jobs: int | None = None
    """Requests of a run; None takes the whole trace."""
    seed: int = 1
    """Of the draw of prompts, of arrivals and of sampling."""
    real_text: bool = False
    """Whether answers are as long as the engine makes them; else their lengths are the data's."""
    hold_lengths: bool = False
    """Real text: whether every run's answers are held to the lengths of the recording pass. In
    bf16 a token that ties depends on what shares its batch, so runs would differ in their work."""
    max_tokens: int | None = None
    """The limit that every request names; None names the longest answer."""
    temperature: float = 0.7
    """Of sampling."""
    max_wait_ms: float = 50.0
    """Dynamic batching: longest wait for company, the same under every policy."""
    warm_up: int | None = None
    """Requests before each window; None takes a full batch."""
    delta_interval_ms: int = 50
    """Tokens that come within it reach the client together."""
    machine: Sequence[str] = ()
    """What it runs on."""
    flags: Mapping[str, Flags] = field(default_factory=dict)
    """Settings of the services, by their name."""
    capacities: Mapping[str, float] = field(default_factory=dict)
    """Requests a second by name of the engine's setting, where they are given, not measured."""

    def __post_init__(self) -> None:
        if not (self.modes and self.batches and self.loads and self.policies):
            raise ValueError("at least one mode, batch, load and policy wanted")
        if self.repeats < 1 or min(self.batches) < 1:
            raise ValueError("repeats and batches of at least 1 wanted")
        if not all(0 < load < float("inf") for load in self.loads):
            raise ValueError("load must be positive")
        for names in (self.modes, self.batches, self.loads, self.policies):
            if len(set(names)) < len(names):
                raise ValueError(f"{names[0]} or another of its kind is asked for twice")
        for mode in self.modes:
            Mode(mode)
        for label in self.policies:
            parse_choice(label)

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Every mode with every batch; none once, since its batch is always 1."""
        found = [
            Engine(mode, 1 if mode == NONE else batch)
            for mode in self.modes
            for batch in self.batches
        ]
        return tuple(dict.fromkeys(found))

    @property
    def most_places(self) -> int:
        """The largest batch."""
        return max(engine.max_batch for engine in self.engines)

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """In the order in which they are to be run."""
        choices = [parse_choice(label) for label in self.policies]
        return tuple(
            PlannedRun(engine, load, choices[(first + repeat) % len(choices)], repeat + 1)
            for repeat in range(self.repeats)
            for engine in self.engines
            for load in self.loads
            for first in range(len(choices))
        )

    def warm_up_requests(self, engine: Engine) -> int:
        """Requests before each window."""
        return engine.max_batch if self.warm_up is None else self.warm_up

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data, as it is kept beside the records."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the plan."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def differences(kept: Mapping[str, Any], asked: Mapping[str, Any], within: str = "") -> list[str]:
    """A line for each setting in which two plans, as plain data, differ."""
    lines: list[str] = []
    for name in sorted({*kept, *asked}):
        there, here = kept.get(name), asked.get(name)
        if there == here:
            continue
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            lines += differences(there, here, f"{within}{name}.")
        else:
            lines.append(f"{within}{name}: {json.dumps(there)} there, {json.dumps(here)} asked for")
    return lines


def predicted_s(jobs: int, run: PlannedRun, capacity_requests_s: float) -> float:
    """Seconds that a run takes, about: the arrivals, or the work where that is more.

    And the warm-up and the emptying of the engine: a few mean answers, each of which takes
    a batch over the capacity.
    """
    window_s = jobs / (capacity_requests_s * min(run.load, 1.0))
    return window_s + 4 * run.engine.max_batch / capacity_requests_s
