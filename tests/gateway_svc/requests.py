"""Requests and a served model for the tests of validation and translation."""

from __future__ import annotations

from typing import Any, Final

from gateway_svc.validation import ServedModel
from ssjf.engine.v1 import prompt_pb2, sampling_pb2
from ssjf.gateway.v1 import gateway_pb2

MODEL: Final = ServedModel(
    name="tiny", vocabulary_size=1000, max_context_tokens=512, kv_tokens=100_000
)
SYSTEM, USER, ASSISTANT = (
    prompt_pb2.CHAT_ROLE_SYSTEM,
    prompt_pb2.CHAT_ROLE_USER,
    prompt_pb2.CHAT_ROLE_ASSISTANT,
)


def sampled(**sampling: Any) -> gateway_pb2.GenerateRequest:
    """A good request but for its sampling parameters."""
    return asked(sampling=sampling_pb2.SamplingParams(**sampling))


def asked(**fields: Any) -> gateway_pb2.GenerateRequest:
    """A good request but for the given fields."""
    if not {"prompt", "chat", "token_ids"} & fields.keys():
        fields["prompt"] = "hello"
    return gateway_pb2.GenerateRequest(**fields)


def chat(*turns: tuple[int, str]) -> prompt_pb2.Chat:
    """A conversation of (role, content)."""
    messages = [
        prompt_pb2.ChatMessage(role=prompt_pb2.ChatRole.ValueType(role), content=content)
        for role, content in turns
    ]
    return prompt_pb2.Chat(messages=messages)
