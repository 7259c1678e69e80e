"""Published forms of conversations, each read into `Conversation`s.

    LMSYS-Chat-1M  conversation_id, model, conversation [{role, content}]   (Zheng et al. 2023)
    ShareGPT       id, conversations [{from: human | gpt | ..., value}]
    Alpaca         instruction, input, output                               (Taori et al. 2023)

Owns their columns and names of roles. A new form is a function here and a line in
`FORMS`. Called by `convert`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from predictor_svc.encoder import Turn
from predictor_svc.training.convert_files import read_entries
from predictor_svc.training.rows import Row

ROLES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
    "function_call": "assistant",
}
LMSYS_COLUMNS: Final = ("conversation_id", "model", "conversation")


@dataclass(frozen=True, slots=True)
class Conversation:
    """One entry of a published data set."""

    name: str
    """Unique in its data set."""
    model: str
    """The LLM that answered; empty where the form does not say."""
    messages: tuple[Turn, ...]
    """Roles user, assistant, system, tool."""
    is_single: bool = False
    """One question and its answer, never more."""


def read_lmsys(path: Path) -> Iterator[Conversation]:
    """LMSYS-Chat-1M, Parquet as published, or as JSON."""
    for row in read_entries(path, LMSYS_COLUMNS):
        messages = _messages(row, "conversation")
        yield Conversation(row.text("conversation_id"), row.text("model"), messages)


def read_sharegpt(path: Path) -> Iterator[Conversation]:
    """ShareGPT and what is published in its form. The LLM is rarely named."""
    for number, row in enumerate(read_entries(path), start=1):
        name = row.text("id", "conversation_id", default="") or _name(path, number)
        messages = _messages(row, "conversations")
        yield Conversation(name, row.text("model", default=""), messages)


def read_alpaca(path: Path) -> Iterator[Conversation]:
    """Alpaca and what is published in its form: the instruction, then its input."""
    for number, row in enumerate(read_entries(path), start=1):
        parts = (row.text("instruction"), row.text("input", default=""))
        question = "\n\n".join(part for part in parts if part.strip())
        messages = (Turn("user", question), Turn("assistant", row.text("output")))
        name = row.text("id", default="") or _name(path, number)
        yield Conversation(name, row.text("model", default=""), messages, is_single=True)


FORMS: Final[Mapping[str, Callable[[Path], Iterator[Conversation]]]] = {
    "lmsys-chat-1m": read_lmsys,
    "sharegpt": read_sharegpt,
    "alpaca": read_alpaca,
}


def _name(path: Path, number: int) -> str:
    return f"{path.name.partition('.')[0]}-{number}"


def _messages(row: Row, column: str) -> tuple[Turn, ...]:
    if row.find(column) is None:
        raise row.error(column, "missing")
    return tuple(
        Turn(
            _role(row, column, number, _value(message, "role", "from")),
            _content(row, column, number, _value(message, "content", "value")),
        )
        for number, message in enumerate(row.objects(column), start=1)
    )


def _value(message: Mapping[str, Any], *names: str) -> object:
    return next((message[name] for name in names if name in message), _ABSENT)


_ABSENT: Final = object()


def _role(row: Row, column: str, number: int, role: object) -> str:
    if not isinstance(role, str) or role.lower() not in ROLES:
        found = "none" if role is _ABSENT else repr(role)
        known: Sequence[str] = sorted(ROLES)
        raise row.error(column, f"message {number}: role {found} is none of {', '.join(known)}")
    return ROLES[role.lower()]


def _content(row: Row, column: str, number: int, content: object) -> str:
    if content is None:
        return ""  # an answer that never came
    if not isinstance(content, str):
        raise row.error(column, f"message {number}: expected text")
    row.check_unicode(column, content)
    return content
