"""What running services can hold, and whether a workload fits.

Asks a gateway what it serves and an engine how long prompts are, before an hour of work
shows it. A workload that exceeds the context is refused; KV credits that would bind are
reported, because then places are not what limits a batch. Called by `ssjf bench live`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc

from ssjf.engine.v1 import engine_pb2, engine_pb2_grpc
from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import channel, errors
from ssjf_bench import replay
from ssjf_bench.workload import Request

TIMEOUT_S = 60.0
MODES: Mapping[int, str] = {
    engine_pb2.BATCHING_MODE_NONE: "none",
    engine_pb2.BATCHING_MODE_DYNAMIC: "dynamic",
    engine_pb2.BATCHING_MODE_CONTINUOUS: "continuous",
}


class LimitsError(Exception):
    """The services cannot be asked, or cannot hold the workload; the message says why."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a gateway says of itself and of the engine behind it."""

    policy: str
    """The policy that is configured."""
    mode: str
    """Batching."""
    max_batch: int
    """Requests that the engine runs at once."""
    max_wait_ms: float
    """Dynamic batching: longest wait for company."""
    benchmark: bool
    """Whether lengths can be forced."""
    model: str
    """Name of the model, which predictions are asked for."""
    max_sequences: int
    """Places of the engine."""
    context_tokens: int
    """Prompt plus answer of one request."""
    kv_tokens: int
    """Tokens that the engine's cache holds."""


def served(gateway: str) -> Served:
    """Asks the gateway at `gateway`. Raises LimitsError where it is gone or has no engine."""
    with channel.connect_blocking(gateway) as connection:
        stub = gateway_pb2_grpc.GatewayServiceStub(connection)
        try:
            info = stub.GetServerInfo(gateway_pb2.GetServerInfoRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise LimitsError(f"gateway {gateway}: {_why(error)}") from error
    if len(info.engines) != 1:
        raise LimitsError(f"gateway {gateway}: one engine wanted, it has {len(info.engines)}")
    limits, scheduling = info.engines[0].limits, info.scheduling
    return Served(
        scheduling.policy,
        MODES[scheduling.batching_mode],
        min(scheduling.max_batch, limits.max_sequences),
        scheduling.max_batch_wait_ms,
        info.benchmark,
        info.model,
        limits.max_sequences,
        min(limits.max_context_tokens, limits.kv_tokens),
        limits.kv_tokens,
    )


def prompt_tokens(engine: str, requests: Sequence[Request]) -> list[int]:
    """Lengths of the requests' prompts as the engine at `engine` reads them. Raises LimitsError."""
    known: dict[bytes, int] = {}
    found = []
    with channel.connect_blocking(engine) as connection:
        stub = engine_pb2_grpc.EngineServiceStub(connection)
        for request in requests:
            message = replay.to_message(request)
            text = (
                engine_pb2.TokenizeRequest(chat=message.chat)
                if request.turns
                else engine_pb2.TokenizeRequest(prompt=message.prompt)
            )
            key = text.SerializeToString()
            if key not in known:
                try:
                    known[key] = len(stub.Tokenize(text, timeout=TIMEOUT_S).token_ids)
                except grpc.RpcError as error:
                    raise LimitsError(f"prompt {request.prompt_id}: {_why(error)}") from error
            found.append(known[key])
    return found


def kv_tokens_wanted(prompts: Sequence[int], max_tokens: int, places: int) -> int:
    """KV tokens that a full batch may reserve: the longest prompts, each with its limit."""
    return sum(sorted(prompts)[-places:]) + places * max_tokens


def check_context(prompts: Sequence[int], max_tokens: int, context_tokens: int) -> None:
    """Raises LimitsError where a prompt and the longest answer exceed the context."""
    over = sum(prompt + max_tokens > context_tokens for prompt in prompts)
    if over:
        raise LimitsError(
            f"{over} of {len(prompts)} requests do not fit the engine's context of "
            f"{context_tokens} tokens: the longest prompt has {max(prompts)}, and every request "
            f"names max_tokens {max_tokens}. Give the engine more (--engine-flag "
            "max_context_tokens=N, kv_tokens=N), or leave out longer answers (--longest)"
        )


def _why(error: grpc.RpcError) -> str:
    details = errors.decode(error)
    return f"{details.code.name} {details.message}".strip()
