"""What `collect` asks of an engine: how answers are sampled, what is tokenised.

Owns the messages; who sends them when is `collect`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from predictor_svc.encoder import PromptText
from predictor_svc.training.data import Prompt
from ssjf.engine.v1 import engine_pb2, prompt_pb2, sampling_pb2

_ROLES = {
    "system": prompt_pb2.CHAT_ROLE_SYSTEM,
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
    messages = [
        prompt_pb2.ChatMessage(role=_ROLES.get(turn.role, _ROLES["user"]), content=turn.content)
        for turn in text.turns
    ]
    messages.append(prompt_pb2.ChatMessage(role=_ROLES["user"], content=text.prompt))
    return engine_pb2.TokenizeRequest(chat=prompt_pb2.Chat(messages=messages))
