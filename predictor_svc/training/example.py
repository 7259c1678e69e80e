"""What training learns from: prompts, the lengths of their answers, and the two together.

Plain values; where they come from is `columns` and `data`, how they are kept apart `split`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from predictor_svc.encoder import PromptText


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt without lengths."""

    prompt_id: str
    source: str
    """Where it comes from, for per-source figures and exclusion."""
    text: PromptText
    conversation: str = ""
    """The conversation that it is a message of; empty where the file names none."""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the prompt: its name where the text itself may not be passed on.

        Of the messages alone: the same whichever LLM answers.
        """
        if not self.text.turns:
            return hashlib.sha256(self.text.prompt.encode()).hexdigest()
        parts = [[turn.role, turn.content] for turn in self.text.turns]
        return hashlib.sha256(json.dumps([*parts, self.text.prompt]).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Lengths:
    """Output tokens of the answers sampled for one prompt, end-of-sequence not counted."""

    tokens: tuple[int, ...]
    stopped: tuple[bool, ...]
    """False where the answer was cut at the token limit: the true length is longer."""


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and its lengths."""

    prompt: Prompt
    model: str
    """The LLM that answered; empty where the file does not say."""
    lengths: Lengths
    split: str = ""
    """The part of the published data set that it belongs to; empty where there is none."""

    @property
    def conversation(self) -> str:
        """The conversation of its prompt; empty where the file names none."""
        return self.prompt.conversation
