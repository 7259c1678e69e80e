"""Figures against slow definitions, on hand-made outputs of the network."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, rankdata

from predictor_svc.encoder import InputForm
from predictor_svc.lengths import Floats
from predictor_svc.model_dir import ModelConfig
from predictor_svc.outputs import ClassesOutput, DistributionOutput, Output, TokensOutput
from predictor_svc.training import evaluate as evaluation
from predictor_svc.training.backbone import load_backbone
from predictor_svc.training.data import Example, Lengths, Prompt
from predictor_svc.training.evaluate import Evaluation, evaluate, predict_raw, rank_correlation
from predictor_svc.training.model import NormedHead, ProxyModel, ProxyShape, pad
from predictor_svc.training.train import Fitted
from predictor_svc.training.weights import Trained, load_trained
from tests.predictor_svc.toy import example, learnable

Measure = Callable[[Output, Floats, Sequence[Example]], Evaluation]
TOKENS = TokensOutput(scale_tokens=1.0)
CLASSES = ClassesOutput(thresholds=(10.0, 100.0, 500.0), class_tokens=(5.0, 50.0, 200.0, 900.0))
DISTRIBUTION = DistributionOutput(
    bin_count=4,
    top_tokens=1000,
    beyond_tokens=2000,
    rank_values=(0.0, 0.25, 0.5, 0.75),
    quantiles=(0.5, 0.9),
    levels=(0.5, 0.9),
)


@pytest.fixture
def measure(tiny_fitted: Fitted, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Evaluates outputs as if the network had given them."""

    def evaluated(output: Output, raw: Floats, examples: Sequence[Example]) -> Evaluation:
        monkeypatch.setattr(evaluation, "predict_raw", lambda *_: np.asarray(raw, float))
        config = ModelConfig(task="test", llm="", input=InputForm(max_tokens=16), output=output)
        tokenizer = tiny_backbone / "tokenizer.json"
        return evaluate(Trained(tiny_fitted.model, config, "revision", tokenizer), examples)

    return evaluated


def tau_b(scores: Sequence[float], actual: Sequence[float]) -> float:
    """By its definition, pair by pair."""
    pairs = list(combinations(range(len(scores)), 2))
    signs = [(np.sign(scores[i] - scores[j]), np.sign(actual[i] - actual[j])) for i, j in pairs]
    left, right = sum(s != 0 for s, _ in signs), sum(a != 0 for _, a in signs)
    return float(sum(s * a for s, a in signs) / math.sqrt(left * right))


def numbered(count: int, samples: int = 1, llms: Sequence[str] = ("a",)) -> list[Example]:
    draw = np.random.default_rng(2)
    return [
        example(f"prompt {n}", draw.integers(1, 30, size=samples).tolist(), llms[n % len(llms)])
        for n in range(count)
    ]


def predictions(count: int) -> Floats:
    return np.random.default_rng(6).integers(1, 25, size=(count, 1)).astype(float)


def test_order_and_error_are_those_of_the_definitions(measure: Measure) -> None:
    examples, raw = numbered(40), predictions(40)
    report = measure(TOKENS, raw, examples).overall
    first = [float(each.lengths.tokens[0]) for each in examples]
    assert report.rows == 40
    assert report.kendall_tau_b == pytest.approx(tau_b(raw[:, 0].tolist(), first))
    ranks = np.corrcoef(rankdata(raw[:, 0]), rankdata(first))[0, 1]
    assert report.spearman == pytest.approx(ranks)
    wanted = sum(abs(p - a) for p, a in zip(raw[:, 0], first, strict=True)) / 40
    assert report.mae_tokens == pytest.approx(wanted)


def test_tau_over_all_samples_is_the_mean_over_those_that_every_row_has(measure: Measure) -> None:
    examples, raw = numbered(30, samples=3), predictions(30)
    examples[4] = example("prompt 4", (3, 9))
    report = measure(TOKENS, raw, examples).overall
    taus = [tau_b(raw[:, 0].tolist(), [e.lengths.tokens[k] for e in examples]) for k in (0, 1)]
    assert report.kendall_tau_b_all_samples == pytest.approx(np.mean(taus))


def test_every_llm_and_source_has_its_report_and_their_taus_a_mean(measure: Measure) -> None:
    examples, raw = numbered(45, llms="abc"), predictions(45)
    examples[0] = replace(examples[0], prompt=replace(examples[0].prompt, source="other"))
    found = measure(TOKENS, raw, examples)
    taus = {}
    for place, llm in enumerate("abc"):
        actual = [float(each.lengths.tokens[0]) for each in examples[place::3]]
        taus[llm] = tau_b(raw[place::3, 0].tolist(), actual)
    assert {llm: each.kendall_tau_b for llm, each in found.per_model.items()} == pytest.approx(taus)
    assert found.overall.kendall_tau_b_model_mean == pytest.approx(np.mean(list(taus.values())))
    assert {name: each.rows for name, each in found.per_source.items()} == {"other": 1, "own": 44}


