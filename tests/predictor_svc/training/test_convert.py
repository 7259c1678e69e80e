"""The published forms, in small files of our own text."""

from __future__ import annotations

import gzip
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from predictor_svc.encoder import Turn
from predictor_svc.training.convert import Converted, Wanted, convert, rounds
from predictor_svc.training.data import DataError, read_examples

TALK = [
    {"role": "user", "content": "Name a river."},
    {"role": "assistant", "content": "the Elbe"},
    {"role": "user", "content": "And a longer one?"},
    {"role": "assistant", "content": "the river Danube"},
]
LMSYS = [
    {"conversation_id": "c1", "model": "llm-a", "conversation": TALK, "language": "English"},
    {"conversation_id": "c2", "model": "llm-b", "conversation": TALK[:2], "language": "English"},
]
SHAREGPT = [
    {
        "id": "s1",
        "conversations": [
            {"from": "human", "value": "Count to three."},
            {"from": "gpt", "value": "one two three"},
            {"from": "human", "value": "Go on."},
            {"from": "gpt", "value": " "},
        ],
    },
    {"id": "s2", "conversations": [{"from": "gpt", "value": "an answer without a question"}]},
]
ALPACA = [
    {"instruction": "Add the numbers.", "input": "2 and 3", "output": "that is five"},
    {"instruction": "Say yes.", "input": "", "output": "yes"},
]


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A tokenizer of which every word is a token, and which would cut at two."""
    path = tmp_path / "tokenizer.json"
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9, pad_id=0, pad_token="?")  # noqa: S106
    tokenizer.save(str(path))
    return path


def write(path: Path, entries: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        arrow, parquet = (importlib.import_module(f"pyarrow{x}") for x in ("", ".parquet"))
        parquet.write_table(arrow.Table.from_pylist(entries), path, row_group_size=1)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    else:
        path.write_text(json.dumps(entries, indent=1))
    return path


def converted(
    form: str, path: Path, words: Path, wanted: Wanted | None = None
) -> tuple[list[dict[str, Any]], Converted]:
    out = path.with_name("out.jsonl")
    done = convert(form, [path], out, words, wanted or Wanted(), lambda _: None)
    return [json.loads(line) for line in out.read_text().splitlines()], done


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.json"])
def test_lmsys_first_rounds(tmp_path: Path, words: Path, name: str) -> None:
    rows, done = converted("lmsys-chat-1m", write(tmp_path / name, LMSYS), words)
    assert rows[0] == {
        "prompt_id": "c1/1",
        "conversation_id": "c1",
        "source": "lmsys-chat-1m",
        "model_name": "llm-a",
        "prompt_content": "Name a river.",
        "turns": [],
        "response_length": 2,
    }
    assert [row["model_name"] for row in rows] == ["llm-a", "llm-b"]
    assert (done.conversations, done.rows) == (2, 2)


def test_all_rounds_stand_with_the_turns_before_them(tmp_path: Path, words: Path) -> None:
    path = write(tmp_path / "a.jsonl", LMSYS)
    rows, _ = converted("lmsys-chat-1m", path, words, Wanted(rounds="all", model="llm-a"))
    assert [row["prompt_id"] for row in rows] == ["c1/1", "c1/2"]
    assert rows[1]["turns"] == TALK[:2]
    assert rows[1]["prompt_content"] == "And a longer one?"
    assert rows[1]["response_length"] == 3


def test_only_the_last_turns_are_written(tmp_path: Path, words: Path) -> None:
    path = write(tmp_path / "a.jsonl", LMSYS[:1])
    for count in (0, 1):
        rows, _ = converted("lmsys-chat-1m", path, words, Wanted("all", max_turns=count))
        assert rows[1]["turns"] == TALK[2 - count : 2]


def test_one_llm_can_be_picked(tmp_path: Path, words: Path) -> None:
    path = write(tmp_path / "a.jsonl", LMSYS)
    rows, done = converted("lmsys-chat-1m", path, words, Wanted(model="llm-b"))
    assert [row["conversation_id"] for row in rows] == ["c2"]
    assert done.skipped == {"another LLM": 1}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_sharegpt(tmp_path: Path, words: Path, name: str) -> None:
    path = write(tmp_path / name, SHAREGPT)
    rows, done = converted("sharegpt", path, words, Wanted("all", model="chat"))
    assert [(row["prompt_content"], row["response_length"]) for row in rows] == [
        ("Count to three.", 3)
    ]
    assert rows[0]["model_name"] == "chat"
    assert done.skipped == {"empty answer": 1, "no question with an answer": 1}


def test_sharegpt_without_ids_gets_some(tmp_path: Path, words: Path) -> None:
    entry = {"conversations": SHAREGPT[0]["conversations"]}
    rows, _ = converted("sharegpt", write(tmp_path / "a.json", [entry, entry]), words)
    assert [row["conversation_id"] for row in rows] == ["a-1", "a-2"]


def test_alpaca(tmp_path: Path, words: Path) -> None:
    rows, _ = converted("alpaca", write(tmp_path / "a.json", ALPACA), words)
    assert [row["prompt_content"] for row in rows] == ["Add the numbers.\n\n2 and 3", "Say yes."]
    assert [row["response_length"] for row in rows] == [3, 1]
    assert [row["prompt_id"] for row in rows] == ["a-1", "a-2"]


def test_what_is_written_is_data_to_train_on(tmp_path: Path, words: Path) -> None:
    out = tmp_path / "out.jsonl.gz"
    path = write(tmp_path / "a.jsonl", LMSYS)
    convert("lmsys-chat-1m", [path, path], out, words, Wanted("all"), lambda _: None)
    assert gzip.decompress(out.read_bytes()).count(b"\n") == 6
    examples = read_examples([out])
    assert examples[1].conversation == "c1"
    assert examples[1].prompt.text.turns[1] == Turn("assistant", "the Elbe")


def test_messages_of_one_side_in_a_row_are_one() -> None:
    talk = [
        Turn("assistant", "Welcome."),
        *(Turn("user", text) for text in ("One", "two")),
        *(Turn("assistant", text) for text in ("three", "four")),
    ]
    (only,) = rounds(talk)
    assert (only.prompt, only.answer) == ("One\ntwo", "three\nfour")
    assert only.turns == (Turn("assistant", "Welcome."),)


@pytest.mark.parametrize(
    ("form", "entries", "message"),
    [
        ("lmsys-chat-1m", [LMSYS[0], {"conversation_id": "c", "model": "m"}], "'conversation': m"),
        ("lmsys-chat-1m", [LMSYS[0], {**LMSYS[1], "model": None}], "'model': missing"),
        ("lmsys-chat-1m", [LMSYS[0], {**LMSYS[1], "conversation": "x"}], "expected a list"),
        ("sharegpt", [SHAREGPT[0], {"conversations": [{"value": "x"}]}], "message 1: role none"),
        (
            "sharegpt",
            [SHAREGPT[0], {"conversations": [{"from": "owl", "value": "x"}]}],
            "message 1: role 'owl'",
        ),
        ("sharegpt", [SHAREGPT[0], {"conversations": [{"from": "gpt", "value": 3}]}], "text"),
        ("alpaca", [ALPACA[0], {"instruction": "x"}], "column 'output': missing"),
    ],
)
def test_a_malformed_entry_is_named_and_nothing_is_written(
    tmp_path: Path, words: Path, form: str, entries: list[dict[str, Any]], message: str
) -> None:
    for name, place in (("a.json", "entry 2"), ("a.jsonl", "2")):
        path = write(tmp_path / name, entries)
        with pytest.raises(DataError, match=rf"{name}:{place}: .*{message}"):
            converted(form, path, words)
        assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet"])
def test_a_broken_file_is_named(tmp_path: Path, words: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b'[{"id": \n oops' if name == "a.json" else b"\x80oops")
    with pytest.raises(DataError, match=name):
        converted("sharegpt", path, words)
    with pytest.raises(DataError, match="nowhere"):
        converted("sharegpt", tmp_path / f"nowhere{path.suffix}", words)


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", LMSYS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="ssjf\\[convert\\]"):
        converted("lmsys-chat-1m", path, words)


def test_what_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", ALPACA)
    with pytest.raises(DataError, match=r"a\.json: no tokenizer"):
        converted("alpaca", path, path)
