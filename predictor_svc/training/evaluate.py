"""How well a model predicts: rank correlation, error, classes, calibration.

Owns the figures and their definitions. Reads the network's numbers through `outputs`, as
the service does. Called by `train` after each epoch and by `ssjf predictor evaluate`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from predictor_svc.encoder import InputForm, load_encoder
from predictor_svc.lengths import Floats
from predictor_svc.outputs import ClassesOutput, DistributionOutput, OrdinalOutput, Output, Readings
from predictor_svc.training.data import Example, Lengths
from predictor_svc.training.model import ProxyModel, pad
from predictor_svc.training.task import first_lengths
from predictor_svc.training.tasks.distribution import level_of_samples
from predictor_svc.training.weights import Trained

BATCH_CPU = 32
BATCH_CUDA = 256


@dataclass(frozen=True, slots=True)
class ClassReport:
    """Figures of the predicted classes, against the class of the first sample."""

    accuracy: float
    macro_f1: float
    weighted_f1: float
    kendall_tau_b: float
    """Of the class itself, ties and all: the order that the SSJF paper's queue has."""


@dataclass(frozen=True, slots=True)
class Report:
    """Figures over some rows; the actual length is the first sample of each. nan: undefined."""

    rows: int
    kendall_tau_b: float
    """Of the rank score against the actual length."""
    spearman: float
    mae_tokens: float
    """Mean absolute difference of expected and actual tokens."""
    kendall_tau_b_all_samples: float
    """Mean tau-b over the first, second, … samples: the same with less noise."""
    kendall_tau_b_model_mean: float
    """Mean over the LLMs of tau-b among each one's rows."""
    quantile_coverage: Mapping[str, float] = field(default_factory=dict)
    """Share of all samples at or under each predicted quantile; an answer that was cut counts
    by the predicted probability that its full length is (randomised PIT)."""
    quantile_coverage_as_cut: Mapping[str, float] = field(default_factory=dict)
    """The same, where a cut answer counts as if it had ended at the cut."""
    classes: ClassReport | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A report over everything, one for each source and each LLM, and the points behind."""

    overall: Report
    revision: str
    task: str
    per_source: Mapping[str, Report]
    per_model: Mapping[str, Report]
    readings: Readings
    actual: Floats
    """(rows,) first samples."""
    levels: Floats
    """Where every sample lies in its predicted distribution; empty without one."""
    llms_read_as: Mapping[str, str] = field(default_factory=dict)
    """Of LLMs that the model was not trained on, where it tells LLMs apart: whose name, or
    which family's mean, was read for each; empty for any LLM."""

    def as_json(self) -> dict[str, object]:
        """The overall figures at the top, the others beside them; nan as null."""
        return {
            **plain(self.overall),
            "revision": self.revision,
            "task": self.task,
            "per_source": {name: plain(each) for name, each in self.per_source.items()},
            "per_model": {name: plain(each) for name, each in self.per_model.items()},
            **({"llms_read_as": dict(self.llms_read_as)} if self.llms_read_as else {}),
        }


def evaluate(
    trained: Trained,
    examples: Sequence[Example],
    device: torch.device | None = None,
    on_step: Callable[[int, int], None] = lambda _done, _total: None,
) -> Evaluation:
    """The model's figures on examples. Raises ValueError without any."""
    if not examples:
        raise ValueError("no rows to evaluate")
    encoder = load_encoder(trained.tokenizer, trained.config.input)
    model = trained.model.to(device or torch.device("cpu"))
    raw = predict_raw(model, encoder.encode([each.prompt.text for each in examples]), on_step)
    figures = _Figures(trained.config.output, raw, examples)
    return Evaluation(
        figures.report(range(len(examples))),
        trained.revision,
        trained.config.task,
        figures.by(lambda example: example.prompt.source),
        figures.by(lambda example: example.model),
        figures.readings,
        figures.first,
        np.concatenate(figures.levels) if figures.levels else np.empty(0),
        _read_as(encoder.form, examples),
    )


def _read_as(form: InputForm, examples: Sequence[Example]) -> dict[str, str]:
    unknown = {example.model for example in examples if form.llms} - set(form.llms)
    return {llm: form.read_llm(llm).name for llm in sorted(unknown)}


