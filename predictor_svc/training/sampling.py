"""What `collect` asks of an engine or a gateway: the prompt, how its answers are sampled.

Owns the messages and what of an answer is its length; who sends them when is
`collect_engine` and `collect_gateway`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from predictor_svc.encoder import PromptText
from predictor_svc.training.data import Prompt
from ssjf.engine.v1 import engine_pb2, prompt_pb2, sampling_pb2
from ssjf.gateway.v1 import gateway_pb2

_ROLES = {
    "user": prompt_pb2.CHAT_ROLE_USER,
    "assistant": prompt_pb2.CHAT_ROLE_ASSISTANT,
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are sampled."""

    samples: int
    """Answers a prompt."""
    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None = None
    """Seeds every sample by this, its prompt and its index; None leaves it to the engine."""

    def params(self, prompt: Prompt, index: int) -> sampling_pb2.SamplingParams:
        """The message for one sample, every default filled."""
        params = sampling_pb2.SamplingParams(
            max_tokens=self.max_tokens,
            min_tokens=0,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=0,
            min_p=0.0,
            repetition_penalty=1.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            ignore_eos=False,
        )
        if self.seed is not None:
            name = f"{self.seed}:{prompt.digest}:{index}".encode()
            params.seed = int.from_bytes(hashlib.sha256(name).digest()[:8], "big")
        return params


def tokenize_request(text: PromptText) -> engine_pb2.TokenizeRequest:
    """The prompt as the engine takes it: alone, or as the end of a conversation."""
    if not text.turns:
        return engine_pb2.TokenizeRequest(prompt=text.prompt)
    return engine_pb2.TokenizeRequest(chat=_chat(text))


def generate_request(
    text: PromptText, sampling: sampling_pb2.SamplingParams
) -> gateway_pb2.GenerateRequest:
    """The prompt as the gateway takes it: alone, or as the end of a conversation."""
    if not text.turns:
        return gateway_pb2.GenerateRequest(prompt=text.prompt, sampling=sampling)
    return gateway_pb2.GenerateRequest(chat=_chat(text), sampling=sampling)


def answer_tokens(output_tokens: int, reason: sampling_pb2.FinishReason.ValueType) -> int:
    """The length of an answer: engines count the end-of-sequence token, a reader does not."""
    return output_tokens - (1 if reason == sampling_pb2.FINISH_REASON_EOS else 0)


def _chat(text: PromptText) -> prompt_pb2.Chat:
    messages = [
        prompt_pb2.ChatMessage(role=_role(turn.role, index), content=turn.content)
        for index, turn in enumerate(text.turns)
    ]
    messages.append(prompt_pb2.ChatMessage(role=prompt_pb2.CHAT_ROLE_USER, content=text.prompt))
    return prompt_pb2.Chat(messages=messages)


def _role(name: str, index: int) -> prompt_pb2.ChatRole.ValueType:
    """A system's message can only be the first; a tool's is what the model is told next."""
    if name == "system" and index == 0:
        return prompt_pb2.CHAT_ROLE_SYSTEM
    return _ROLES.get(name, prompt_pb2.CHAT_ROLE_USER)
