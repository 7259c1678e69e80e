from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from predictor_svc.encoder import load_encoder
from predictor_svc.training import train as training
from predictor_svc.training.backbone import load_backbone
from predictor_svc.training.evaluate import evaluate, predict_raw
from predictor_svc.training.model import ProxyModel
from predictor_svc.training.tasks import TASKS
from predictor_svc.training.tokenized import Batch, tokenize
from predictor_svc.training.train import Epoch, Fitted, train
from predictor_svc.training.weights import load_trained, save_weights
from tests.predictor_svc.toy import CPU, OPTIONS, example, fit, learnable, run_of, same, state


def noting(made: list[ProxyModel]) -> Callable[..., ProxyModel]:
    """Builds models, and notes them."""

    def build(*arguments: Any) -> ProxyModel:
        made.append(ProxyModel(*arguments))
        return made[-1]

    return build


def measuring(taus: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Has these tau-bs measured, an epoch each."""
    left = iter(taus)
    monkeypatch.setattr(training, "rank_correlation", lambda *_: next(left))


@pytest.mark.parametrize("task", list(TASKS))
def test_each_task_learns_what_can_be_learnt(
    task: str, tiny_backbone: Path, tmp_path: Path
) -> None:
    fitted = fit(run_of(tiny_backbone, task, epochs=8, dropout=0.0), learnable(96))
    save_weights(fitted.model, fitted.config, tmp_path)
    trained = load_trained(tmp_path, tiny_backbone)
    unseen = evaluate(trained, learnable(60, start=3000)).overall
    # Four lengths, ties and all, allow 0.87 at most; two classes tell half of them apart.
    assert unseen.kendall_tau_b > 0.5


def test_the_loss_falls(tiny_fitted: Fitted) -> None:
    losses = [epoch.train_loss for epoch in tiny_fitted.epochs]
    assert [epoch.number for epoch in tiny_fitted.epochs] == [1, 2, 3, 4]
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_weights(tiny_fitted: Fitted, tiny_backbone: Path) -> None:
    again = fit(run_of(tiny_backbone, adapter_rank=2))
    assert same(state(again.model), state(tiny_fitted.model))
    assert again.config == tiny_fitted.config
    assert again.epochs == tiny_fitted.epochs


def test_another_seed_gives_other_weights(tiny_fitted: Fitted, tiny_backbone: Path) -> None:
    other = fit(run_of(tiny_backbone, adapter_rank=2, seed=2))
    assert not same(state(other.model), state(tiny_fitted.model))


@pytest.mark.parametrize("rank", [0, 2])
def test_a_frozen_backbone_is_left_as_it_is(
    rank: int, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbones, heads = [], []
    made: list[ProxyModel] = []
    monkeypatch.setattr(training, "ProxyModel", noting(made))

    def keep(_: Epoch) -> None:
        backbones.append(state(made[0].backbone))
        heads.append(state(made[0].head))

    fit(run_of(tiny_backbone, freeze_after_epochs=2, adapter_rank=rank), on_epoch=keep)
    assert not same(backbones[0], backbones[1])
    assert same(backbones[1], backbones[2])
    assert same(backbones[1], backbones[3])
    assert not same(heads[2], heads[3])


def test_a_backbone_frozen_from_the_start_is_the_packaged_one(tiny_backbone: Path) -> None:
    fitted = fit(run_of(tiny_backbone, freeze_after_epochs=0))
    assert same(state(fitted.model.backbone), state(load_backbone(tiny_backbone)))


@pytest.mark.parametrize(
    ("taus", "best"),
    [
        ([0.1, 0.6, 0.3], 2),
        ([0.5, 0.4, 0.3], 1),
        ([0.2, math.nan, 0.1], 1),
        ([math.nan, 0.1, math.nan], 2),
        ([math.nan] * 3, 3),
    ],
)
def test_the_best_epoch_is_kept(
    taus: list[float], best: int, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    made: list[ProxyModel] = []
    measuring(taus, monkeypatch)
    monkeypatch.setattr(training, "ProxyModel", noting(made))

    def keep(_: Epoch) -> None:
        weights.append(state(made[0]))

    fitted = fit(run_of(tiny_backbone, epochs=3, adapter_rank=2), on_epoch=keep)
    found = [
        number for number, each in enumerate(weights, start=1) if same(each, state(fitted.model))
    ]
    assert found == [best]


def test_the_last_epoch_is_kept_where_asked_for(
    tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tiny_backbone, adapter_rank=2, keep_best_epoch=False)
    as_measured = fit(run)
    measuring([0.9, 0.1, 0.1, 0.0], monkeypatch)
    assert same(state(fit(run).model), state(as_measured.model))


def test_validation_lengths_that_are_all_equal_are_no_obstacle(tiny_backbone: Path) -> None:
    same_lengths = [example(f"prompt {n}", (40,)) for n in range(8)]
    fitted = train(run_of(tiny_backbone, epochs=1), learnable(32), same_lengths)
    assert math.isnan(fitted.epochs[0].validation_tau_b)


def test_rows_that_share_a_pass_learn_what_they_learn_apart(tiny_backbone: Path) -> None:
    # One batch of all rows, without dropout: the same gradients, so the same losses.
    data = learnable(12, ("one", "two"))
    still = OPTIONS.model_copy(update={"epochs": 3, "dropout": 0.0, "llm": "head"})
    apart = fit(run_of(tiny_backbone, "multiclass", still, batch_size=24), data)
    shared = fit(run_of(tiny_backbone, "multiclass", still, batch_size=12, rows_a_prompt=2), data)
    losses, others = ([epoch.train_loss for epoch in each.epochs] for each in (apart, shared))
    assert losses == pytest.approx(others, rel=1e-3)


def test_a_shared_pass_gives_the_outputs_of_separate_ones(tiny_backbone: Path) -> None:
    data = learnable(12, ("one", "two"))
    fitted = fit(run_of(tiny_backbone, epochs=2, llm="head", rows_a_prompt=2), data)
    encoder = load_encoder(tiny_backbone / "tokenizer.json", fitted.config.input)
    rows = tokenize(encoder, [each.prompt.text for each in data], CPU)
    apart = Batch([0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3], [False] * 4)
    shared = Batch([0, 1, 2, 3], [0, 2], [0, 0, 1, 1], [False] * 4)
    with torch.no_grad():
        outputs = []
        for batch in (apart, shared):
            ids, mask, llms = rows.tensors(batch)
            states = fitted.model.backbone(fitted.model.seen(ids), mask)
            pooled = fitted.model.pooled(states, mask)[batch.owners]
            outputs.append(fitted.model.outputs(pooled, llms))
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(outputs[0][0], outputs[0][1])  # the LLM is told apart


@pytest.mark.parametrize("llm", ["token", "head"])
def test_two_llms_are_told_apart_by_name(llm: str, tiny_backbone: Path, tmp_path: Path) -> None:
    names = ("one", "two")  # the second answers with twice the tokens
    fitted = fit(run_of(tiny_backbone, llm=llm, epochs=6, dropout=0.0), learnable(96, names))
    save_weights(fitted.model, fitted.config, tmp_path)
    evaluation = evaluate(load_trained(tmp_path, tiny_backbone), learnable(40, names, start=3000))
    expected = evaluation.readings.expected_tokens.reshape(-1, 2)
    assert fitted.config.llm == "several"
    assert expected[:, 1].mean() > 1.15 * expected[:, 0].mean()


def test_an_llm_of_a_known_family_is_read_as_its_mean(tiny_backbone: Path, tmp_path: Path) -> None:
    known = ("toy-1-1b", "toy-1-2b", "lone-3b")  # the second answers with twice the tokens
    fitted = fit(run_of(tiny_backbone, llm="head", epochs=2), learnable(48, known))
    assert fitted.config.input.families == ("toy-1",)
    save_weights(fitted.model, fitted.config, tmp_path)
    trained = load_trained(tmp_path, tiny_backbone)
    rows = learnable(10, (*known[:2], "toy-1-70b", "other"), start=3000)
    evaluation = evaluate(trained, rows)
    assert evaluation.as_json()["llms_read_as"] == {"other": "", "toy-1-70b": "toy-1"}
    encoder = load_encoder(trained.tokenizer, trained.config.input)
    raw = predict_raw(trained.model, encoder.encode([each.prompt.text for each in rows]))
    one, two, unseen, other = raw.reshape(10, 4, -1).swapaxes(0, 1)
    np.testing.assert_allclose(unseen, (one + two) / 2, atol=1e-2)
    assert abs(two - one).max() > 0.1
    assert abs(unseen - other).max() > 0.1


def test_read_by_the_backbone_a_family_has_no_mean(tiny_backbone: Path) -> None:
    fitted = fit(run_of(tiny_backbone, llm="token", epochs=1), learnable(12, ("toy-1b", "toy-2b")))
    assert fitted.config.input.families == ()


def test_without_its_name_an_llm_cannot_be_read(tiny_backbone: Path) -> None:
    nameless = [example(each.prompt.text.prompt, each.lengths.tokens, "") for each in learnable(32)]
    with pytest.raises(ValueError, match="llm=token: no row names its LLM"):
        fit(run_of(tiny_backbone, llm="token"), nameless)


@pytest.mark.parametrize(("train_rows", "validation_rows"), [(0, 8), (8, 0)])
def test_without_rows_nothing_is_trained(
    train_rows: int, validation_rows: int, tiny_backbone: Path
) -> None:
    with pytest.raises(ValueError, match="too few"):
        train(run_of(tiny_backbone), learnable(train_rows), learnable(validation_rows))


def test_the_rate_rises_then_falls_to_nothing(
    tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []

    class Noting(torch.optim.lr_scheduler.LambdaLR):
        def step(self, epoch: int | None = None) -> None:
            rates.append(self.optimizer.param_groups[1]["lr"])
            super().step(epoch)

    monkeypatch.setattr(torch.optim.lr_scheduler, "LambdaLR", Noting)
    run = run_of(tiny_backbone, epochs=5, head_learning_rate=1.0, warmup_share=0.1)
    fit(replace(run, task="multiclass"), learnable(64))
    steps = rates[-40:]  # the constructor takes one, too
    assert steps[:4] == [0.25, 0.5, 0.75, pytest.approx(1 - 3 / 40)]
    assert steps[4:] == pytest.approx([1 - step / 40 for step in range(4, 40)])


def test_steps_are_counted_to_the_end(tiny_backbone: Path) -> None:
    seen: list[tuple[int, int]] = []
    run = run_of(tiny_backbone, epochs=2)
    train(run, learnable(30), learnable(8), on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(step, 8) for step in range(1, 9)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"llm": "token"}, "llm=token: "),
        ({"marks": "role-length"}, "marks=role-length: "),
        ({"pooling": "cls"}, "pooling=cls: "),
    ],
)
def test_what_a_decoder_cannot_read_is_refused(
    options: dict[str, Any], message: str, tiny_decoder: Path
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        fit(run_of(tiny_decoder, **options))


def test_a_decoder_learns_what_can_be_learnt(tiny_decoder: Path) -> None:
    run = run_of(tiny_decoder, pooling="last-mean", max_tokens=96, learning_rate=3e-3, epochs=6)
    epochs = fit(run).epochs
    assert epochs[-1].train_loss < epochs[0].train_loss
    assert max(epoch.validation_tau_b for epoch in epochs) > 0.5
