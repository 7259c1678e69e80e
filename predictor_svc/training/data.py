"""Prompts and the lengths of their answers, read from files.

Owns which rows count and which are skipped, and the join of lengths to prompts by hash.
Here is all that `collect`, `train` and `evaluate` need: the values are `example`'s, the
parts that share no prompt `split`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from predictor_svc.training import columns
from predictor_svc.training.columns import SharedTexts
from predictor_svc.training.example import Example, Lengths, Prompt
from predictor_svc.training.rows import DataError, Row, read_rows
from predictor_svc.training.split import (
    Split,
    add_to_train,
    pool_validation,
    published_split,
    split_by_prompt,
    without_prompts,
)

NO_LENGTH: Final = "no known length"
NO_PROMPT: Final = "no prompt"


def read_prompts(paths: Iterable[Path], exclude_sources: Sequence[str] = ()) -> list[Prompt]:
    """The distinct prompts of the files, in order; those empty or stored clipped are left out."""
    found: dict[str, Prompt] = {}
    shared = SharedTexts()
    for row in _each(paths):
        if columns.is_clipped(row):
            continue
        prompt = columns.prompt_of(row, shared, llm="")
        if not _is_empty(prompt) and not is_excluded(prompt.source, exclude_sources):
            found.setdefault(prompt.digest, prompt)
    return list(found.values())


def read_examples(
    paths: Iterable[Path],
    exclude_sources: Sequence[str] = (),
    *,
    only: Sequence[str] = (),
    skipped: Counter[str] | None = None,
) -> list[Example]:
    """Every row with a prompt and its lengths. Raises DataError on the first malformed one.

    Rows without a known length or without a prompt are left out, and counted in `skipped`
    under their reason. `only` names columns that must be true.
    """
    shared = SharedTexts()
    reasons: Counter[str] = Counter() if skipped is None else skipped
    examples = []
    for row in _each(paths):
        if not all(columns.is_true(row, name) for name in only):
            continue
        model = shared(columns.model_of(row))
        prompt, lengths = columns.prompt_of(row, shared, model), columns.lengths_of(row)
        if is_excluded(prompt.source, exclude_sources):
            continue
        if lengths is None:
            reasons[NO_LENGTH] += 1
        elif _is_empty(prompt):
            reasons[NO_PROMPT] += 1
        else:
            part = shared(row.text("split", default=""))
            examples.append(Example(prompt, model, lengths, part))
    return examples


def join_lengths(
    paths: Iterable[Path], prompts: Iterable[Prompt], exclude_sources: Sequence[str] = ()
) -> list[Example]:
    """Rows that name their prompt by `prompt_sha256`, joined to the prompts that are there."""
    known = {prompt.digest: prompt for prompt in prompts}
    joined = []
    for row in _each(paths):
        prompt, lengths = known.get(row.text("prompt_sha256")), columns.lengths_of(row)
        source = row.text("source", default="")
        if prompt is None or lengths is None or is_excluded(source, exclude_sources):
            continue
        model = columns.model_of(row)
        named = replace(
            prompt,
            prompt_id=row.text(*columns.IDENTITY, default=prompt.prompt_id),
            source=source or prompt.source,
            text=replace(prompt.text, llm=model),
        )
        joined.append(Example(named, model, lengths, row.text("split", default="")))
    return joined


def within(examples: Iterable[Example], max_sample_tokens: int) -> list[Example]:
    """The examples without those of which any sample is longer than `max_sample_tokens`."""
    return [each for each in examples if max(each.lengths.tokens) <= max_sample_tokens]


def is_excluded(source: str, excluded: Sequence[str]) -> bool:
    """Whether a source or its family (the part before a slash) is on the list."""
    return any(source == name or source.startswith(f"{name}/") for name in excluded)


def _each(paths: Iterable[Path]) -> Iterator[Row]:
    for path in paths:
        yield from read_rows(path)


def _is_empty(prompt: Prompt) -> bool:
    # Only a conversation may end in an empty message: an agent's call without a word.
    return not prompt.text.prompt.strip() and not prompt.text.turns


__all__ = [
    "DataError",
    "Example",
    "Lengths",
    "Prompt",
    "Split",
    "add_to_train",
    "is_excluded",
    "join_lengths",
    "pool_validation",
    "published_split",
    "read_examples",
    "read_prompts",
    "split_by_prompt",
    "within",
    "without_prompts",
]
