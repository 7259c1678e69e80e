"""Puts the gateway's parts together, from its settings.

Owns which part gets which setting. Opens nothing: that is the composition root's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway_svc import translate
from gateway_svc.admission import Admission, Doors
from gateway_svc.config import GatewaySettings
from gateway_svc.dispatcher import Dispatcher
from gateway_svc.engine_link import Batching as LinkBatching
from gateway_svc.experience import Experience
from gateway_svc.fleet import Fleet
from gateway_svc.live import LiveRequest
from gateway_svc.ordering import Ordering, SwitchedPolicy
from gateway_svc.predictor_client import PredictorClient
from gateway_svc.prior import PromptLengthPrior
from gateway_svc.quality import PredictionWindow, Trust
from gateway_svc.scheduling import policy
from gateway_svc.scheduling.batching import Batching, Mode
from gateway_svc.scheduling.core import SchedulingCore
from gateway_svc.scheduling.cost import StepModel
from gateway_svc.scheduling.quota import UNLIMITED, Limits, Tenant
from gateway_svc.service import GatewayService, Parts
from gateway_svc.snapshot import Snapshots
from gateway_svc.tenants import Tenants
from gateway_svc.watch import Watch
from ssjf.wire.run import StartupError

FALLBACK: Final = "hrrn"
"""Orders by known quantities while predictions are not trusted."""
WITHOUT_PREDICTION: Final = ("fcfs", "hrrn", "oracle")
"""Policies that there is nothing to fall back from."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """The parts that the composition root runs, and that tests look into."""

    service: GatewayService
    admission: Admission
    dispatcher: Dispatcher
    fleet: Fleet
    predictor: PredictorClient | None
    tenants: Tenants
    experience: Experience
    watch: Watch


def assemble(settings: GatewaySettings, engines_changed: Callable[[], None]) -> Assembled:
    """Every part. Raises StartupError where a file that the settings name is wrong."""
    tenants = Tenants(settings.tenants)
    ordering = build_ordering(settings)
    prior = PromptLengthPrior(settings.prior_tokens)

    def ended(live: LiveRequest, now_s: float) -> None:
        experience.finished(live, now_s)

    core = build_core(settings, ordering.policy, tenants.all)
    dispatcher = Dispatcher(core, time.monotonic, engines_changed, ended)
    experience = Experience(prior, ordering, dispatcher.tally)
    fleet = Fleet(settings.engine_addresses, dispatcher, _link_batching(settings))
    address = settings.predictor_address
    predictor = PredictorClient(address, settings.prediction_timeout_s) if address else None
    doors = Doors(settings.max_queued, settings.refuse_hopeless, settings.batching == "dynamic")
    admission = Admission(doors, dispatcher)
    watch = Watch(
        dispatcher,
        fleet,
        tenants,
        Mode(settings.batching),
        settings.max_running or UNLIMITED,
        time.monotonic,
    )
    snapshots = Snapshots(
        settings, dispatcher, fleet, predictor, tenants, experience, watch, time.monotonic
    )
    parts = Parts(admission, dispatcher, fleet, predictor, prior, snapshots, tenants)
    service = GatewayService(settings, parts)
    return Assembled(service, admission, dispatcher, fleet, predictor, tenants, experience, watch)


def build_core(
    settings: GatewaySettings, order: policy.Policy, tenants: tuple[Tenant, ...]
) -> SchedulingCore:
    """The scheduling core that the settings describe."""
    limits = Limits(
        max_queued=settings.max_queued,
        max_queued_tokens=settings.max_queued_tokens or UNLIMITED,
        max_running=settings.max_running or UNLIMITED,
        queue_timeout_s=settings.queue_timeout_s,
        max_passes=settings.max_passes,
        longest_answer_tokens=settings.default_max_tokens,
        class_shares=(0.0, settings.standard_share, settings.batch_share),
    )
    batching = Batching(
        Mode(settings.batching), settings.max_batch, settings.max_batch_wait_ms / 1e3
    )
    step_model = StepModel(settings.prefill_token_ms, settings.decode_token_ms)
    return SchedulingCore(order, limits, batching, tenants, step_model)


def build_ordering(settings: GatewaySettings) -> Ordering:
    """The policies and the verdict that chooses between them."""
    options = policy.PolicyOptions(
        alpha=settings.alpha,
        tail=settings.tail,
        tail_longest=settings.tail_longest,
        ageing_s_per_token=settings.ageing_s_per_token,
        typical_tokens=settings.prior_tokens,
        oracle_lengths=_oracle_lengths(settings.oracle_lengths),
    )
    configured = policy.DEFAULT if settings.policy == "default" else settings.policy
    never = configured in WITHOUT_PREDICTION or settings.fallback_tau_b <= -1
    lowest = None if never else settings.fallback_tau_b
    both = SwitchedPolicy(policy.create(configured, options), policy.create(FALLBACK, options))
    window = PredictionWindow(settings.quality_window)
    return Ordering(configured, FALLBACK, both, window, Trust(lowest))


def _link_batching(settings: GatewaySettings) -> LinkBatching:
    most = 1 if settings.batching == "none" else settings.max_batch
    return LinkBatching(translate.BATCHING_MODES[settings.batching], most)


def _oracle_lengths(path: Path | None) -> Mapping[str, int] | None:
    """Output tokens by request id. Raises StartupError naming the file and what is wrong."""
    if path is None:
        return None
    try:
        lengths = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StartupError(f"--oracle-lengths {path}: {error}") from error
    if not isinstance(lengths, dict) or not all(type(n) is int and n > 0 for n in lengths.values()):
        raise StartupError(f"--oracle-lengths {path}: not an object of positive integers")
    return lengths
