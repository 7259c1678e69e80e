"""How well a model predicts: rank correlation, error, calibration.

Owns the figures and their definitions. Computes them through `lengths`, as the service
does. Called by `train` after each epoch and by `ssjf predictor evaluate`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr

from predictor_svc.encoder import load_encoder
from predictor_svc.lengths import Floats, softmax
from predictor_svc.model_dir import ModelConfig
from predictor_svc.training.data import Example, Lengths
from predictor_svc.training.model import ProxyModel, pad
from predictor_svc.training.weights import Trained

EVALUATION_BATCH = 32
UPPER_QUANTILE = 0.9


@dataclass(frozen=True, slots=True)
class Report:
    """Figures over some rows; the actual length is the first sample of each."""

    rows: int
    kendall_tau_b: float
    """Of the rank score against the actual length; nan below two rows."""
    spearman: float
    mae_tokens: float
    """Mean absolute difference of expected and actual tokens."""
    p90_coverage: float
    """Share of all samples at or under the predicted 0.9 quantile."""
    kendall_tau_b_all_samples: float
    """Mean tau-b over the first, second, … samples: the same with less noise."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A report over everything and one for each source."""

    overall: Report
    revision: str
    task: str
    per_source: Mapping[str, Report] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """The overall figures at the top, `per_source` beside them; nan as null."""
        return {
            **_finite(self.overall),
            "revision": self.revision,
            "task": self.task,
            "per_source": {name: _finite(each) for name, each in self.per_source.items()},
        }


def evaluate(trained: Trained, examples: Sequence[Example]) -> Evaluation:
    """The model's figures on examples. Raises ValueError without any."""
    if not examples:
        raise ValueError("no rows to evaluate")
    encoder = load_encoder(trained.tokenizer, trained.config.max_input_tokens)
    ids = encoder.encode([example.prompt.text for example in examples])
    logits = predict_logits(trained.model, ids)
    groups: dict[str, list[int]] = defaultdict(list)
    for row, example in enumerate(examples):
        groups[example.prompt.source].append(row)

    def report(rows: list[int]) -> Report:
        return _report(logits[rows], trained.config, [examples[row].lengths for row in rows])

    return Evaluation(
        report(list(range(len(examples)))),
        trained.revision,
        trained.config.task,
        {source: report(rows) for source, rows in sorted(groups.items())},
    )


@torch.no_grad()
def predict_logits(model: ProxyModel, ids: Sequence[list[int]]) -> Floats:
    """(n, bins) logits, on the model's own device, in the order of `ids`."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    logits = np.empty((len(ids), model.shape.bin_count))
    for start in range(0, len(order), EVALUATION_BATCH):
        rows = order[start : start + EVALUATION_BATCH]
        batch, mask = (each.to(device) for each in pad([ids[row] for row in rows]))
        logits[rows] = model(batch, mask).float().cpu().numpy()
    model.train(was_training)
    return logits


def rank_correlation(logits: Floats, config: ModelConfig, lengths: Sequence[Lengths]) -> float:
    """Tau-b of the rank score against the first, second, … sample, averaged."""
    scores = softmax(logits) @ np.array(config.rank_values)
    fewest = min(len(each.tokens) for each in lengths)
    taus = [_tau(scores, [each.tokens[k] for each in lengths]) for k in range(fewest)]
    return float(np.mean(taus))


def _report(logits: Floats, config: ModelConfig, lengths: Sequence[Lengths]) -> Report:
    probabilities = softmax(logits)
    scores = probabilities @ np.array(config.rank_values)
    limits = np.full(len(lengths), float(config.top_tokens))
    expected = config.bins.expected(probabilities, limits)
    upper = config.bins.quantiles(probabilities, [UPPER_QUANTILE], limits)[:, 0]
    first = np.array([each.tokens[0] for each in lengths], dtype=float)
    under = [
        tokens <= limit
        for each, limit in zip(lengths, upper, strict=True)
        for tokens in each.tokens
    ]
    return Report(
        rows=len(lengths),
        kendall_tau_b=_tau(scores, first),
        spearman=float(spearmanr(scores, first).statistic) if _varies(first) else float("nan"),
        mae_tokens=float(np.abs(expected - first).mean()),
        p90_coverage=float(np.mean(under)),
        kendall_tau_b_all_samples=rank_correlation(logits, config, lengths),
    )


def _tau(scores: Floats, actual: Sequence[int] | Floats) -> float:
    return float(kendalltau(scores, actual, variant="b").statistic) if len(scores) > 1 else np.nan


def _varies(values: Floats) -> bool:
    return len(values) > 1 and bool(np.ptp(values) > 0)


def _finite(report: Report) -> dict[str, float | None]:
    return {name: None if value != value else value for name, value in asdict(report).items()}
