"""What a request must be, before anything is done with it.

Checks the fields that need no tokeniser against `limits` and the served model, and
collects every violation, so that a client can mend them all at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway_svc import limits
from ssjf.engine.v1 import prompt_pb2, sampling_pb2
from ssjf.gateway.v1 import gateway_pb2
from ssjf.wire import request_id
from ssjf.wire.errors import InvalidRequest, Violation


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What requests are checked against: the model that the engines serve."""

    name: str
    vocabulary_size: int
    max_context_tokens: int
    kv_tokens: int

    @property
    def max_request_tokens(self) -> int:
        """Most tokens of prompt and answer together."""
        return min(self.max_context_tokens, self.kv_tokens)


def check(request: gateway_pb2.GenerateRequest, model: ServedModel, *, benchmark: bool) -> None:
    """Raises InvalidRequest listing every violation, if there is one."""
    violations = [
        *_input_violations(request, model),
        *_sampling_violations(request.sampling, model),
        *_other_violations(request, benchmark=benchmark),
    ]
    if violations:
        raise InvalidRequest(violations)


def _input_violations(
    request: gateway_pb2.GenerateRequest, model: ServedModel
) -> Iterator[Violation]:
    match request.WhichOneof("input"):
        case "prompt":
            yield from _text_violations("prompt", len(request.prompt.encode()))
        case "chat":
            yield from _chat_violations(request.chat)
        case "token_ids":
            yield from _token_ids_violations(request.token_ids.ids, model)
        case _:
            yield Violation("input", "one of prompt, chat and token_ids is needed")


def _text_violations(field: str, size_bytes: int) -> Iterator[Violation]:
    if size_bytes == 0:
        yield Violation(field, "must not be empty")
    if size_bytes > limits.MAX_PROMPT_BYTES:
        yield Violation(field, f"has {size_bytes} bytes, at most {limits.MAX_PROMPT_BYTES}")


def _chat_violations(chat: prompt_pb2.Chat) -> Iterator[Violation]:
    count = len(chat.messages)
    if not 1 <= count <= limits.MAX_CHAT_MESSAGES:
        wanted = f"1 to {limits.MAX_CHAT_MESSAGES} messages wanted"
        yield Violation("chat.messages", f"{wanted}, there are {count}")
        return
    yield from _text_violations("chat", sum(len(m.content.encode()) for m in chat.messages))
    for index, message in enumerate(chat.messages):
        field = f"chat.messages[{index}].role"
        if message.role not in prompt_pb2.ChatRole.values() or not message.role:
            yield Violation(field, "must be SYSTEM, USER or ASSISTANT")
        elif message.role == prompt_pb2.CHAT_ROLE_SYSTEM and index > 0:
            yield Violation(field, "SYSTEM is for the first message only")
    if chat.messages[-1].role != prompt_pb2.CHAT_ROLE_USER:
        yield Violation(f"chat.messages[{count - 1}].role", "the last message must be a USER's")


def _token_ids_violations(ids: Sequence[int], model: ServedModel) -> Iterator[Violation]:
    if not ids:
        yield Violation("token_ids.ids", "must not be empty")
    if len(ids) >= model.max_request_tokens:
        text = f"{len(ids)} ids; the context holds {model.max_request_tokens}, answer included"
        yield Violation("token_ids.ids", text)
    elif ids and max(ids) >= model.vocabulary_size:
        text = f"{max(ids)} is not below the vocabulary's {model.vocabulary_size}"
        yield Violation("token_ids.ids", text)


def _sampling_violations(
    sampling: sampling_pb2.SamplingParams, model: ServedModel
) -> Iterator[Violation]:
    present = {descriptor.name: value for descriptor, value in sampling.ListFields()}
    for name, allowed in limits.SAMPLING.items():
        if name in present and (problem := allowed.problem(present[name])):
            yield Violation(f"sampling.{name}", problem)
    yield from _length_violations(sampling, model)
    yield from _stop_violations(sampling, model)
    yield from _bias_violations(sampling, model)


def _length_violations(
    sampling: sampling_pb2.SamplingParams, model: ServedModel
) -> Iterator[Violation]:
    tokens = limits.Range(1, model.max_request_tokens - 1)
    if sampling.HasField("max_tokens"):
        if problem := tokens.problem(sampling.max_tokens):
            yield Violation("sampling.max_tokens", problem)
        elif sampling.min_tokens > sampling.max_tokens:
            text = f"{sampling.min_tokens} is above max_tokens {sampling.max_tokens}"
            yield Violation("sampling.min_tokens", text)
    elif sampling.min_tokens > tokens.high:
        yield Violation("sampling.min_tokens", f"must be at most {tokens.high:g}")
    if sampling.top_k > model.vocabulary_size:
        yield Violation("sampling.top_k", f"must be at most {model.vocabulary_size}")


def _stop_violations(
    sampling: sampling_pb2.SamplingParams, model: ServedModel
) -> Iterator[Violation]:
    if len(sampling.stop) > limits.MAX_STOPS:
        yield Violation(
            "sampling.stop", f"{len(sampling.stop)} strings, at most {limits.MAX_STOPS}"
        )
    for index, stop in enumerate(sampling.stop[: limits.MAX_STOPS]):
        if not 1 <= (size := len(stop.encode())) <= limits.MAX_STOP_BYTES:
            text = f"must have 1 to {limits.MAX_STOP_BYTES} bytes, has {size}"
            yield Violation(f"sampling.stop[{index}]", text)
    ids = sampling.stop_token_ids
    if len(ids) > limits.MAX_STOP_TOKEN_IDS:
        text = f"{len(ids)} ids, at most {limits.MAX_STOP_TOKEN_IDS}"
        yield Violation("sampling.stop_token_ids", text)
    elif ids and max(ids) >= model.vocabulary_size:
        text = f"{max(ids)} is not below the vocabulary's {model.vocabulary_size}"
        yield Violation("sampling.stop_token_ids", text)


def _bias_violations(
    sampling: sampling_pb2.SamplingParams, model: ServedModel
) -> Iterator[Violation]:
    if len(sampling.logit_bias) > limits.MAX_LOGIT_BIASES:
        text = f"{len(sampling.logit_bias)} entries, at most {limits.MAX_LOGIT_BIASES}"
        yield Violation("sampling.logit_bias", text)
        return
    for token_id, bias in sampling.logit_bias.items():
        field = f"sampling.logit_bias[{token_id}]"
        if token_id >= model.vocabulary_size:
            yield Violation(field, f"the id is not below the vocabulary's {model.vocabulary_size}")
        if problem := limits.LOGIT_BIAS.problem(bias):
            yield Violation(field, problem)


def _other_violations(
    request: gateway_pb2.GenerateRequest, *, benchmark: bool
) -> Iterator[Violation]:
    if request.request_id and not request_id.is_valid(request.request_id):
        text = f"must be 1 to {request_id.MAX_CHARS} characters of [A-Za-z0-9._:-]"
        yield Violation("request_id", text)
    if request.priority not in gateway_pb2.PriorityClass.values():
        yield Violation("priority", f"there is no class {request.priority}")
    if problem := limits.DELTA_INTERVAL_MS.problem(request.stream.delta_interval_ms):
        yield Violation("stream.delta_interval_ms", problem)
    if request.benchmark_payload and not benchmark:
        yield Violation("benchmark_payload", "the gateway does not run with --benchmark")
    elif len(request.benchmark_payload) > limits.MAX_BENCHMARK_PAYLOAD_BYTES:
        text = f"must have at most {limits.MAX_BENCHMARK_PAYLOAD_BYTES} bytes"
        yield Violation("benchmark_payload", text)
