from __future__ import annotations

from pathlib import Path

import pytest

from ssjf_bench import workload
from ssjf_bench.workload import Prompt, Workload, WorkloadError

GOOD = '{"prompt_id": "a", "category": "list", "prompt": "Name three"}'
PROMPTS = (Prompt("a", "list", "Name three"), Prompt("b", "code", "Sort it"))


def requests() -> tuple[workload.Request, ...]:
    return workload.requests(PROMPTS, max_tokens=8, temperature=0.7, first_seed=100)


def test_the_shipped_prompts_are_many_and_of_many_kinds() -> None:
    prompts = workload.shipped_prompts()
    assert len(prompts) >= 40
    assert len({prompt.category for prompt in prompts}) >= 5


def test_blank_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f"{GOOD}\n\n", encoding="utf-8")
    assert workload.read_prompts(path) == (PROMPTS[0],)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "Expecting property name"),
        ("[]", "not a JSON object"),
        ('{"prompt_id": "b", "category": "list"}', "prompt must be a non-empty string"),
        ('{"prompt_id": "b", "category": "list", "prompt": ""}', "prompt must be a non-empty"),
        ('{"prompt_id": 7, "category": "list", "prompt": "x"}', "prompt_id must be a non-empty"),
        (GOOD, "prompt_id 'a' occurs twice"),
    ],
)
def test_a_bad_line_is_named_with_its_file(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f"{GOOD}\n{line}\n", encoding="utf-8")
    with pytest.raises(WorkloadError) as caught:
        workload.read_prompts(path)
    assert str(caught.value).startswith(f"{path}:2: {problem}")


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_a_file_without_prompts_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "prompts.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WorkloadError, match=str(path)):
        workload.read_prompts(path)


def test_each_request_has_a_seed_of_its_own() -> None:
    assert [request.seed for request in requests()] == [100, 101]


def test_a_burst_arrives_at_once_in_the_given_order() -> None:
    load = workload.burst(requests())
    assert load.arrivals_s == (0.0, 0.0)
    assert [request.request_id for request in load.requests] == ["a", "b"]


def test_poisson_arrivals_repeat_with_their_seed_and_differ_without() -> None:
    first = workload.poisson(requests(), rate_per_s=2.0, seed=1)
    assert first == workload.poisson(requests(), rate_per_s=2.0, seed=1)
    assert first != workload.poisson(requests(), rate_per_s=2.0, seed=2)


def test_poisson_arrivals_have_the_rate_asked_for() -> None:
    many = requests() * 5_000
    assert workload.poisson(many, rate_per_s=4.0, seed=3).arrivals_s[-1] == pytest.approx(
        len(many) / 4.0, rel=0.05
    )


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="rate_per_s"):
        workload.poisson(requests(), rate_per_s=0.0, seed=1)


@pytest.mark.parametrize("arrivals_s", [(0.0,), (1.0, 0.5)])
def test_arrivals_that_do_not_fit_the_requests_are_refused(arrivals_s: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="arrivals_s"):
        Workload(requests(), arrivals_s)
