"""`ssjf predictor collect | convert` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from ssjf_cli import predictor_data

app = typer.Typer()
app.command()(predictor_data.collect)
app.command()(predictor_data.convert)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def line(result: Result) -> str:
    """What is printed, without the breaks of narrow terminals."""
    return " ".join(result.output.split())


def test_convert_writes_rows_and_says_what_it_left_out(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "Hi, how are you?"}, {"from": "gpt", "value": "Very well."}]
    source, out = tmp_path / "talks.json", tmp_path / "rows.jsonl"
    source.write_text(json.dumps([{"id": "a", "conversations": talk}, {"conversations": talk[:1]}]))
    result = run("convert", source, "--from", "sharegpt", "--out", out, "--model", "chat")
    assert result.exit_code == 0, result.output
    assert "2 conversations, 1 rows in" in line(result)
    assert "left out 1 for no question with an answer" in line(result)
    (row,) = map(json.loads, out.read_text().splitlines())
    assert (row["model_name"], row["response_length"]) == ("chat", 3)


def test_convert_takes_lengths_that_are_published(tmp_path: Path) -> None:
    source, out = tmp_path / "test.json", tmp_path / "out.jsonl"
    entry = {"prompt_id": "p", "model": "org--llm", "dataset": "Mbpp", "prompt_text": "Hello"}
    source.write_text(json.dumps([entry | {"output_sizes": "[3, 4]"}]))
    result = run("convert", source, "--from", "castillo", "--out", out)
    assert result.exit_code == 0, result.stderr
    assert json.loads(out.read_text())["response_samples"] == [3, 4]
    counted = run("convert", source, "--from", "castillo", "--out", out, "--tokenizer", source)
    assert counted.exit_code == 2
    assert "no --tokenizer" in line(counted)


def test_convert_of_a_malformed_file_is_one_line(tmp_path: Path) -> None:
    source = tmp_path / "talks.json"
    source.write_text('[{"conversations": []}, 3]')
    result = run("convert", source, "--from", "sharegpt", "--out", tmp_path / "out.jsonl")
    assert result.exit_code == 1
    assert "talks.json:entry 2: expected a JSON object" in line(result)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("services", [(), ("--engine", "a:1", "--gateway", "b:2")])
def test_collect_wants_one_service(tmp_path: Path, services: tuple[str, ...]) -> None:
    result = run("collect", "--prompts", tmp_path / "p", "--out", tmp_path / "o", *services)
    assert result.exit_code == 2


def test_collect_from_no_engine_is_one_line(tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.csv", tmp_path / "out.jsonl"
    prompts.write_text("prompt_content\nHello?\n")
    result = run("collect", "--engine", "127.0.0.1:9", "--prompts", prompts, "--out", out)
    assert result.exit_code == 1
    assert "1 prompts, 0 of them in" in line(result)
    assert "ssjf predictor: engine at 127.0.0.1:9: UNAVAILABLE" in line(result)


def test_collect_into_a_file_that_cannot_be_appended_to_is_refused(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt_content\nHello?\n")
    for name in ("out.jsonl.gz", "out.csv"):
        result = run("collect", "--engine", "x:9", "--prompts", prompts, "--out", tmp_path / name)
        assert result.exit_code == 1
        assert "must be plain .jsonl" in line(result)