def test_an_llm_with_one_row_is_left_out_of_the_mean(measure: Measure) -> None:
    examples, raw = numbered(20), predictions(20)
    alone = measure(TOKENS, raw[:-1], examples[:-1]).overall
    with_other = measure(TOKENS, raw, [*examples[:-1], replace(examples[-1], model="b")])
    assert with_other.overall.kendall_tau_b_model_mean == pytest.approx(alone.kendall_tau_b)
    assert math.isnan(with_other.per_model["b"].kendall_tau_b)


PREDICTED = [0, 0, 1, 2, 2, 1, 0, 2, 2, 0]
ACTUAL = [0, 1, 1, 2, 0, 1, 0, 2, 1, 1]
CLASS_LENGTHS = (5, 50, 200, 900)


def classed(measure: Measure) -> Evaluation:
    raw = np.eye(4)[PREDICTED] * 5
    return measure(
        CLASSES, raw, [example(f"{n}", (CLASS_LENGTHS[c],)) for n, c in enumerate(ACTUAL)]
    )


def test_class_figures_are_those_of_the_definitions(measure: Measure) -> None:
    report = classed(measure).overall.classes
    assert report is not None
    scores, weighted = [], 0.0
    for each in range(3):  # nothing is of the fourth, or said to be
        both = sum(p == a == each for p, a in zip(PREDICTED, ACTUAL, strict=True))
        precision, recall = both / PREDICTED.count(each), both / ACTUAL.count(each)
        scores.append(2 * precision * recall / (precision + recall))
        weighted += scores[-1] * ACTUAL.count(each) / 10
    assert report.accuracy == 0.6
    assert report.macro_f1 == pytest.approx(sum(scores) / 3)
    assert report.weighted_f1 == pytest.approx(weighted)
    lengths = [float(CLASS_LENGTHS[each]) for each in ACTUAL]
    assert report.kendall_tau_b == pytest.approx(tau_b(PREDICTED, lengths))


def test_a_class_never_hit_counts_as_nought(measure: Measure) -> None:
    examples = [example("one", (5,)), example("two", (50,))]
    report = measure(CLASSES, np.eye(4)[[0, 2]], examples).overall.classes
    assert report is not None
    assert report.macro_f1 == pytest.approx(1 / 3)  # classes 0, 1 and 2
    assert report.weighted_f1 == pytest.approx(1 / 2)


def test_coverage_counts_samples_at_or_under_the_quantile(measure: Measure) -> None:
    raw = np.zeros((2, 4))  # a quarter of the mass each from 1, 10, 100 and 1000 tokens on
    lengths = [Lengths((2, 99, 101, 1600), (True,) * 4), Lengths((3, 1100), (True, True))]
    examples = [replace(example(f"{n}", (1,)), lengths=each) for n, each in enumerate(lengths)]
    report = measure(DISTRIBUTION, raw, examples).overall
    median, p90 = 100, 1000 * 2 ** (0.15 / 0.25)
    tokens = [2, 99, 101, 1600, 3, 1100]
    wanted = {
        str(share): sum(each <= limit for each in tokens) / 6
        for share, limit in ((0.5, median), (0.9, p90))
    }
    assert wanted == {"0.5": 0.5, "0.9": pytest.approx(5 / 6)}
    assert dict(report.quantile_coverage) == pytest.approx(wanted)
    assert dict(report.quantile_coverage_as_cut) == pytest.approx(wanted)


def test_a_cut_answer_counts_by_the_chance_that_the_quantile_is_beyond_it(measure: Measure) -> None:
    raw = np.zeros((2000, 4))
    row = example("same", (1,))
    cut = replace(row, lengths=Lengths((100,), (False,)))  # the upper half: p90 is at 4/5 of it
    report = measure(DISTRIBUTION, raw, [cut] * 2000).overall
    assert report.quantile_coverage["0.9"] == pytest.approx(0.8, abs=0.03)
    assert report.quantile_coverage_as_cut["0.9"] == 1


def test_what_a_task_does_not_have_is_left_out(measure: Measure) -> None:
    of_tokens = measure(TOKENS, predictions(9), numbered(9)).as_json()
    assert not {"classes", "quantile_coverage", "quantile_coverage_as_cut"} & set(of_tokens)
    of_classes = classed(measure).as_json()
    assert "classes" in of_classes
    assert "quantile_coverage" not in of_classes


