"""Prompts and the lengths of their answers, as training reads them.

Owns what the columns mean (issue: `prompt` or `prompt_content`; several sampled
lengths or one; capped samples), the join of lengths to prompts by hash, and the split
by prompt. Called by `collect`, `train` and `evaluate`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from predictor_svc.encoder import PromptText, Turn
from predictor_svc.training.rows import DataError, Row, read_rows


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt without lengths."""

    prompt_id: str
    source: str
    """Where it comes from, for per-source figures and exclusion."""
    text: PromptText

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the prompt: its name where the text itself may not be passed on."""
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


@dataclass(frozen=True, slots=True)
class Split:
    """Examples apart by prompt."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]


def read_prompts(paths: Iterable[Path], exclude_sources: Sequence[str] = ()) -> list[Prompt]:
    """The distinct prompts of the files, in order; those stored clipped are left out."""
    found: dict[str, Prompt] = {}
    for path in paths:
        for row in read_rows(path):
            if row.columns.get("prompt_clipped") is True:
                continue
            prompt = _prompt(row)
            if not is_excluded(prompt.source, exclude_sources):
                found.setdefault(prompt.digest, prompt)
    return list(found.values())


def read_examples(paths: Iterable[Path], exclude_sources: Sequence[str] = ()) -> list[Example]:
    """Every row with a prompt and its lengths. Raises DataError on the first malformed one."""
    examples = [Example(_prompt(row), _model(row), _lengths(row)) for row in _each(paths)]
    return [each for each in examples if not is_excluded(each.prompt.source, exclude_sources)]


def join_lengths(
    paths: Iterable[Path], prompts: Iterable[Prompt], exclude_sources: Sequence[str] = ()
) -> list[Example]:
    """Rows that name their prompt by `prompt_sha256`, joined to the prompts that are there."""
    known = {prompt.digest: prompt for prompt in prompts}
    joined = []
    for row in _each(paths):
        prompt = known.get(row.text("prompt_sha256"))
        source = row.text("source", default="")
        if prompt is not None and not is_excluded(source, exclude_sources):
            named = Prompt(_identity(row, prompt.text.prompt), source or prompt.source, prompt.text)
            joined.append(Example(named, _model(row), _lengths(row)))
    return joined


def is_excluded(source: str, excluded: Sequence[str]) -> bool:
    """Whether a source or its family (the part before a slash) is on the list."""
    return any(source == name or source.startswith(f"{name}/") for name in excluded)


def without_prompts(examples: Iterable[Example], held_out: Iterable[Prompt]) -> list[Example]:
    """The examples whose prompt is none of those held out (compared without case and spacing)."""
    forbidden = {_normal(prompt) for prompt in held_out}
    return [each for each in examples if _normal(each.prompt) not in forbidden]


def split_by_prompt(
    examples: Sequence[Example], seed: int, validation_share: float, test_share: float
) -> Split:
    """Three parts that share no prompt, whatever ids or rows it has; the same for the same seed.

    A prompt's part depends on the seed and its own text alone, so adding data moves no
    prompt from one part to another.
    """
    parts: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
    for example in examples:
        draw = random.Random(f"{seed}:{_normal(example.prompt)}").random()  # noqa: S311
        parts[2 if draw < test_share else 1 if draw < test_share + validation_share else 0].append(
            example
        )
    return Split(*(tuple(part) for part in parts))


def _each(paths: Iterable[Path]) -> Iterable[Row]:
    for path in paths:
        yield from read_rows(path)


def _prompt(row: Row) -> Prompt:
    text = PromptText(row.text("prompt", "prompt_content"), _turns(row))
    source = row.text("source", "category", default="")
    return Prompt(_identity(row, text.prompt), source, text)


def _identity(row: Row, prompt: str) -> str:
    """The row's id; where it has none, one made from the prompt."""
    derived = hashlib.sha256(prompt.encode()).hexdigest()[:16]
    return row.text("prompt_id", "id", default=derived)


def _model(row: Row) -> str:
    return row.text("model", "model_name", default="")


def _turns(row: Row) -> tuple[Turn, ...]:
    if row.find("turns") is None:
        return ()
    turns = []
    for turn in row.listed("turns"):
        if not (isinstance(turn, dict) and isinstance(turn.get("content"), str)):
            raise row.error("turns", "expected objects with `role` and `content`")
        turns.append(Turn(str(turn.get("role", "user")), turn["content"]))
    return tuple(turns)


def _lengths(row: Row) -> Lengths:
    name = row.find("response_samples", "response_tokens", "response_length")
    if name is None:
        raise row.error("response_samples", "missing (or response_tokens, response_length)")
    if name == "response_samples":
        tokens = row.numbers(name)
    else:
        value = row.columns[name]
        if type(value) is not int or value < 0:
            raise row.error(name, f"expected a whole number >= 0, found {value!r}")
        tokens = [value]
    return Lengths(tuple(tokens), _stopped(row, len(tokens)))


def _stopped(row: Row, count: int) -> tuple[bool, ...]:
    if row.find("response_stopped") is None:
        return (True,) * count
    stopped = row.columns["response_stopped"]
    stopped = [stopped] if isinstance(stopped, bool) else row.listed("response_stopped")
    if len(stopped) != count or not all(isinstance(each, bool) for each in stopped):
        raise row.error("response_stopped", f"expected {count} of true or false")
    return tuple(stopped)


def _normal(prompt: Prompt) -> str:
    return " ".join(prompt.text.prompt.lower().split())


__all__ = [
    "DataError",
    "Example",
    "Lengths",
    "Prompt",
    "Split",
    "is_excluded",
    "join_lengths",
    "read_examples",
    "read_prompts",
    "split_by_prompt",
    "without_prompts",
]
