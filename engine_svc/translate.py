"""Between the wire's messages and the engine's own types.

The gateway has checked what clients sent; the engine checks again what could harm it
(`refusal`) and refuses that sequence alone. The other way round, the
reports that wait to be sent become the messages of one step or of several.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from engine_svc.answers import Answered
from engine_svc.batching_mode import BatchingMode
from engine_svc.messages import Failed, Finished, Ready, Report, Start, TokenLogprobs
from engine_svc.params import SamplingParams
from engine_svc.scheduler import Capacity
from engine_svc.sequence import FailureCode, FinishReason, Sequence
from engine_svc.tokenizer import Message, Tokenizer
from ssjf.engine.v1 import engine_pb2, prompt_pb2, sampling_pb2
from ssjf.wire.errors import InvalidRequest, Violation

MAX_PROMPT_BYTES: Final = 1 << 20
MAX_LOGPROBS: Final = 20
MAX_SALT_BYTES: Final = 256

MODES: Final = {
    engine_pb2.BATCHING_MODE_NONE: BatchingMode.NONE,
    engine_pb2.BATCHING_MODE_DYNAMIC: BatchingMode.DYNAMIC,
    engine_pb2.BATCHING_MODE_CONTINUOUS: BatchingMode.CONTINUOUS,
}

REASONS: Final = {
    FinishReason.EOS: sampling_pb2.FINISH_REASON_EOS,
    FinishReason.STOP: sampling_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: sampling_pb2.FINISH_REASON_LENGTH,
}
CODES: Final = {
    FailureCode.INVALID: engine_pb2.SEQUENCE_ERROR_CODE_INVALID,
    FailureCode.KV_EXHAUSTED: engine_pb2.SEQUENCE_ERROR_CODE_KV_EXHAUSTED,
    FailureCode.NUMERIC: engine_pb2.SEQUENCE_ERROR_CODE_NUMERIC,
    FailureCode.INTERNAL: engine_pb2.SEQUENCE_ERROR_CODE_INTERNAL,
}
ROLES: Final = {
    prompt_pb2.CHAT_ROLE_SYSTEM: "system",
    prompt_pb2.CHAT_ROLE_USER: "user",
    prompt_pb2.CHAT_ROLE_ASSISTANT: "assistant",
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a sequence is checked against."""

    vocabulary_size: int
    max_context_tokens: int
    benchmark: bool


class Refused(ValueError):
    """The sequence is refused as it was sent; the message is for the operator's log."""


def starts(
    batch: engine_pb2.ScheduledBatch, bounds: Bounds, *, after: int, part_tokens: int
) -> Iterator[Start]:
    """A scheduled batch, with those of its sequences that are refused set apart.

    A part ends with the sequence that brings its prompts to `part_tokens`. Only the last part
    has the batch's number, the others that of the batch before, `after`: what is free is not
    told as of this batch before all of it has been taken.
    """
    accepted: list[Sequence] = []
    refused: list[Failed] = []
    tokens = 0
    for message in batch.sequences:
        if tokens >= part_tokens:
            yield Start(after, tuple(accepted), tuple(refused))
            accepted, refused, tokens = [], [], 0
        tokens += len(message.prompt_token_ids)
        try:
            accepted.append(sequence(message, bounds))
        except Refused as error:
            refused.append(Failed(message.sequence_id, FailureCode.INVALID, str(error)))
    yield Start(batch.batch_id, tuple(accepted), tuple(refused))


def sequence(message: engine_pb2.Sequence, bounds: Bounds) -> Sequence:
    """One sequence. Raises Refused."""
    prompt = tuple(message.prompt_token_ids[:])  # the slice is copied at once, not id by id
    params = sampling(message.sampling)
    ids = (*prompt, *params.stop_token_ids, *params.logit_bias)
    room = bounds.max_context_tokens - len(prompt)
    _require(bool(prompt), "the prompt has no tokens")
    _require(max(ids, default=0) < bounds.vocabulary_size, "token id beyond the vocabulary")
    _require(params.max_tokens <= room, "prompt and max_tokens exceed the context")
    _require(len(message.cache_salt.encode()) <= MAX_SALT_BYTES, "cache_salt is too long")
    return Sequence(
        message.sequence_id,
        prompt,
        params,
        message.request_id,
        _forced_tokens(message.benchmark_payload, params, bounds),
        cache_salt=message.cache_salt,
        kv_reservation_tokens=message.kv_reservation_tokens or None,
    )


