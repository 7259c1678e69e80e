"""The SSJF paper's published predictions, one CSV a predictor, joined to one table.

    output_token_length, predicted_length (a class), latency, model   (Qiu et al. 2024)

Owns their form and the check that the files speak of the same answers. Called by
`ssjf bench convert-predictions`; read by `ssjf bench as-published`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ssjf_bench.trace import TraceError, table, write_lines

LENGTH = "output_token_length"
PREDICTED = "predicted_length"


def join(files: Mapping[str, Path]) -> list[tuple[int, ...]]:
    """For each answer its tokens, then what each predictor said, in the order of `files`.

    Raises TraceError naming file and line, also where two files differ in an answer's length.
    """
    columns = [(path, _read(path)) for path in files.values()]
    (first, answers), *others = columns
    for path, rows in others:
        if len(rows) != len(answers):
            raise TraceError(f"{path}: {len(rows)} answers, but {first} has {len(answers)}")
        for (line, tokens, _), (_, wanted, _) in zip(rows, answers, strict=True):
            if tokens != wanted:
                raise TraceError(f"{path}:{line}: {tokens} tokens, but {first} has {wanted}")
    said = [[predicted for _, _, predicted in rows] for _, rows in columns]
    return list(zip([tokens for _, tokens, _ in answers], *said, strict=True))


def write(names: Sequence[str], rows: Sequence[tuple[int, ...]], out: Path) -> None:
    """Writes .csv or .csv.gz: output_tokens and a column `pred_…` for each predictor.

    Raises TraceError where it cannot be written.
    """
    lines = [",".join(["output_tokens", *(f"pred_{name}" for name in names)])]
    lines += [",".join(map(str, row)) for row in rows]
    write_lines(out, lines)


def _read(path: Path) -> list[tuple[int, int, int]]:
    """Line, tokens, class of each answer."""
    rows = table(path, (LENGTH, PREDICTED), lambda row: (int(row[LENGTH]), int(row[PREDICTED])))
    found = [(line, *values) for line, values in rows]
    if not found:
        raise TraceError(f"{path}: no answers")
    return found
