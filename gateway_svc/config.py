"""The gateway's settings; the composition root reads them once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from gateway_svc.scheduling import policy
from ssjf.wire import channel
from ssjf.wire.settings import SETTINGS, ServiceSettings


class GatewaySettings(ServiceSettings):
    """Settings of the gateway service (environment: SSJF_GATEWAY_…)."""

    model_config = SETTINGS | SettingsConfigDict(
        env_prefix="SSJF_GATEWAY_", cli_prog_name="gateway_svc"
    )

    port: int = Field(default=50051, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    engines: str = "127.0.0.1:50053"
    """Engines behind the queue, as host:port, separated by commas."""
    predictor: str = "127.0.0.1:50052"
    """The predictor, as host:port. Several are asked in turn: a name with several addresses, or
    IP:port,IP:port,... "none" to run on the prior alone."""
    policy: str = "default"
    """Order of the queue: fcfs, ssjf, bounded-ssjf, tail-ssjf, ssjf-ageing, hrrn or oracle
    (benchmarks only); "default" is the best of them."""
    alpha: float | None = Field(default=None, ge=1)
    """bounded-ssjf, tail-ssjf: later arrivals start before a request for at most (alpha - 1) of
    the work ahead of it; 1 is FCFS up to a batch, inf no bound; the policy's own unless set."""
    tail: float = Field(default=1.2, ge=1, allow_inf_nan=False)
    """tail-ssjf: completion times to aim below, as a multiple of first come, first served's p99."""
    tail_longest: float = Field(default=2.0, ge=1, allow_inf_nan=False)
    """tail-ssjf: how many times as long the longest 0.8 % of requests may take."""
    ageing_s_per_token: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    """ssjf-ageing: a request goes before one that is shorter by a token if it came this much
    earlier."""
    batching: Literal["none", "dynamic", "continuous"] = "continuous"
    """none: one request at a time; dynamic: batches that run to completion; continuous: every
    free place is filled at once."""
    max_batch: int = Field(default=256, ge=1, le=1_000_000)
    """Requests that an engine may run at once, as far as it can."""
    max_batch_wait_ms: float = Field(default=50.0, ge=0, le=60_000, allow_inf_nan=False)
    """dynamic: how long the first request of a batch waits for company at most."""
    max_queued: int = Field(default=1024, ge=1, le=1_000_000)
    """Requests that may wait; more are refused with RESOURCE_EXHAUSTED."""
    max_queued_tokens: int | None = Field(default=None, ge=1)
    """Tokens that may wait, prompt plus max_tokens of each request; no limit unless set."""
    max_running: int | None = Field(default=None, ge=1)
    """Requests that may run at once over all engines; no limit unless set."""
    standard_share: float = Field(default=0.1, ge=0, lt=0.5)
    """Share of the work that class standard gets whatever class urgent has waiting."""
    batch_share: float = Field(default=0.05, ge=0, lt=0.5)
    """The same of class batch, whatever the classes above have waiting."""
    tenants: Path | None = None
    """TOML file of tenants and their bearer tokens, read again when it changes; without it
    everyone may do everything."""
    refuse_hopeless: bool = True
    """Refuse a request at once whose deadline passes before its turn is predicted to come."""
    queue_timeout_s: float = Field(default=600.0, gt=0, le=86_400, allow_inf_nan=False)
    """Seconds that a request may wait before it fails with DEADLINE_EXCEEDED."""
    max_passes: int = Field(default=64, ge=0)
    """Requests that may start past one whose KV tokens do not fit yet."""
    prediction_budget_ms: float = Field(default=50.0, ge=0, le=60_000, allow_inf_nan=False)
    """Milliseconds that a request waits for its prediction; then it is queued under the prior."""
    skip_idle_predictions: bool = True
    """Do not wait for a request's prediction where nothing waits and a place is free."""
    prediction_timeout_s: float = Field(default=5.0, gt=0, le=600)
    """Seconds after which a late prediction is given up."""
    fallback_tau_b: float = Field(default=0.1, ge=-1, le=1)
    """Kendall's tau-b of predicted against actual tokens below which HRRN on known quantities
    orders the queue, until it is 0.05 above; -1 never."""
    quality_window: int = Field(default=256, ge=32, le=10_000)
    """Finished requests that tau-b is taken over."""
    kv_reserve: Literal["max", "predicted"] = "max"
    """KV tokens that a request reserves: prompt plus max_tokens, or prompt plus the predicted
    90th percentile, which packs more in and may have to compute some of it again."""
    prior_tokens: float = Field(default=256.0, gt=0, le=1_000_000)
    """Output tokens that the prior starts from."""
    prefill_token_ms: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    """Step model: milliseconds of prefill a prompt token. Only its ratio to the next counts."""
    decode_token_ms: float = Field(default=6.5, gt=0, allow_inf_nan=False)
    """Step model: milliseconds of decode an output token."""
    default_max_tokens: int = Field(default=1024, ge=1, le=1_000_000)
    """max_tokens of a request that has none; shrinks to what the context leaves."""
    tokenize_timeout_s: float = Field(default=10.0, gt=0, le=600)
    """Seconds that an engine may take to tokenise a prompt."""
    stall_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    """Seconds that a client may stop reading before its request ends with SLOW_CONSUMER."""
    benchmark: bool = False
    """Copy benchmark_payload to the engine and allow the oracle policy."""
    oracle_lengths: Path | None = None
    """JSON object of true output tokens by request id, for --policy oracle; needs --benchmark."""

    @field_validator("policy")
    @classmethod
    def _known_policy(cls, name: str) -> str:
        names = ("default", *policy.names())
        if name not in names:
            raise ValueError(f"there are: {', '.join(names)}")
        return name

    @field_validator("engines")
    @classmethod
    def _addresses(cls, engines: str) -> str:
        listed = channel.listed(engines)
        for address in listed:
            check_address(address)
        if len(set(listed)) < len(listed):
            raise ValueError("the same host:port is listed twice")
        return engines

    @field_validator("predictor")
    @classmethod
    def _predictor_address(cls, predictor: str) -> str:
        if predictor not in ("", "none"):
            for address in channel.listed(predictor):
                check_address(address)
            channel.balanced_target(predictor)
        return predictor

    @model_validator(mode="after")
    def _oracle_needs_benchmark(self) -> GatewaySettings:
        if not self.benchmark and (self.oracle_lengths or self.policy == "oracle"):
            raise ValueError("the oracle policy and oracle_lengths need --benchmark")
        if self.policy == "oracle" and self.oracle_lengths is None:
            raise ValueError("the oracle policy needs --oracle-lengths FILE")
        return self

    @property
    def engine_addresses(self) -> tuple[str, ...]:
        """The engines, one by one."""
        return channel.listed(self.engines)

    @property
    def predictor_address(self) -> str | None:
        """The predictor, or None."""
        return None if self.predictor in ("", "none") else self.predictor


def check_address(address: str) -> None:
    """Raises ValueError where `address` is not host:port."""
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{address!r} is not host:port")
