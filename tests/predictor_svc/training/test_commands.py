"""`ssjf predictor train | recipes | evaluate | export` as a user calls them, tiny all of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from predictor_svc.encoder import PromptText
from predictor_svc.model_dir import open_model_dir
from predictor_svc.training import backbone, checkpoint
from predictor_svc.training.data import Prompt
from predictor_svc.training.options import RECIPES, TrainOptions
from predictor_svc.training.train import Epoch
from predictor_svc.training.weights import revision
from ssjf_cli.predictor import app
from tests.predictor_svc.toy import WORDS, learnable

FAST = (
    *("--set", "epochs=1", "--set", "adapter_rank=2", "--set", "max_tokens=32"),
    *("--device", "cpu"),
)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def flat(result: Result) -> str:
    """What was printed, without its line breaks."""
    return result.output.replace("\n", "")


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(count: int, llms: Sequence[str] = ("llm",)) -> list[dict[str, Any]]:
    return [
        {
            "prompt": each.prompt.text.prompt,
            "source": "own",
            "model": each.model,
            "response_samples": each.lengths.tokens,
        }
        for each in learnable(count, llms)
    ]


@pytest.fixture(autouse=True)
def on_the_tiny_backbone(tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # taken back afterwards
    monkeypatch.setenv("COLUMNS", "200")
    packaged = backbone.PACKAGED["minilm"]
    monkeypatch.setitem(
        backbone.PACKAGED, "minilm", replace(packaged, find=lambda _folder: tiny_backbone)
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data.jsonl", rows_of(80))


def test_from_lengths_to_a_served_model(data: Path, tmp_path: Path) -> None:
    out, plots, figures = tmp_path / "weights", tmp_path / "plots", tmp_path / "evaluation.json"
    learning = ("--set", "epochs=4", "--set", "batch_size=8", "--set", "learning_rate=0.01")
    record_file = tmp_path / "records" / "record.json"
    trained = run("train", "--data", data, "--out", out, "--json", record_file, *learning)
    assert trained.exit_code == 0, trained.output
    names = ["config.json", "curves.png", "seen.npy", "training.json", "weights.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == names
    record = json.loads((out / "training.json").read_text())
    assert (record["recipe"], record["task"]) == ("distribution", "distribution")
    assert [epoch["number"] for epoch in record["epochs"]] == [1, 2, 3, 4]
    assert record["epochs"][-1]["train_loss"] < record["epochs"][0]["train_loss"]
    changed = {"epochs": 4, "batch_size": 8, "learning_rate": 0.01}
    assert TrainOptions(**record["options"]) == RECIPES["distribution"].options.model_copy(
        update=changed
    )
    rows = record["rows"]
    assert rows["train"] + rows["validation"] + rows["test"] == 80
    assert record["test"]["rows"] == rows["test"]
    with_provenance = json.loads(record_file.read_text())
    assert record.items() < with_provenance.items()

    evaluated = run(
        *("evaluate", "--data", data, "--model", out, "--json", figures, "--plots", plots)
    )
    assert evaluated.exit_code == 0, evaluated.output
    assert f"predictor {revision(out)} (distribution)" in evaluated.output
    measured = json.loads(figures.read_text())
    assert (measured["rows"], measured["revision"]) == (80, revision(out))
    assert set(measured["per_source"]) == {"own"}
    drawn = ["calibration.png", "predicted.png", "residuals.png"]
    assert sorted(path.name for path in plots.iterdir()) == drawn

    part = tmp_path / "unseen.json"
    run("evaluate", "--data", data, "--model", out, "--json", part, "--unseen")
    assert json.loads(part.read_text())["rows"] == rows["test"]

    exported = run(*("export", "--model", out, "--out", tmp_path / "model", "--precision", "fp32"))
    assert exported.exit_code == 0, exported.output
    assert open_model_dir(tmp_path / "model").manifest.revision == revision(out)


def test_the_same_command_gives_the_same_weights(data: Path, tmp_path: Path) -> None:
    for name, seed in (("one", "7"), ("two", "7"), ("three", "8")):
        run("train", "--data", data, "--out", tmp_path / name, "--seed", seed, *FAST)
    assert revision(tmp_path / "one") == revision(tmp_path / "two")
    assert revision(tmp_path / "one") != revision(tmp_path / "three")


def test_a_stopped_run_is_resumed_to_the_same_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("train", "--data", data, *FAST, "--set", "epochs=3")
    run(*command, "--out", tmp_path / "whole")

    def dies(path: Path, signature: str, loop: Any, epochs: Sequence[Epoch], best: Any) -> None:
        save(path, signature, loop, epochs, best)
        if len(epochs) == 2:
            raise KeyboardInterrupt

    save = checkpoint.save
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", dies)
        run(*command, "--out", out)
    assert [path.name for path in out.iterdir()] == ["checkpoint.pt"]
    refused = run(*command, "--out", out, "--resume", "--set", "hidden=8")
    assert refused.exit_code == 1
    assert "checkpoint.pt: of a run with another task" in flat(refused)
    resumed = run(*command, "--out", out, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert revision(out) == revision(tmp_path / "whole")
    assert not (out / "checkpoint.pt").exists()


def test_another_recipe_reports_its_classes(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "weights"
    trained = run("train", "--data", data, "--out", out, "--recipe", "ssjf-multiclass", *FAST)
    assert trained.exit_code == 0, trained.output
    record = json.loads((out / "training.json").read_text())
    assert 0 <= record["test"]["classes"]["accuracy"] <= 1
    assert "accuracy" in trained.output


def test_recipes_are_listed_with_what_they_change() -> None:
    listed = run("recipes")
    assert listed.exit_code == 0
    assert all(name in listed.output for name in RECIPES)
    assert "freeze_after_epochs=3" in listed.output
    assert "defaults: epochs=6 batch_size=64" in listed.output


def test_an_llm_can_be_kept_out_of_training_and_tested_all_the_same(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", rows_of(60, ("one", "two")))
    command = ("train", "--data", data, "--out", tmp_path / "w", "--set", "llm=token")
    result = run(*command, "--exclude-model", "two", *FAST)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "w" / "training.json").read_text())
    assert set(record["test"]["per_model"]) == {"one", "two"}
    assert record["rows"]["train"] + record["rows"]["validation"] < 60
    config = json.loads((tmp_path / "w" / "config.json").read_text())
    assert config["input"]["llms"] == ["one"]
    assert record["test"]["llms_read_as"] == {"two": ""}


def test_rows_for_training_can_be_limited(data: Path, tmp_path: Path) -> None:
    run("train", "--data", data, "--out", tmp_path / "w", "--max-rows", "20", *FAST)
    record = json.loads((tmp_path / "w" / "training.json").read_text())
    assert record["rows"]["train"] == 20


def test_the_split_that_the_data_names_is_used(tmp_path: Path) -> None:
    parts = ["train"] * 40 + ["validation"] * 20 + ["test"] * 20
    rows = [row | {"split": part} for row, part in zip(rows_of(80), parts, strict=True)]
    data = write(tmp_path / "data.jsonl", rows)
    shares = ("--split", "published", "--validation-share", "0.5")
    result = run("train", "--data", data, "--out", tmp_path / "w", *shares, *FAST)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "w" / "training.json").read_text())
    assert record["rows"] == {"train": 50, "validation": 10, "test": 20, "dropped_as_leaks": 0}


def test_held_out_prompts_are_never_trained_on(data: Path, tmp_path: Path) -> None:
    held = write(
        tmp_path / "held.jsonl",
        [{"prompt": f"write a  {word} about topic {n}."} for n, word in enumerate(WORDS)],
    )
    result = run("train", "--data", data, "--out", tmp_path / "w", "--hold-out", held, *FAST)
    assert "4 held out by prompt" in result.output


def test_lengths_without_text_train_with_their_prompts(tmp_path: Path) -> None:
    texts = [f"Question number {n}?" for n in range(60)]
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": text} for text in texts])
    rows = [
        {"prompt_sha256": Prompt("", "", PromptText(text)).digest, "response_samples": [n + 1]}
        for n, text in enumerate(texts)
    ]
    joined = ("--lengths", write(tmp_path / "lengths.jsonl", rows), "--prompts", prompts)
    result = run("train", *joined, "--out", tmp_path / "w", *FAST)
    assert result.exit_code == 0, result.output
    figures = tmp_path / "figures.json"
    run("evaluate", *joined, "--model", tmp_path / "w", "--json", figures)
    assert json.loads(figures.read_text())["rows"] == 60


def test_figures_that_are_undefined_are_null(data: Path, tmp_path: Path) -> None:
    run("train", "--data", data, "--out", tmp_path / "w", *FAST)
    alike = write(tmp_path / "alike.jsonl", [row | {"response_samples": [3]} for row in rows_of(3)])
    figures = tmp_path / "figures.json"
    run("evaluate", "--data", alike, "--model", tmp_path / "w", "--json", figures)
    assert "NaN" not in figures.read_text()
    assert json.loads(figures.read_text())["kendall_tau_b"] is None


def test_a_malformed_row_is_one_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "x"}\n')
    result = run("evaluate", "--data", bad)
    assert result.exit_code == 1
    assert "bad.jsonl:1: column 'response_samples': missing" in flat(result)


def test_weights_that_are_not_there_are_named(data: Path, tmp_path: Path) -> None:
    result = run("evaluate", "--data", data, "--model", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "nowhere/config.json" in flat(result)


def test_without_data_the_usage_is_shown() -> None:
    assert run("evaluate").exit_code == 2
    assert run("train").exit_code == 2


def test_too_few_prompts_are_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [{"prompt": "x", "response_length": 3}])
    result = run("train", "--data", data, "--out", tmp_path / "w", *FAST)
    assert result.exit_code == 1
    assert "too few" in result.output


@pytest.mark.parametrize(
    ("wrong", "code", "message"),
    [
        (("--recipe", "ssfj"), 2, "there are: ssjf-regression-l1, "),
        (("--set", "epochs=none"), 1, "epochs: Input should be a valid integer"),
        (("--set", "epoch=1"), 1, "epoch=1: expected NAME=VALUE"),
        (("--set", "head_tokens=40"), 1, "head_tokens: leaves no room"),
        (("--device", "tpu"), 2, "one of auto, cpu, cuda"),
        (("--only", "is_missing"), 2, "no row has is_missing"),
        (("--split", "published"), 1, "no row has a `split`"),
    ],
)
def test_what_is_asked_wrongly_is_named(
    wrong: tuple[str, ...], code: int, message: str, data: Path, tmp_path: Path
) -> None:
    result = run("train", "--data", data, "--out", tmp_path / "w", *FAST, *wrong)
    assert result.exit_code == code, result.output
    assert message in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "w").exists()