def sampling(message: sampling_pb2.SamplingParams) -> SamplingParams:
    """Sampling parameters; what is absent takes the contract's default. Raises Refused."""
    has = message.HasField
    params = SamplingParams(
        max_tokens=message.max_tokens if has("max_tokens") else 1024,
        min_tokens=message.min_tokens,
        temperature=message.temperature if has("temperature") else 0.7,
        top_p=message.top_p if has("top_p") else 0.95,
        top_k=message.top_k,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty if has("repetition_penalty") else 1.0,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        seed=message.seed if has("seed") else secrets.randbits(64),
        stop=tuple(message.stop),
        stop_token_ids=frozenset(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        logit_bias=dict(message.logit_bias),
        logprobs=message.logprobs if has("logprobs") else None,
    )
    _check_sampling(params)
    return params


def _check_sampling(params: SamplingParams) -> None:
    _require(params.max_tokens >= 1, "max_tokens is 0")
    _require(params.min_tokens <= params.max_tokens, "min_tokens is above max_tokens")
    _require(0 <= params.temperature <= 2, "temperature is not in 0 … 2")
    _require(0 < params.top_p <= 1, "top_p is not in (0, 1]")
    _require(0 <= params.min_p <= 1, "min_p is not in 0 … 1")
    _require(0 < params.repetition_penalty <= 2, "repetition_penalty is not in (0, 2]")
    _require(-2 <= params.presence_penalty <= 2, "presence_penalty is not in -2 … 2")
    _require(-2 <= params.frequency_penalty <= 2, "frequency_penalty is not in -2 … 2")
    _require(all(params.stop), "an empty stop string")
    _require(all(map(math.isfinite, params.logit_bias.values())), "logit_bias is not finite")
    _require((params.logprobs or 0) <= MAX_LOGPROBS, f"logprobs is above {MAX_LOGPROBS}")


def _forced_tokens(payload: bytes, params: SamplingParams, bounds: Bounds) -> int | None:
    if not payload:
        return None
    _require(bounds.benchmark, "benchmark_payload without --benchmark")
    try:
        forced = engine_pb2.BenchmarkPayload.FromString(payload).forced_output_tokens
    except DecodeError as error:
        raise Refused("benchmark_payload is no BenchmarkPayload") from error
    _require(1 <= forced <= params.max_tokens, "forced_output_tokens is not in 1 … max_tokens")
    return int(forced)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Refused(otherwise)


def messages(request: engine_pb2.TokenizeRequest) -> tuple[Message, ...]:
    """The conversation to tokenise, a bare prompt as one user message. Raises InvalidRequest."""
    if request.ByteSize() > MAX_PROMPT_BYTES:
        raise _invalid("prompt", f"at most {MAX_PROMPT_BYTES} bytes")
    kind = request.WhichOneof("input")
    found: tuple[Message, ...]
    if kind == "prompt":
        found = (Message("user", request.prompt),)
    elif kind == "chat":
        found = tuple(_message(entry) for entry in request.chat.messages)
    else:
        raise _invalid("input", "one of prompt and chat is needed")
    if not found or not found[-1].content:
        raise _invalid(kind, "must not be empty")
    return found


def _message(entry: prompt_pb2.ChatMessage) -> Message:
    role = ROLES.get(entry.role)
    if role is None:
        raise _invalid("chat.messages.role", "system, user or assistant")
    return Message(role, entry.content)


def _invalid(field: str, description: str) -> InvalidRequest:
    return InvalidRequest([Violation(field, description)])


def responses(answered: Iterable[Answered]) -> Iterator[engine_pb2.ServeResponse]:
    """The messages of reports that follow one another: their tokens and ends together, then
    what is free after the last."""
    message = engine_pb2.ServeResponse()
    capacity = drained = None
    for each in answered:
        report = each.report
        if report.sequence_ids or report.finished or report.failed:
            _add(message.step, report, each.texts)
        if report.capacity is not None:
            capacity = _capacity(report.capacity, report.batch_id)
        if report.drained:
            drained = engine_pb2.Drained()
    if message.HasField("step"):
        yield message
    if capacity is not None:
        yield engine_pb2.ServeResponse(capacity=capacity)
    if drained is not None:
        yield engine_pb2.ServeResponse(drained=drained)


def _add(step: engine_pb2.StepOutput, report: Report, texts: Iterable[str]) -> None:
    """Adds a report's rows and ends. Filled in place: built apart, all of it is copied."""
    if report.logprobs is not None:
        for row, sequence_id in enumerate(report.sequence_ids, len(step.sequence_ids)):
            if sequence_id in report.logprobs:
                step.logprob_rows.append(row)
                step.logprobs.append(_token_logprobs(report.logprobs[sequence_id]))
    step.step = report.step or step.step
    step.step_ms += report.step_ms
    step.sequence_ids.extend(report.sequence_ids)
    step.indices.extend(report.indices)
    step.token_ids.extend(report.token_ids)
    step.texts.extend(texts)
    step.finished.extend(map(_finished, report.finished))
    step.errors.extend(map(_failed, report.failed))


def _token_logprobs(logprobs: TokenLogprobs) -> sampling_pb2.TokenLogprobs:
    return sampling_pb2.TokenLogprobs(
        logprob=logprobs.logprob,
        top_token_ids=logprobs.top_token_ids,
        top_logprobs=logprobs.top_logprobs,
    )


def _finished(finished: Finished) -> engine_pb2.SequenceFinished:
    return engine_pb2.SequenceFinished(
        sequence_id=finished.sequence_id,
        reason=REASONS[finished.ending.reason],
        stop_string=finished.ending.stop_string,
        stop_token_id=finished.ending.stop_token_id,
        prompt_tokens=finished.prompt_tokens,
        cached_prompt_tokens=finished.cached_prompt_tokens,
        output_tokens=finished.output_tokens,
        prefill_ms=finished.prefill_ms,
        decode_ms=finished.decode_ms,
    )


def _failed(failed: Failed) -> engine_pb2.SequenceError:
    return engine_pb2.SequenceError(
        sequence_id=failed.sequence_id,
        code=CODES[failed.code],
        message=failed.message,
        output_tokens=failed.output_tokens,
    )


def _capacity(capacity: Capacity, batch_id: int) -> engine_pb2.Capacity:
    return engine_pb2.Capacity(
        free_sequences=capacity.free_sequences,
        free_kv_tokens=capacity.free_kv_tokens,
        running_sequences=capacity.running_sequences,
        batch_id=batch_id,
    )


def model_info(ready: Ready, tokenizer: Tokenizer, name: str) -> engine_pb2.ModelInfo:
    """What model is served."""
    return engine_pb2.ModelInfo(
        name=name,
        architecture=ready.architecture,
        vocabulary_size=ready.vocabulary_size,
        vocabulary_hash=tokenizer.vocabulary_hash(),
        eos_token_ids=ready.eos_token_ids,
        has_chat_template=tokenizer.has_chat_template,
        parameters=ready.parameters,
        dtype=ready.dtype,
        device=ready.device,
    )


def limits(ready: Ready) -> engine_pb2.EngineLimits:
    """What the engine can hold."""
    return engine_pb2.EngineLimits(
        max_sequences=ready.max_sequences,
        max_context_tokens=ready.max_context_tokens,
        kv_tokens=ready.kv_tokens,
        kv_block_tokens=ready.kv_block_tokens,
    )
