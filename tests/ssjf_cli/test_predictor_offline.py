from __future__ import annotations

import json
from pathlib import Path

import pytest

from predictor_svc.loaded import ModelRefused
from predictor_svc.model_dir import ModelDirError
from predictor_svc.training.data import read_examples
from predictor_svc.training.seen import save_seen
from ssjf_bench.lengths import Answered
from ssjf_cli import predictor_offline
from tests.predictor_svc.small_model import Graph, write_model

ROWS = [Answered(str(n), f"Write {n} words about bears.", (), "", 5) for n in range(300)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ssjf"


def test_rows_have_their_first_sample(tmp_path: Path) -> None:
    path = tmp_path / "lengths.jsonl"
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    lines = [
        {"id": "a", "prompt": "one", "model": "m", "native_samples": [7, 9], "turns": turns},
        {"id": "b", "prompt": "two", "response_tokens": 0},
        {"id": "c", "prompt": "three", "response_tokens": 500},
        {"id": "d", "prompt": "four", "response_tokens": None},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    said = (("user", "Hello"), ("assistant", "Hi"))
    first = Answered("a", "one", said, "m", 7)
    second = Answered("b", "two", (), "", 1)
    third = Answered("c", "three", (), "", 500)
    assert predictor_offline.read_answered(path) == [first, second, third]
    assert predictor_offline.read_answered(path, longest_tokens=499) == [first, second]


def test_rows_of_one_llm_and_part_can_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "lengths.jsonl"
    lines = [
        {"id": "a", "prompt": "one", "model": "m", "response_tokens": 5, "split": "test"},
        {"id": "b", "prompt": "one", "model": "n", "response_tokens": 6, "split": "test"},
        {"id": "c", "prompt": "two", "model": "m", "response_tokens": 7, "split": "train"},
        {"id": "d", "prompt": "two", "source": "s", "response_tokens": 8},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    whole = predictor_offline.read_answered(path)
    assert [row.source for row in whole] == ["", "", "", "s"]
    named = predictor_offline.read_answered(path, llm="m")
    assert [row.prompt_id for row in named] == ["a", "c"]
    held_out = predictor_offline.read_answered(path, llm="m", split="test")
    assert [row.prompt_id for row in held_out] == ["a"]


def test_what_a_model_was_trained_on_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lengths.jsonl"
    lines = [{"id": text, "prompt": text, "response_tokens": 5} for text in ("one", "two")]
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    save_seen(read_examples([path])[:1], tmp_path)
    unseen = predictor_offline.read_answered(path, unseen_by=tmp_path)
    assert [row.prompt_id for row in unseen] == ["two"]
    with pytest.raises(ModelDirError, match="seen"):
        predictor_offline.read_answered(path, unseen_by=tmp_path / "nowhere")


def test_every_prompt_is_predicted_with_its_p90(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "revision-1")
    said: list[str] = []
    found = predictor_offline.predict(tmp_path / "model", ROWS, "cpu", said.append)
    assert len(found.tokens) == 300
    assert len(set(found.tokens)) > 1
    assert found.p90_tokens is not None
    assert all(p90 > 0 for p90 in found.p90_tokens)
    assert "revision-1" in found.origin
    assert len(said) == 2


def test_what_was_predicted_is_not_predicted_again(tmp_path: Path, cache: Path) -> None:
    write_model(tmp_path / "model", "revision-1")
    said: list[str] = []
    first = predictor_offline.predict(tmp_path / "model", ROWS[:200], "cpu", said.append)
    again = predictor_offline.predict(tmp_path / "model", ROWS[:200], "cpu", said.append)
    assert again == first
    assert len(said) == 1
    more = predictor_offline.predict(tmp_path / "model", ROWS, "cpu", said.append)
    assert more.tokens[:200] == first.tokens
    assert len(said) == 2
    assert [path.suffix for path in cache.iterdir()] == [".json"]


def test_another_revision_predicts_anew(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "revision-1")
    first = predictor_offline.predict(tmp_path / "model", ROWS[:9], "cpu", print)
    write_model(tmp_path / "model", "revision-2", Graph(seed=9))
    assert predictor_offline.predict(tmp_path / "model", ROWS[:9], "cpu", print) != first


def test_a_torn_cache_is_made_anew(tmp_path: Path, cache: Path) -> None:
    write_model(tmp_path / "model", "revision-1")
    first = predictor_offline.predict(tmp_path / "model", ROWS[:9], "cpu", print)
    (store,) = cache.iterdir()
    store.write_text(store.read_text()[:40])
    assert predictor_offline.predict(tmp_path / "model", ROWS[:9], "cpu", print) == first


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"model\.json"):
        predictor_offline.predict(tmp_path, ROWS[:1], "cpu", print)
