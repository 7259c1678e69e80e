"""What benchmarks take from the predictor's side: rows with lengths, and predictions for them.

Owns running an exported model over many prompts without a service, and the file in which
its answers are kept, so that a second run with the same prompts needs no network. Reading
is the trainer's own. Called by `bench_sim`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from predictor_svc.cache import digest
from predictor_svc.encoder import PromptText, Turn
from predictor_svc.loaded import LoadedModel, LoadOptions, ModelRefused, load
from predictor_svc.model_dir import ModelDirError
from predictor_svc.predictions import interpret
from predictor_svc.session import Provider, SessionOptions
from predictor_svc.training.data import DataError, read_examples
from predictor_svc.training.seen import SEEN, unseen
from ssjf_bench.lengths import Answered
from ssjf_bench.sim_predictions import Predictions

FAILURES: Final = (DataError, ModelRefused, ModelDirError)
CHUNK_PROMPTS: Final = 256
P90: Final = 0.9
Say = Callable[[str], None]
Known = dict[str, tuple[float, float | None]]
"""Expected tokens and 90th percentile by the prompt's digest (hex)."""


def read_answered(
    path: Path,
    longest_tokens: int | None = None,
    *,
    llm: str = "",
    split: str = "",
    unseen_by: Path | None = None,
) -> list[Answered]:
    """The rows of a data file, each with its first sample; empty answers count one token.

    Rows whose first sample is longer than `longest_tokens` are left out; with `llm` those of
    any other LLM, with `split` those of any other part of the data set, with `unseen_by`, a
    folder of trained weights, those whose prompts it was trained on. Raises DataError,
    ModelDirError.
    """
    examples = read_examples([path])
    if unseen_by is not None:
        examples = unseen(examples, unseen_by)
    most = sys.maxsize if longest_tokens is None else longest_tokens
    return [
        Answered(
            prompt_id=example.prompt.prompt_id,
            prompt=example.prompt.text.prompt,
            turns=tuple((turn.role, turn.content) for turn in example.prompt.text.turns),
            llm=example.model,
            output_tokens=max(1, example.lengths.tokens[0]),
            source=example.prompt.source,
        )
        for example in examples
        if example.lengths.tokens[0] <= most
        and llm in ("", example.model)
        and split in ("", example.split)
    ]


def seen_file(folder: Path) -> Path:
    """The file that says which prompts the trained weights in `folder` know."""
    return folder / SEEN


def predict(folder: Path, rows: Sequence[Answered], provider: Provider, say: Say) -> Predictions:
    """What the exported model in `folder` expects of each row's prompt.

    Raises ModelRefused where the model cannot be used or gives no number.
    """
    model = load(LoadOptions(folder, "auto", SessionOptions(provider)))
    try:
        texts = [_text(row) for row in rows]
        form = model.manifest.config.input
        keys = [digest(text, form).hex() for text in texts]
        store = _store(f"{model.manifest.revision}-{model.precision}")
        known = _read(store)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            known |= _ask(model, missing, say)
            _write(store, known)
        origin = f"predictor {model.manifest.revision} ({model.precision})"
    finally:
        model.close()
    found = [known[key] for key in keys]
    p90 = [quantile for _, quantile in found if quantile is not None]
    return Predictions(
        tuple(expected for expected, _ in found),
        tuple(p90) if len(p90) == len(found) else None,
        origin,
    )


def _text(row: Answered) -> PromptText:
    return PromptText(row.prompt, tuple(Turn(*turn) for turn in row.turns), row.llm)


def _ask(model: LoadedModel, missing: dict[str, PromptText], say: Say) -> Known:
    found: Known = {}
    items = list(missing.items())
    for first in range(0, len(items), CHUNK_PROMPTS):
        say(f"predicting {first:,} of {len(items):,}")
        chunk = items[first : first + CHUNK_PROMPTS]
        found |= dict(
            zip([key for key, _ in chunk], _values(model, [text for _, text in chunk]), strict=True)
        )
    return found


def _values(
    model: LoadedModel, texts: Sequence[PromptText]
) -> Iterator[tuple[float, float | None]]:
    output = model.manifest.config.output
    raw = model.worker.submit(model.run, model.encode(texts)).result()
    for prediction in interpret(np.asarray(raw), [None] * len(texts), output):
        if prediction is None:
            raise ModelRefused("the model gave an output that is not finite")
        yield prediction.expected_tokens, dict(prediction.quantiles).get(P90)


def _store(revision: str) -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "ssjf" / f"predictions-{revision}.json"


def _read(store: Path) -> Known:
    try:
        content = json.loads(store.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or cut short: predicted again
        return {}
    return {key: (expected, quantile) for key, (expected, quantile) in content.items()}


def _write(store: Path, known: Known) -> None:
    store.parent.mkdir(parents=True, exist_ok=True)
    partial = store.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(known), encoding="utf-8")
    partial.replace(store)
