"""Requests in, messages out: the edge between the contract and the gateway.

`parse` turns a GenerateRequest into a `ParsedRequest` that cannot be invalid, or
raises InvalidRequest with every violation. What needs the tokenised prompt is
checked by `fit`. Knows no queue and no engine link.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway_svc import limits, validation
from gateway_svc.live import LiveRequest
from gateway_svc.scheduling.job import Job, Priority
from gateway_svc.validation import ServedModel
from gateway_svc.waits import WaitReason
from ssjf.engine.v1 import engine_pb2, prompt_pb2, sampling_pb2
from ssjf.gateway.v1 import gateway_pb2
from ssjf.predictor.v1 import predictor_pb2
from ssjf.wire import request_id
from ssjf.wire.errors import InvalidRequest, Violation

DEFAULT_ENTRIES: Final = 100
PRIORITIES: Final = {
    gateway_pb2.PRIORITY_CLASS_UNSPECIFIED: Priority.STANDARD,
    gateway_pb2.PRIORITY_CLASS_URGENT: Priority.URGENT,
    gateway_pb2.PRIORITY_CLASS_STANDARD: Priority.STANDARD,
    gateway_pb2.PRIORITY_CLASS_BATCH: Priority.BATCH,
}
TURN_ROLES: Final = {
    prompt_pb2.CHAT_ROLE_SYSTEM: predictor_pb2.TURN_ROLE_SYSTEM,
    prompt_pb2.CHAT_ROLE_USER: predictor_pb2.TURN_ROLE_USER,
    prompt_pb2.CHAT_ROLE_ASSISTANT: predictor_pb2.TURN_ROLE_ASSISTANT,
}
BATCHING_MODES: Final = {
    "none": engine_pb2.BATCHING_MODE_NONE,
    "dynamic": engine_pb2.BATCHING_MODE_DYNAMIC,
    "continuous": engine_pb2.BATCHING_MODE_CONTINUOUS,
}
WAIT_REASONS: Final = {
    reason: gateway_pb2.WaitReason.Value(f"WAIT_REASON_{reason.name}") for reason in WaitReason
}
PRIORITY_CLASSES: Final = {priority: number for number, priority in PRIORITIES.items() if number}


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request whose every field is in range; `sampling` has no field left unset.

    `max_tokens_given` tells a limit that the client chose from the default, which
    shrinks to fit the context.
    """

    request_id: str
    priority: Priority
    input: str | prompt_pb2.Chat | tuple[int, ...]
    sampling: sampling_pb2.SamplingParams
    max_tokens_given: bool
    benchmark_payload: bytes


def parse(
    request: gateway_pb2.GenerateRequest,
    model: ServedModel,
    *,
    default_max_tokens: int,
    benchmark: bool,
) -> ParsedRequest:
    """The request, checked. Raises InvalidRequest listing every violation."""
    validation.check(request, model, benchmark=benchmark)
    return ParsedRequest(
        request_id=request.request_id or request_id.draw(),
        priority=PRIORITIES[request.priority],
        input=_input(request),
        sampling=_resolved(request.sampling, default_max_tokens),
        max_tokens_given=request.sampling.HasField("max_tokens"),
        benchmark_payload=request.benchmark_payload,
    )


def fit(
    parsed: ParsedRequest, prompt_tokens: int, model: ServedModel
) -> sampling_pb2.SamplingParams:
    """The sampling parameters with max_tokens fitted to the context.

    Raises InvalidRequest where the prompt, or the prompt and the max_tokens that the
    client chose, cannot fit.
    """
    room = model.max_request_tokens - prompt_tokens
    sampling = parsed.sampling
    if prompt_tokens < 1:
        raise InvalidRequest([Violation(_input_field(parsed), "has no tokens")])
    if room < 1:
        text = f"has {prompt_tokens} tokens; the context holds {model.max_request_tokens}"
        raise InvalidRequest([Violation(_input_field(parsed), f"{text}, answer included")])
    if parsed.max_tokens_given and sampling.max_tokens > room:
        text = f"{sampling.max_tokens} and a prompt of {prompt_tokens} tokens exceed the context"
        raise InvalidRequest(
            [Violation("sampling.max_tokens", f"{text} of {model.max_request_tokens}")]
        )
    fitted = sampling_pb2.SamplingParams()
    fitted.CopyFrom(sampling)
    fitted.max_tokens = min(sampling.max_tokens, room)
    if fitted.min_tokens > fitted.max_tokens:
        text = (
            f"{fitted.min_tokens} is above the {fitted.max_tokens} tokens that the context leaves"
        )
        raise InvalidRequest([Violation("sampling.min_tokens", text)])
    return fitted


def tokenize_request(parsed: ParsedRequest) -> engine_pb2.TokenizeRequest | None:
    """What to ask an engine for the prompt's tokens; None where the client sent ids."""
    if isinstance(parsed.input, tuple):
        return None
    if isinstance(parsed.input, str):
        return engine_pb2.TokenizeRequest(prompt=parsed.input)
    return engine_pb2.TokenizeRequest(chat=parsed.input)


def token_ids(parsed: ParsedRequest) -> tuple[int, ...]:
    """The ids that the client sent. Raises TypeError where it sent text."""
    if not isinstance(parsed.input, tuple):
        raise TypeError("the prompt is text")
    return parsed.input