@pytest.mark.parametrize("output", [TOKENS, CLASSES, DISTRIBUTION])
def test_what_is_undefined_is_null_in_json(output: Any, measure: Measure) -> None:
    raw = np.zeros((4, output.width))
    content = measure(output, raw, numbered(4)).as_json()
    read = json.loads(json.dumps(content, allow_nan=False))
    assert read["kendall_tau_b"] is None
    assert read["spearman"] is None
    assert read["per_model"]["a"]["kendall_tau_b_model_mean"] is None
    assert read["rows"] == 4
    if "classes" in read:
        assert read["classes"]["kendall_tau_b"] is None


def test_nothing_to_evaluate_is_refused(measure: Measure) -> None:
    with pytest.raises(ValueError, match="no rows"):
        measure(TOKENS, np.zeros((0, 1)), [])


def test_the_figure_after_an_epoch_is_the_report_s(measure: Measure) -> None:
    examples, raw = numbered(30, samples=3), predictions(30)
    found = rank_correlation(raw, TOKENS, [each.lengths for each in examples])
    report = measure(TOKENS, raw, examples).overall
    assert found == report.kendall_tau_b_all_samples
    taus = [kendalltau(raw[:, 0], [e.lengths.tokens[k] for e in examples])[0] for k in range(3)]
    assert found == pytest.approx(np.mean(taus))


def test_equal_rows_run_once_and_come_back_in_their_order(tiny_fitted: Fitted) -> None:
    model = tiny_fitted.model
    ids = [[101, 2000 + n % 7, *range(2100, 2100 + n % 7), 102] for n in range(100)]
    ran: list[int] = []
    hook = model.backbone.register_forward_pre_hook(lambda _, inputs: ran.append(len(inputs[0])))
    steps: list[tuple[int, int]] = []
    raw = predict_raw(model, ids, lambda done, total: steps.append((done, total)))
    hook.remove()
    assert sum(ran) == 7
    assert steps == [(7, 7)]
    alone = [predict_raw(model, [each])[0] for each in ids[:7]]
    np.testing.assert_allclose(raw, [alone[n % 7] for n in range(100)], atol=1e-4)


def test_predicting_leaves_a_model_in_training_as_it_was(tiny_fitted: Fitted) -> None:
    model = tiny_fitted.model.train()
    try:
        one, other = (predict_raw(model, [[101, 2000, 102]]) for _ in range(2))
        assert model.training
    finally:
        model.eval()
    assert np.array_equal(one, other)  # without dropout


def test_the_tiny_model_tells_short_from_long(tiny_weights: Path, tiny_backbone: Path) -> None:
    trained = load_trained(tiny_weights, tiny_backbone)
    found = evaluate(trained, learnable(40, start=500), torch.device("cpu"))
    assert found.overall.kendall_tau_b > 0.5
    assert found.revision == trained.revision
    assert len(found.levels) == 120
    assert found.overall == found.per_source["own"] == found.per_model["tiny-llm"]


def test_the_prompt_alone_says_the_length_not_its_place(
    tiny_weights: Path, tiny_backbone: Path
) -> None:
    trained, rows = load_trained(tiny_weights, tiny_backbone), learnable(12)
    one, other = evaluate(trained, rows), evaluate(trained, rows[::-1])
    np.testing.assert_allclose(
        one.readings.rank_scores, other.readings.rank_scores[::-1], atol=1e-5
    )
    assert Prompt("", "", rows[0].prompt.text).digest == rows[0].prompt.digest


def test_a_prompt_of_many_llms_runs_once_where_only_the_head_is_told_them(
    tiny_backbone: Path,
) -> None:
    shape = ProxyShape(outputs=3, hidden=8, llm_tokens=(2, 3, 4), llm_seen_as=1)
    model = ProxyModel(load_backbone(tiny_backbone), shape).eval()
    assert isinstance(model.head, NormedHead)
    assert model.head.llm_weight is not None
    torch.nn.init.normal_(model.head.llm_weight.weight[1:].detach())
    ids = [[101, 2 + n % 3, *range(2100, 2101 + n % 5), 102] for n in range(30)]
    ran: list[int] = []
    hook = model.backbone.register_forward_pre_hook(lambda _, inputs: ran.append(len(inputs[0])))
    raw = predict_raw(model, ids)
    hook.remove()
    assert sum(ran) == 5
    with torch.no_grad():
        expected = model(*pad(ids)).numpy()
    np.testing.assert_allclose(raw, expected, atol=1e-5)
    assert len(np.unique(raw.round(4), axis=0)) == 15
