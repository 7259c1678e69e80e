"""The services of a live evaluation: our own, or a gateway that runs already.

Owns which flags the fairness rules ask for, and restarting the gateway for each policy;
engine and predictor stay up, warm, and remember nothing of earlier runs. A gateway that is
given is taken as it is: it serves one policy, and that one can be run. Called by
`bench_live` and `live_session`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from ssjf_bench.live_plan import Choice, Engine, Flags, Plan
from ssjf_bench.live_run import Target
from ssjf_bench.live_work import Work
from ssjf_cli.process import StackError
from ssjf_cli.stack import START_ORDER, Stack, StackOptions

START_TIMEOUT_S: Final = 600.0
"""A model of 8 B parameters and its CUDA graphs."""
FAIR_ENGINE: Final[Flags] = {"benchmark": True, "prefix_reuse": False}
"""Every run reads every prompt: none profits from what an earlier one left in the cache."""
FAIR_PREDICTOR: Final[Flags] = {"cache_items": 0}
"""Every run pays for its predictions."""
FAIR_GATEWAY: Final[Flags] = {
    "benchmark": True,
    "fallback_tau_b": -1,
    "skip_idle_predictions": False,
    "queue_timeout_s": 86_400,
}
"""The policy alone, never replaced by another; every request queued under its prediction."""


ADDRESSES: Final = ("engines", "predictor")


class Services(Protocol):
    """Where runs happen."""

    def gateway(self, engine: Engine, choice: Choice, oracle_lengths: Path) -> Target:
        """A gateway of this setting and policy. Raises StackError."""

    @property
    def engine_address(self) -> str:
        """The engine, for its tokeniser; empty where it is not known."""

    @property
    def flags(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings given to each service, paths by their last part."""


def own_flags(places: int, given: Mapping[str, Flags]) -> dict[str, Flags]:
    """Settings of each service for the whole evaluation; what is `given` goes first."""
    return {
        "engine": {**FAIR_ENGINE, "max_sequences": places, **given["engine"]},
        "predictor": {**FAIR_PREDICTOR, **given["predictor"]},
        "gateway": {**FAIR_GATEWAY, **given["gateway"]},
    }


class OwnServices:
    """Services that this command has started; the gateway is restarted for each run."""

    def __init__(self, stack: Stack, plan: Plan, work: Work) -> None:
        self._stack = stack
        self._plan = plan
        self._fixed: Flags = {
            "max_queued": work.most_queued,
            "default_max_tokens": work.max_tokens,
        }

    @property
    def engine_address(self) -> str:
        """The engine."""
        return self._stack.engine_address

    @property
    def flags(self) -> Mapping[str, Mapping[str, Any]]:
        """As they are now, the gateway's those of the latest run."""
        return {each.name: without_folders(each.flags) for each in self._stack.services}

    def gateway(self, engine: Engine, choice: Choice, oracle_lengths: Path) -> Target:
        """The gateway, started anew. Raises StackError."""
        flags: dict[str, Any] = {
            **self._fixed,
            "policy": choice.policy,
            **choice.options,
            "batching": engine.mode,
            "max_batch": engine.max_batch,
            "max_batch_wait_ms": self._plan.max_wait_ms,
            **self._plan.flags["gateway"],
        }
        if choice.policy == "oracle":
            flags["oracle_lengths"] = str(oracle_lengths)
        self._stack.restart("gateway", flags)
        pids: dict[str, int] = {name: self._stack.process(name).pid for name in START_ORDER}
        return Target(self._stack.gateway_address, pids, self._broken)

    def _broken(self) -> str:
        try:
            self._stack.check()
        except StackError as ended:
            return str(ended)
        return ""


@dataclass(frozen=True, slots=True)
class GivenGateway:
    """A gateway that someone else has started: the plan is of what it serves."""

    address: str
    """host:port."""

    @property
    def engine_address(self) -> str:
        """Not known."""
        return ""

    @property
    def flags(self) -> Mapping[str, Mapping[str, Any]]:
        """Not known."""
        return {}

    def gateway(self, engine: Engine, choice: Choice, oracle_lengths: Path) -> Target:
        """The gateway as it is, whatever is asked for."""
        del engine, choice, oracle_lengths
        return Target(self.address)


@contextmanager
def started(plan: Plan, gateway: str | None, work: Work, log_dir: Path) -> Iterator[Services]:
    """The services of a plan until the end of the block, or the gateway that is given.

    Raises StackError.
    """
    if gateway is not None:
        yield GivenGateway(gateway)
        return
    options = StackOptions(
        engine=plan.flags["engine"],
        predictor=plan.flags["predictor"],
        gateway={**plan.flags["gateway"], "policy": "fcfs"},
        log_dir=log_dir,
        start_timeout_s=START_TIMEOUT_S,
    )
    with Stack(options) as stack:
        yield OwnServices(stack, plan, work)


def without_folders(flags: Flags) -> dict[str, Any]:
    """Settings as they may be published: paths by their last part, no addresses."""
    return {
        name: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for name, value in flags.items()
        if name not in ADDRESSES
    }