@torch.no_grad()
def predict_raw(
    model: ProxyModel,
    ids: Sequence[list[int]],
    on_step: Callable[[int, int], None] = lambda _done, _total: None,
) -> Floats:
    """(n, outputs) on the model's own device, in the order of `ids`.

    What the backbone reads alike it reads once: a prompt of many LLMs, where it is told none.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    size = BATCH_CUDA if device.type == "cuda" else BATCH_CPU
    place, seen_as = model.shape.llm_position, model.shape.llm_seen_as
    rows_of: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, each in enumerate(ids):
        told = each if seen_as is None else (*each[:place], seen_as, *each[place + 1 :])
        rows_of[tuple(told)].append(row)
    distinct = sorted(rows_of, key=len)
    raw = np.empty((len(ids), model.shape.outputs))
    for start in range(0, len(distinct), size):
        group = distinct[start : start + size]
        batch, mask = (each.to(device) for each in pad(group))
        pooled = model.pooled(model.backbone(batch, mask), mask)
        rows = [row for each in group for row in rows_of[each]]
        owners = [owner for owner, each in enumerate(group) for _ in rows_of[each]]
        llms = torch.tensor([ids[row][place] for row in rows], device=device)
        values = model.outputs(pooled[torch.tensor(owners, device=device)], llms)
        raw[rows] = values.float().cpu().numpy()
        on_step(start + len(group), len(distinct))
    model.train(was_training)
    return raw


def rank_correlation(raw: Floats, output: Output, lengths: Sequence[Lengths]) -> float:
    """Tau-b of the rank score against the first, second, … sample, averaged."""
    scores = output.read(raw, np.full(len(raw), np.inf)).rank_scores
    return _tau_all(scores, [each.tokens for each in lengths])


class _Figures:
    """Everything that a report over some rows is made from."""

    def __init__(self, output: Output, raw: Floats, examples: Sequence[Example]) -> None:
        lengths = [each.lengths for each in examples]
        self._output = output
        self._examples = examples
        self.readings = output.read(raw, np.full(len(raw), np.inf))
        self.first = first_lengths(lengths)
        self.levels: list[Floats] = []
        if isinstance(output, DistributionOutput):
            ends = np.cumsum([len(each.tokens) for each in lengths])[:-1]
            self.levels = np.split(level_of_samples(output, raw, lengths, seed=0), ends)

    def by(self, key: Callable[[Example], str]) -> dict[str, Report]:
        """A report for each value of `key`."""
        groups: dict[str, list[int]] = defaultdict(list)
        for row, example in enumerate(self._examples):
            groups[key(example)].append(row)
        return {name: self.report(rows) for name, rows in sorted(groups.items())}

    def report(self, chosen: Sequence[int] | range) -> Report:
        """The figures of some rows."""
        rows = np.asarray(chosen)
        examples = [self._examples[row] for row in rows]
        scores, first = self.readings.rank_scores[rows], self.first[rows]
        return Report(
            rows=len(rows),
            kendall_tau_b=_tau(scores, first),
            spearman=float(spearmanr(scores, first).statistic)
            if _varies(first) and _varies(scores)
            else float("nan"),
            mae_tokens=float(np.abs(self.readings.expected_tokens[rows] - first).mean()),
            kendall_tau_b_all_samples=_tau_all(scores, [each.lengths.tokens for each in examples]),
            kendall_tau_b_model_mean=self._model_mean(examples, scores, first),
            quantile_coverage=self._coverage(rows),
            quantile_coverage_as_cut=self._coverage_as_cut(rows, examples),
            classes=self._classes(rows),
        )

    def _model_mean(self, examples: Sequence[Example], scores: Floats, first: Floats) -> float:
        groups: dict[str, list[int]] = defaultdict(list)
        for row, example in enumerate(examples):
            groups[example.model].append(row)
        taus = [_tau(scores[rows], first[rows]) for rows in groups.values()]
        known = [tau for tau in taus if not np.isnan(tau)]
        return float(np.mean(known)) if known else float("nan")

    def _coverage(self, rows: NDArray[np.int64]) -> dict[str, float]:
        output = self._output
        if not isinstance(output, DistributionOutput):
            return {}
        places = np.concatenate([self.levels[row] for row in rows])
        return {
            str(quantile): float((places <= level).mean())
            for quantile, level in zip(output.quantiles, output.levels, strict=True)
        }

    def _coverage_as_cut(
        self, rows: NDArray[np.int64], examples: Sequence[Example]
    ) -> dict[str, float]:
        counts = [len(each.lengths.tokens) for each in examples]
        tokens = np.concatenate([each.lengths.tokens for each in examples])
        limits = np.repeat(self.readings.quantiles[rows], counts, axis=0)
        return {
            str(quantile): float((tokens <= limits[:, column]).mean())
            for column, quantile in enumerate(self._output.quantile_probabilities)
        }

    def _classes(self, rows: NDArray[np.int64]) -> ClassReport | None:
        output = self._output
        if self.readings.classes is None or not isinstance(output, ClassesOutput | OrdinalOutput):
            return None
        predicted, actual = self.readings.classes[rows], output.class_of(self.first[rows])
        table = np.zeros((output.class_count, output.class_count))
        np.add.at(table, (actual, predicted), 1)
        hits, support = np.diag(table), table.sum(axis=1)
        f1 = 2 * hits / np.maximum(support + table.sum(axis=0), 1)
        present = (support + table.sum(axis=0)) > 0
        return ClassReport(
            accuracy=float(hits.sum() / len(rows)),
            macro_f1=float(f1[present].mean()),
            weighted_f1=float((f1 * support).sum() / len(rows)),
            kendall_tau_b=_tau(predicted.astype(np.float64), self.first[rows]),
        )


def _tau_all(scores: Floats, tokens: Sequence[Sequence[int]]) -> float:
    fewest = min(len(each) for each in tokens)
    taus = [_tau(scores, np.array([each[k] for each in tokens], float)) for k in range(fewest)]
    return float(np.mean(taus))


def _tau(scores: Floats, actual: Floats) -> float:
    """Tau-b; nan where either side does not vary."""
    if not (_varies(scores) and _varies(actual)):
        return float("nan")
    return float(kendalltau(scores, actual, variant="b").statistic)


def _varies(values: Floats) -> bool:
    return len(values) > 1 and bool(np.ptp(values) > 0)


def plain(report: Report) -> dict[str, object]:
    """The report for JSON: nan as null, and what the task does not have left out."""
    found = {name: value for name, value in asdict(report).items() if value not in ({}, None)}
    return {name: nan_as_null(value) for name, value in found.items()}


def nan_as_null(value: Any) -> Any:
    """Of figures for JSON, which knows no nan: the same with None in its place."""
    if isinstance(value, Mapping):
        return {name: nan_as_null(each) for name, each in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
