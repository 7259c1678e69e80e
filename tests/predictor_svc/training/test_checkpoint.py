from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from predictor_svc.training.checkpoint import CheckpointError
from predictor_svc.training.train import Epoch, Fitted, Run
from tests.predictor_svc.toy import fit, learnable, run_of, same, state


class Stopped(Exception):
    """What a run is stopped with."""


def run_at(path: Path, backbone: Path, task: str = "distribution", **more: Any) -> Run:
    return replace(run_of(backbone, task, **more), checkpoint=path, resume=True)


def stopped_after(epoch: int, run: Run) -> None:
    """Trains until the checkpoint of `epoch` is written: it dies in the next one."""

    def stop(done: Epoch) -> None:
        if done.number > epoch:
            raise Stopped

    with pytest.raises(Stopped):
        fit(run, on_epoch=stop)


@pytest.fixture(scope="module")
def uninterrupted(tiny_backbone: Path) -> Fitted:
    return fit(run_of(tiny_backbone, freeze_after_epochs=3))


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_resumed_run_ends_with_the_weights_of_one_never_stopped(
    epoch: int, uninterrupted: Fitted, tiny_backbone: Path, tmp_path: Path
) -> None:
    run = run_at(tmp_path / "checkpoint.pt", tiny_backbone, freeze_after_epochs=3)
    stopped_after(epoch, run)
    resumed = fit(run)
    assert same(state(resumed.model), state(uninterrupted.model))
    assert resumed.epochs == uninterrupted.epochs
    assert resumed.config == uninterrupted.config


def test_resuming_trains_only_what_is_left(tiny_backbone: Path, tmp_path: Path) -> None:
    run = run_at(tmp_path / "checkpoint.pt", tiny_backbone, adapter_rank=2)
    stopped_after(3, run)
    before = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert [each["number"] for each in before["epochs"]] == [1, 2, 3]
    shown: list[int] = []
    fit(run, on_epoch=lambda epoch: shown.append(epoch.number))
    assert shown == [1, 2, 3, 4]  # those of before are shown again
    after = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert after["loop"]["steps"] == before["loop"]["steps"] * 4 / 3


def test_a_run_that_was_complete_is_only_read(tiny_backbone: Path, tmp_path: Path) -> None:
    run = run_at(tmp_path / "checkpoint.pt", tiny_backbone, adapter_rank=2)
    first = fit(run)
    written = (tmp_path / "checkpoint.pt").read_bytes()
    assert same(state(fit(run).model), state(first.model))
    assert (tmp_path / "checkpoint.pt").read_bytes() == written


def test_the_best_epoch_of_before_the_stop_is_still_kept(
    tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taus = iter([0.9, 0.1, 0.1, 0.2, 0.3])  # the third epoch runs twice
    monkeypatch.setattr("predictor_svc.training.train.rank_correlation", lambda *_: next(taus))
    run = run_at(tmp_path / "checkpoint.pt", tiny_backbone, adapter_rank=2)
    stopped_after(2, run)
    best = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["best"]
    resumed = fit(run).model.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in best.items())


def test_without_resume_a_checkpoint_is_ignored(tiny_backbone: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_text("not one")
    run = replace(run_at(tmp_path / "checkpoint.pt", tiny_backbone, epochs=1), resume=False)
    fit(run)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epochs"]


def test_resume_without_a_checkpoint_starts_anew(tiny_backbone: Path, tmp_path: Path) -> None:
    assert len(fit(run_at(tmp_path / "new" / "c.pt", tiny_backbone, epochs=1)).epochs) == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["c.pt"]


@pytest.mark.parametrize(
    "other",
    [
        {"task": "regression-mse"},
        {"seed": 2},
        {"learning_rate": 1e-3},
        {"epochs": 3},
        {"dropout": 0.2},
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    other: dict[str, Any], tiny_backbone: Path, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    first: dict[str, Any] = {"task": "regression-l1", "epochs": 1}
    fit(run_at(path, tiny_backbone, **first))
    with pytest.raises(CheckpointError, match="another task, option, seed or data"):
        fit(run_at(path, tiny_backbone, **(first | other)))


def test_a_checkpoint_of_other_data_is_refused(tiny_backbone: Path, tmp_path: Path) -> None:
    run = run_at(tmp_path / "checkpoint.pt", tiny_backbone, "regression-l1", epochs=1)
    fit(run, learnable(64))
    with pytest.raises(CheckpointError, match="another task, option, seed or data"):
        fit(run, learnable(60))


def broken(kind: str, path: Path) -> None:
    if kind == "cut short":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "another file":
        path.write_text("weights, surely")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "a tensor":
        torch.save(torch.zeros(3), path)
    else:
        torch.save({"loop": {}}, path)


@pytest.mark.parametrize("kind", ["cut short", "another file", "empty", "a tensor", "unsigned"])
def test_a_broken_checkpoint_is_refused_by_name(
    kind: str, tiny_backbone: Path, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    fit(run_at(path, tiny_backbone, epochs=1))
    broken(kind, path)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: "):
        fit(run_at(path, tiny_backbone, epochs=1))
