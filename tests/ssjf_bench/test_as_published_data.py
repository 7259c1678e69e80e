"""The paper's published predictions, and stand-ins for those that are not public."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest

from ssjf_bench.as_published_data import (
    PublishedDataError,
    from_tau,
    published,
    read_lengths,
    read_training,
)
from ssjf_bench.sim_predictions import kendall_tau_b


def lengths(jobs: int = 400) -> np.ndarray:
    draw = random.Random(1)
    return np.array([draw.randint(1, 500) for _ in range(jobs)])


def test_lengths_and_every_predictor_are_read(tmp_path: Path) -> None:
    path = tmp_path / "lengths.csv.gz"
    text = "row,output_tokens,pred_binary,note,pred_reg\n0,40,0,x,38.5\n1,0,1,y,90\n"
    path.write_bytes(gzip.compress(text.encode()))
    actual, said = read_lengths(path)
    assert actual.tolist() == [40, 1]
    assert {name: each.tolist() for name, each in said.items()} == {
        "binary": [0, 1],
        "reg": [38.5, 90],
    }


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("tokens,pred_a\n1,0\n2,1\n", "no column 'output_tokens'"),
        ("output_tokens,pred_a\n1,0\n2,long\n", "long"),
        ("output_tokens,pred_a\n1,0\n2,nan\n", "numbers"),
        ("output_tokens,pred_a\n1,0\n", "fewer than two"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "lengths.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PublishedDataError, match=f"{path}.*{what}"):
        read_lengths(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PublishedDataError, match=r"nowhere\.csv"):
        read_lengths(tmp_path / "nowhere.csv")


def test_a_class_stands_for_its_median_length() -> None:
    actual = np.array([10, 20, 90, 100, 500])
    predictor = published("binary", np.array([0.0, 0, 1, 1, 1]), actual)
    assert predictor.tokens.tolist() == [15, 15, 100, 100, 100]
    assert 0 < predictor.tau_b < 1


def test_predicted_tokens_stand_for_themselves() -> None:
    actual = lengths()
    said = actual * 1.5 - 1
    predictor = published("regression", said, actual)
    assert predictor.tokens == pytest.approx(np.maximum(said, 1))
    assert predictor.tau_b == pytest.approx(1)


def test_noise_has_the_tau_of_the_training() -> None:
    actual = lengths()
    predictor = from_tau("pairwise", 0.4, actual, seed=1)
    assert kendall_tau_b(predictor.tokens, actual.tolist()) == pytest.approx(0.4, abs=0.01)


def test_a_training_that_learnt_nothing_gives_a_random_order() -> None:
    actual = lengths()
    predictor = from_tau("regression", -0.02, actual, seed=1)
    assert abs(kendall_tau_b(predictor.tokens, actual.tolist())) < 0.1
    assert sorted(predictor.tokens) == sorted(actual)
    assert "-0.020" in predictor.origin


def test_a_training_says_its_recipe_and_tau(tmp_path: Path) -> None:
    path = tmp_path / "training.json"
    path.write_text(json.dumps({"recipe": "ssjf-x", "test": {"kendall_tau_b": 0.4}}))
    assert read_training(path) == ("ssjf-x", 0.4)


@pytest.mark.parametrize("text", ["{}", "no JSON", '{"recipe": "a", "test": []}'])
def test_what_is_no_training_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "training.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PublishedDataError, match="not the result of a training"):
        read_training(path)
