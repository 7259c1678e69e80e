from __future__ import annotations

from typing import Any

import pytest

from predictor_svc.training.options import PAPER, RECIPES, OptionError, TrainOptions, with_settings
from predictor_svc.training.tasks import BINARY, MULTICLASS, TASKS


def changed(name: str) -> dict[str, Any]:
    """What a recipe has other than the paper's."""
    paper, own = PAPER.model_dump(), RECIPES[name].options.model_dump()
    return {key: value for key, value in own.items() if value != paper[key]}


def test_the_paper_s_recipe_has_the_paper_s_numbers() -> None:
    assert PAPER.model_dump(
        include={
            *("epochs", "batch_size", "learning_rate", "head_learning_rate", "warmup_share"),
            *("freeze_after_epochs", "keep_best_epoch", "max_tokens", "head_tokens"),
            *("head", "hidden", "pooling", "adapter_rank", "turns"),
        }
    ) == {
        **{"epochs": 6, "batch_size": 16, "learning_rate": 1e-5, "head_learning_rate": 1e-5},
        **{"warmup_share": 0, "freeze_after_epochs": 3, "keep_best_epoch": False},
        **{"max_tokens": 512, "head_tokens": 0, "turns": True},
        **{"head": "ssjf", "hidden": 128, "pooling": "cls", "adapter_rank": 0},
    }


def test_every_task_of_the_paper_has_the_paper_s_recipe() -> None:
    own = [name for name in TASKS if name != "distribution"]
    assert {name: (RECIPES[f"ssjf-{name}"].task, changed(f"ssjf-{name}")) for name in own} == {
        name: (name, {}) for name in own
    }


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("ssjf-tiny", {"layers": 2}),
        ("ssjf-single-round", {"turns": False}),
        ("ssjf-head-tail", {"head_tokens": 128}),
        ("ssjf-all-llms", {"llm": "head"}),
    ],
)
def test_the_paper_s_variants_differ_in_one_thing(recipe: str, options: dict[str, Any]) -> None:
    assert RECIPES[recipe].task == "multiclass"
    assert changed(recipe) == options


def test_the_paper_s_classes_are_bounded_by_its_percentiles() -> None:
    assert BINARY == (0.5, 0.99)
    assert MULTICLASS == (0.25, 0.5, 0.75, 0.99)


def test_every_recipe_is_of_a_task_there_is() -> None:
    assert {recipe.task for recipe in RECIPES.values()} == set(TASKS)


def test_settings_change_what_they_name_alone() -> None:
    settings = ["epochs=3", "learning_rate=2e-5", "keep_best_epoch=true", "pooling=mean"]
    wanted = {"epochs": 3, "learning_rate": 2e-5, "keep_best_epoch": True, "pooling": "mean"}
    assert with_settings(PAPER, settings) == PAPER.model_copy(update=wanted)


def test_none_takes_a_number_away_and_hides_the_llm() -> None:
    reads = PAPER.model_copy(update={"llm": "head", "rows_an_epoch": 4})
    changed = with_settings(
        reads, ["freeze_after_epochs=none", "rows_an_epoch=none", "llm=none", "marks=none"]
    )
    assert changed.marks == "none"
    assert (changed.freeze_after_epochs, changed.rows_an_epoch, changed.llm) == (None, None, "none")


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("epochs=0", "epochs: "),
        ("epochs=1.5", "epochs: "),
        ("epochs=none", "epochs: "),
        ("batch_size=1", "batch_size: "),
        ("learning_rate=-1", "learning_rate: "),
        ("learning_rate=nan", "learning_rate: "),
        ("head_learning_rate=inf", "head_learning_rate: "),
        ("weight_decay=-0.1", "weight_decay: "),
        ("warmup_share=1", "warmup_share: "),
        ("freeze_after_epochs=-1", "freeze_after_epochs: "),
        ("keep_best_epoch=perhaps", "keep_best_epoch: "),
        ("dropout=1", "dropout: "),
        ("clip_norm=0", "clip_norm: "),
        ("backbone=", "backbone: "),
        ("layers=0", "layers: "),
        ("adapter_rank=-1", "adapter_rank: "),
        ("pooling=max", "pooling: "),
        ("head=none", "head: "),
        ("hidden=0", "hidden: "),
        ("max_tokens=513", "max_tokens: "),
        ("max_tokens=7", "max_tokens: "),
        ("head_tokens=-1", "head_tokens: "),
        ("head_tokens=254", "head_tokens: leaves no room"),
        ("turns=2", "turns: "),
        ("marks=colour", "marks: "),
        ("llm=body", "llm: "),
        ("rows_a_prompt=0", "rows_a_prompt: "),
        ("rows_a_prompt=2", "rows_a_prompt: more than 1 needs llm=head"),
        ("rows_an_epoch=0", "rows_an_epoch: "),
        ("llm_dropout=0.1", "llm_dropout: no LLM is read"),
        ("llm_dropout=1", "llm_dropout: "),
        ("epoch=3", "epoch=3: expected NAME=VALUE with a name of: epochs, "),
        ("epochs", "epochs: expected NAME=VALUE"),
        ("", ": expected NAME=VALUE"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(setting: str, named: str) -> None:
    with pytest.raises(OptionError) as refused:
        with_settings(TrainOptions(), ["hidden=8", setting])
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)


def test_every_option_has_a_wrong_value_above() -> None:
    (mark,) = test_a_wrong_setting_is_named_in_one_line.pytestmark  # type: ignore[attr-defined]
    assert {setting.partition("=")[0] for setting, _ in mark.args[1]} >= set(
        TrainOptions.model_fields
    )
