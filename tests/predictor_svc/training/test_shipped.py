"""The weights in the repository: what is said of them, and that every precision predicts so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

import predictor_svc.training
import ssjf_bench
from predictor_svc.encoder import PromptText, load_encoder
from predictor_svc.lengths import Floats
from predictor_svc.model_dir import ModelDir, Precision, open_model_dir
from predictor_svc.outputs import Readings
from predictor_svc.training.data import Example, Lengths, read_examples, read_prompts
from predictor_svc.training.evaluate import Evaluation, evaluate
from predictor_svc.training.export import PRECISIONS, export
from predictor_svc.training.model import pad
from predictor_svc.training.options import TrainOptions
from predictor_svc.training.seen import unseen
from predictor_svc.training.weights import Trained, load_trained, revision, shipped_folder
from ssjf_bench.forward import bare_onnxruntime

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TRAINING_PROMPTS = Path(predictor_svc.training.__file__).with_name("prompts.jsonl")
HELD_OUT = Path(__file__).parents[2] / "data" / "holdout_lengths.jsonl"
DEMO = Path(ssjf_bench.__file__).parent / "data" / "demo_prompts.jsonl"
# Enough to tell prompts apart, and a thousand of them run in seconds.
MAX_CHARACTERS = 120
BATCH = 25

Run = Callable[[torch.Tensor, torch.Tensor], Any]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def trained() -> Trained:
    return load_trained(shipped_folder())


@pytest.fixture(scope="module")
def held_out(trained: Trained) -> Evaluation:
    return evaluate(trained, read_examples([HELD_OUT]))


@pytest.fixture(scope="module")
def shipped(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> ModelDir:
    """The model as it is served, in every precision."""
    folder = tmp_path_factory.mktemp("shipped")
    export(trained, folder)
    return open_model_dir(folder)


@pytest.fixture(scope="module")
def thousand_ids(shipped: ModelDir) -> list[list[int]]:
    texts = [row["prompt"] for path in (TRAINING_PROMPTS, HELD_OUT) for row in rows(path)]
    return ids_of(shipped, [text[:MAX_CHARACTERS] for text in texts[:1000]])


@pytest.fixture(scope="module")
def by_pytorch(trained: Trained, thousand_ids: list[list[int]]) -> Floats:
    return outputs(trained.model, thousand_ids)


def ids_of(model: ModelDir, prompts: list[str]) -> list[list[int]]:
    encoder = load_encoder(model.tokenizer, model.manifest.config.input)
    return encoder.encode([PromptText(prompt) for prompt in prompts])


def outputs(run: Run, ids: list[list[int]]) -> Floats:
    """(n, width), in the order of the prompts; run in batches of similar length."""
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    with torch.inference_mode():
        parts = [np.asarray(run(*pad([ids[row] for row in batch]))) for batch in batches]
    found: Floats = np.concatenate(parts)[np.argsort(order)]
    return found


def served(model: ModelDir, precision: Precision, provider: str = CPU) -> Run:
    run = bare_onnxruntime(model.graph(precision), provider)
    return lambda ids, mask: run(ids.int().numpy(), mask.int().numpy())


def read(model: ModelDir, raw: Floats) -> Readings:
    return model.manifest.config.output.read(raw, np.full(len(raw), np.inf))


def agreement(model: ModelDir, one: Floats, other: Floats) -> float:
    """Kendall's tau-b of the two orders."""
    return float(kendalltau(*(read(model, raw).rank_scores for raw in (one, other))).statistic)


def test_what_is_shipped_is_small() -> None:
    total_bytes = sum(path.stat().st_size for path in shipped_folder().iterdir())
    assert total_bytes <= 12 * 1024 * 1024


def test_the_card_names_the_weights_beside_it() -> None:
    assert revision(shipped_folder()) in (shipped_folder() / "README.md").read_text()


def test_the_card_s_figures_on_held_out_prompts_are_those_of_the_weights(
    held_out: Evaluation,
) -> None:
    card = (shipped_folder() / "README.md").read_text().splitlines()
    (line,) = [each for each in card if each.startswith("|") and HELD_OUT.name in each]
    _, rows, tau, tau_all, mae_tokens, p90 = line.strip("| ").split("|")
    found = held_out.overall
    assert int(rows) == found.rows == 200
    assert float(tau) == pytest.approx(found.kendall_tau_b, abs=2e-3)
    assert float(tau_all) == pytest.approx(found.kendall_tau_b_all_samples, abs=2e-3)
    assert float(mae_tokens) == pytest.approx(found.mae_tokens, abs=1)
    assert float(p90) == pytest.approx(found.quantile_coverage["0.9"], abs=6e-3)


