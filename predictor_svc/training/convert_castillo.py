"""CASTILLO (Perez-Ramirez et al. 2025, arXiv 2505.16881) to the rows that training reads.

    model, dataset, prompt_id, prompt_text, output_sizes   (ten sampled lengths)

Owns its columns, how its LLMs are named, and which part of the data a file is. Unlike the
forms of conversations it has lengths in place of answers, in the LLM's own tokens, and they
are taken as they are. Called by `ssjf predictor convert`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from predictor_svc.training.convert import EMPTY_PROMPT, OTHER_MODEL, Converted, written_whole
from predictor_svc.training.convert_files import read_entries
from predictor_svc.training.rows import Row
from predictor_svc.training.split import PUBLISHED

SAMPLES = "output_sizes"


def convert(
    paths: Sequence[Path], out: Path, model: str, on_progress: Callable[[Converted], None]
) -> Converted:
    """Writes `out` (.jsonl or .jsonl.gz), a row for each prompt and LLM; whole, or not at all.

    Only rows of `model`, unless it is empty. A row's `split` is the part of the data set that
    its file's folder or name says. Raises DataError naming file and entry for what is malformed.
    """
    done = Converted()
    with written_whole(out) as file:
        for path in paths:
            part = part_of(path)
            for row in read_entries(path):
                done.conversations += 1
                if (made := _row(row, part)) is None:
                    done.skipped[EMPTY_PROMPT] += 1
                elif model not in ("", made["model_name"]):
                    done.skipped[OTHER_MODEL] += 1
                else:
                    file.write(json.dumps(made, ensure_ascii=False) + "\n")
                    done.rows += 1
            on_progress(done)
    return done


def part_of(path: Path) -> str:
    """Which part of the data set a file is, as its folder or else its name says; or empty."""
    return next((word for word in _words(path) if word in PUBLISHED), "")


def _words(path: Path) -> Iterator[str]:
    yield path.parent.name.lower()
    yield from re.split(r"[^a-z]+", path.name.lower())


def _row(row: Row, part: str) -> dict[str, object] | None:
    """None where there is no prompt."""
    prompt = row.text("prompt_text")
    if not prompt.strip():
        return None
    return {
        "prompt_id": row.text("prompt_id"),
        "source": f"castillo/{row.text('dataset')}",
        "model_name": row.text("model").replace("--", "/", 1),
        "split": part,
        "prompt_content": prompt,
        "response_samples": _samples(row),
    }


def _samples(row: Row) -> list[int]:
    """The lengths; the files of the repository have the list as text."""
    text = row.columns.get(SAMPLES)
    if isinstance(text, str):
        try:
            row = replace(row, columns={SAMPLES: json.loads(text)})
        except (ValueError, RecursionError) as error:
            raise row.error(SAMPLES, f"expected a list: {error}") from error
    if row.find(SAMPLES) is None:
        raise row.error(SAMPLES, "missing")
    return row.numbers(SAMPLES)
