"""What the columns of a row mean: the prompt, the conversation before it, the lengths.

Owns their names, which lengths count where there are several kinds, and what marks a
capped sample. Called by `data`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

from predictor_svc.encoder import PromptText, Turn
from predictor_svc.training.example import Lengths, Prompt
from predictor_svc.training.rows import Row

PROMPT: Final = ("prompt_content", "prompt")
MODEL: Final = ("model_name", "model")
IDENTITY: Final = ("prompt_id", "id")
CONVERSATION: Final = ("conv", "conversation_id")
# Several samples of a prompt before one; the model's own tokens before another tokenizer's.
LENGTHS: Final = ("response_samples", "native_samples", "response_tokens", "response_length")
STOPPED: Final = ("response_stopped", "saw_eos")


@dataclass(slots=True)
class SharedTexts:
    """Strings that many rows have, kept once: the same prompt stands under many LLMs."""

    _texts: dict[str, str] = field(default_factory=dict)

    def __call__(self, text: str) -> str:
        """The first string that was equal to `text`."""
        return self._texts.setdefault(text, text)


def prompt_of(row: Row, shared: SharedTexts, llm: str) -> Prompt:
    """The row's prompt, to be answered by `llm`."""
    text = PromptText(shared(row.text(*PROMPT)), _turns(row, shared), llm)
    return Prompt(
        _identity(row, text.prompt),
        shared(row.text("source", "category", default="")),
        text,
        shared(row.text(*CONVERSATION, default="")),
    )


def model_of(row: Row) -> str:
    """The LLM that answered; empty where the row does not say."""
    return row.text(*MODEL, default="")


def lengths_of(row: Row) -> Lengths | None:
    """The row's lengths; None where every column of lengths is null."""
    name = row.find(*LENGTHS)
    if name is None:
        if not row.has(*LENGTHS):
            raise row.error(LENGTHS[0], f"missing (or {', '.join(LENGTHS[1:])})")
        return None
    tokens = row.numbers(name)
    return Lengths(tuple(tokens), _stopped(row, len(tokens)))


def is_clipped(row: Row) -> bool:
    """Whether the row says that its prompt is not the whole prompt."""
    return is_true(row, "prompt_clipped")


def is_true(row: Row, name: str) -> bool:
    """Whether a column is there and true."""
    return row.find(name) is not None and row.truths(name) == [True]


def _identity(row: Row, prompt: str) -> str:
    """The row's id; where it has none, one made from the prompt."""
    return row.text(*IDENTITY, default="") or hashlib.sha256(prompt.encode()).hexdigest()[:16]


def _turns(row: Row, shared: SharedTexts) -> tuple[Turn, ...]:
    if row.find("turns") is None:
        return ()
    turns = []
    for turn in row.objects("turns"):
        role, content = turn.get("role", "user"), turn.get("content")
        if not (isinstance(role, str) and isinstance(content, str)):
            raise row.error("turns", "expected objects with `role` and `content`")
        row.check_unicode("turns", content)
        turns.append(Turn(shared(role), shared(content)))
    return tuple(turns)


def _stopped(row: Row, count: int) -> tuple[bool, ...]:
    name = row.find(*STOPPED)
    if name is None:
        return (True,) * count
    stopped = row.truths(name)
    if len(stopped) != count:
        raise row.error(name, f"expected {count} of true or false, found {len(stopped)}")
    return tuple(stopped)
