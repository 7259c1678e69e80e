"""The file that `collect` writes: one row a prompt, appended as prompts complete.

Owns its columns and resuming: what a file already holds is not sampled again, and a
row that a crash cut short is dropped. Read back by `data`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType

from predictor_svc.training.data import Lengths, Prompt, read_prompts
from predictor_svc.training.rows import DataError, is_csv, read_rows


class LengthsFile:
    """Appends rows to a .jsonl file; flushed a row, so that a stopped run loses nothing."""

    def __init__(self, path: Path, *, with_text: bool) -> None:
        """`with_text` False writes the prompt's SHA-256 in place of its text."""
        if path.suffix == ".gz" or is_csv(path):
            raise DataError("rows are appended, so the file must be plain .jsonl", path)
        self._with_text = with_text
        _drop_partial_row(path)
        self.done = _digests(path) if path.exists() else frozenset[str]()
        """SHA-256 of every prompt that the file holds already."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def append(self, prompt: Prompt, lengths: Lengths, model: str) -> None:
        """Writes one row."""
        row: dict[str, object] = {"prompt_id": prompt.prompt_id, "source": prompt.source}
        if self._with_text:
            row["prompt"] = prompt.text.prompt
            if prompt.text.turns:
                row["turns"] = [
                    {"role": turn.role, "content": turn.content} for turn in prompt.text.turns
                ]
        else:
            row["prompt_sha256"] = prompt.digest
        if prompt.conversation:
            row["conversation_id"] = prompt.conversation
        row |= {
            "response_samples": lengths.tokens,
            "response_stopped": lengths.stopped,
            "model": model,
        }
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()

    def __enter__(self) -> LengthsFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def _drop_partial_row(path: Path) -> None:
    """Cuts off what follows the last newline."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.seek(whole)
            file.truncate()
            os.fsync(file.fileno())


def _digests(path: Path) -> frozenset[str]:
    named = {row.columns["prompt_sha256"] for row in read_rows(path) if row.find("prompt_sha256")}
    if named:
        return frozenset(named)
    return frozenset(prompt.digest for prompt in read_prompts([path]))