def predict_item(parsed: ParsedRequest, model: str) -> predictor_pb2.PredictItem | None:
    """What to ask the predictor; None for raw token ids, whose text the gateway has not."""
    if isinstance(parsed.input, tuple):
        return None
    item = predictor_pb2.PredictItem(model=model, max_tokens=parsed.sampling.max_tokens)
    if isinstance(parsed.input, str):
        item.prompt = parsed.input
        return item
    *earlier, last = parsed.input.messages
    item.prompt = last.content
    for message in earlier:
        item.turns.add(role=TURN_ROLES[message.role], content=message.content)
    return item


def sequence(
    job: Job,
    parsed: ParsedRequest,
    prompt: Sequence[int],
    sampling: sampling_pb2.SamplingParams,
) -> engine_pb2.Sequence:
    """The request as the engine sees it."""
    return engine_pb2.Sequence(
        sequence_id=job.job_id,
        request_id=parsed.request_id,
        prompt_token_ids=prompt,
        sampling=sampling,
        benchmark_payload=parsed.benchmark_payload,
        cache_salt=job.tenant,
        kv_reservation_tokens=job.reserved_kv_tokens or 0,
    )


def queued(live: LiveRequest, waiting: int) -> gateway_pb2.GenerateResponse:
    """The event of a request that was queued behind `waiting` requests, itself included."""
    event = gateway_pb2.Queued(
        request_id=live.job.request_id,
        prompt_tokens=live.job.prompt_tokens,
        predicted_tokens=live.job.expected_output_tokens,
        prediction_source=source(live),
        queue_length=waiting,
        priority=PRIORITY_CLASSES[live.job.priority],
    )
    return gateway_pb2.GenerateResponse(queued=event)


def finished(live: LiveRequest, now_s: float) -> gateway_pb2.GenerateResponse:
    """The last event of a request that its engine has finished.

    Raises ValueError where it has not.
    """
    end, moments = live.finished, live.moments
    if end is None:
        raise ValueError(f"job {live.job.job_id} has not finished")
    event = gateway_pb2.Finished(
        reason=end.reason,
        stop_string=end.stop_string if end.HasField("stop_string") else None,
        stop_token_id=end.stop_token_id if end.HasField("stop_token_id") else None,
        usage=gateway_pb2.Usage(
            prompt_tokens=end.prompt_tokens,
            output_tokens=end.output_tokens,
            cached_prompt_tokens=end.cached_prompt_tokens,
        ),
        length_prediction=gateway_pb2.LengthPrediction(
            predicted_tokens=live.job.expected_output_tokens,
            actual_tokens=end.output_tokens,
            source=source(live),
        ),
        timings=gateway_pb2.Timings(
            queue_wait_ms=moments.waited_s * 1e3,
            prefill_ms=end.prefill_ms,
            decode_ms=end.decode_ms,
            total_ms=(now_s - moments.received_s) * 1e3,
            ttft_ms=max(0.0, moments.first_token_s - moments.received_s) * 1e3,
        ),
    )
    return gateway_pb2.GenerateResponse(finished=event)


def source(live: LiveRequest) -> gateway_pb2.PredictionSource.ValueType:
    """Where the length came from that the request is queued under."""
    if live.from_model:
        return gateway_pb2.PREDICTION_SOURCE_MODEL
    return gateway_pb2.PREDICTION_SOURCE_PRIOR


def max_entries(request: gateway_pb2.GetQueueRequest | gateway_pb2.WatchQueueRequest) -> int:
    """How many entries of each kind a snapshot shall have."""
    return request.max_entries if request.HasField("max_entries") else DEFAULT_ENTRIES


def watch_interval_s(request: gateway_pb2.WatchQueueRequest) -> float:
    """Seconds between two snapshots. Raises InvalidRequest where they are out of range."""
    if not request.HasField("interval_ms"):
        return 1.0
    if problem := limits.WATCH_INTERVAL_MS.problem(request.interval_ms):
        raise InvalidRequest([Violation("interval_ms", problem)])
    return request.interval_ms / 1e3


def _input(request: gateway_pb2.GenerateRequest) -> str | prompt_pb2.Chat | tuple[int, ...]:
    if request.HasField("prompt"):
        return request.prompt
    if request.HasField("chat"):
        return request.chat
    return tuple(request.token_ids.ids)


def _input_field(parsed: ParsedRequest) -> str:
    if isinstance(parsed.input, str):
        return "prompt"
    return "token_ids" if isinstance(parsed.input, tuple) else "chat"


def _resolved(
    sampling: sampling_pb2.SamplingParams, default_max_tokens: int
) -> sampling_pb2.SamplingParams:
    """A copy with every default filled; logprobs stays absent where it was."""
    resolved = sampling_pb2.SamplingParams(
        max_tokens=max(default_max_tokens, sampling.min_tokens),
        min_tokens=0,
        temperature=0.7,
        top_p=0.95,
        top_k=0,
        min_p=0.0,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        seed=secrets.randbits(64),
        ignore_eos=False,
    )
    resolved.MergeFrom(sampling)
    return resolved