def test_the_record_is_of_these_weights(trained: Trained) -> None:
    record = json.loads((shipped_folder() / "training.json").read_text())
    assert record["test"]["revision"] == trained.revision
    assert (record["task"], record["test"]["task"]) == (trained.config.task,) * 2
    options = TrainOptions(**record["options"])
    assert options.max_tokens == trained.config.input.max_tokens
    assert (options.layers, options.adapter_rank, options.hidden, options.head) == (
        trained.model.shape.layers,
        trained.model.shape.adapter_rank,
        trained.model.shape.hidden,
        trained.model.shape.head,
    )
    assert [epoch["number"] for epoch in record["epochs"]] == list(range(1, options.epochs + 1))


@pytest.mark.parametrize("path", [HELD_OUT, DEMO], ids=lambda path: path.stem)
def test_prompts_that_are_held_out_were_never_trained_on(path: Path) -> None:
    prompts = [Example(each, "", Lengths((1,), (True,))) for each in read_prompts([path])]
    assert len(prompts) >= 40
    assert unseen(prompts, shipped_folder()) == prompts


def test_held_out_lengths_lie_under_the_quantiles_as_often_as_they_should(
    held_out: Evaluation,
) -> None:
    for quantile, share in held_out.overall.quantile_coverage.items():
        assert share == pytest.approx(float(quantile), abs=0.08)


def test_fp32_gives_what_pytorch_gives(
    shipped: ModelDir, thousand_ids: list[list[int]], by_pytorch: Floats
) -> None:
    raw = outputs(served(shipped, "fp32"), thousand_ids)
    assert len(raw) == 1000
    assert np.abs(raw - by_pytorch).max() <= 1e-3
    assert agreement(shipped, raw, by_pytorch) >= 0.999


def test_fp16_gives_the_same_tokens_and_order(
    shipped: ModelDir, thousand_ids: list[list[int]], by_pytorch: Floats
) -> None:
    raw = outputs(served(shipped, "fp16"), thousand_ids)
    wanted = read(shipped, by_pytorch).expected_tokens
    assert (np.abs(read(shipped, raw).expected_tokens - wanted) / wanted).max() <= 2e-2
    assert agreement(shipped, raw, by_pytorch) >= 0.999


def test_int8_gives_nearly_the_same_order(
    shipped: ModelDir, thousand_ids: list[list[int]], by_pytorch: Floats
) -> None:
    raw = outputs(served(shipped, "int8"), thousand_ids)
    assert 0.93 <= agreement(shipped, raw, by_pytorch) < 1


def test_int8_ranks_unseen_prompts_as_well_as_fp32(shipped: ModelDir) -> None:
    held_out = rows(HELD_OUT)
    ids = ids_of(shipped, [row["prompt"] for row in held_out])
    actual = [row["response_samples"][0] for row in held_out]
    fp32, int8 = (
        kendalltau(read(shipped, outputs(served(shipped, each), ids)).rank_scores, actual).statistic
        for each in ("fp32", "int8")
    )
    assert fp32 > 0.45
    assert int8 > fp32 - 0.015


def test_one_word_is_shorter_than_a_story(shipped: ModelDir) -> None:
    prompts = [
        "What is the capital of France? Answer in one word.",
        "Write a long story about a lighthouse keeper, in at least five chapters.",
    ]
    raw = outputs(served(shipped, shipped.manifest.cpu_precision), ids_of(shipped, prompts))
    readings = read(shipped, raw)
    assert readings.rank_scores[0] < readings.rank_scores[1]
    assert readings.expected_tokens[0] < readings.expected_tokens[1]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS[:2])
def test_cuda_gives_the_same_tokens_and_order(
    precision: Precision, shipped: ModelDir, thousand_ids: list[list[int]], by_pytorch: Floats
) -> None:
    raw = outputs(served(shipped, precision, CUDA), thousand_ids)
    wanted = read(shipped, by_pytorch).expected_tokens
    assert (np.abs(read(shipped, raw).expected_tokens - wanted) / wanted).max() <= 2e-2
    assert agreement(shipped, raw, by_pytorch) >= 0.999
