from dataclasses import replace

import pytest

from ssjf_bench import live_plan
from ssjf_bench.live_plan import Choice, Engine, Plan, PlannedRun, parse_choice

PLAN = Plan(
    arrivals="poisson",
    prompts="castillo.jsonl.gz",
    checksums={"castillo.jsonl.gz": "abc"},
    modes=("continuous",),
    batches=(16,),
    loads=(0.9,),
    policies=("fcfs", "ssjf", "oracle"),
)


def test_a_policy_with_its_settings_is_read_and_named() -> None:
    choice = parse_choice("bounded-ssjf:alpha=1.3")
    assert choice == Choice("bounded-ssjf", {"alpha": 1.3})
    assert choice.label == "bounded-ssjf:alpha=1.3"
    assert parse_choice("default").label == "default"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sjf", "no policy 'sjf'; there are: bounded-ssjf"),
        ("ssjf:alpha", "OPTION=VALUE"),
        ("ssjf:alpha=x", "OPTION=VALUE"),
        ("ssjf:gamma=1", "no gamma"),
        ("ssjf:alpha=0.5", "alpha must be at least 1"),
    ],
)
def test_a_policy_that_there_is_not_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_choice(text)


def test_policies_alternate_and_their_order_turns_with_each_repeat() -> None:
    runs = replace(PLAN, repeats=3).runs
    assert [run.choice.policy for run in runs] == [
        *("fcfs", "ssjf", "oracle"),
        *("ssjf", "oracle", "fcfs"),
        *("oracle", "fcfs", "ssjf"),
    ]
    assert [run.repeat for run in runs] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_repeat_is_whole_before_the_next_begins() -> None:
    plan = replace(PLAN, loads=(0.5, 0.9), policies=("fcfs", "ssjf"), repeats=2)
    assert [run.name for run in plan.runs] == [
        "continuous-16-0.5-fcfs-1",
        "continuous-16-0.5-ssjf-1",
        "continuous-16-0.9-fcfs-1",
        "continuous-16-0.9-ssjf-1",
        "continuous-16-0.5-ssjf-2",
        "continuous-16-0.5-fcfs-2",
        "continuous-16-0.9-ssjf-2",
        "continuous-16-0.9-fcfs-2",
    ]


def test_names_are_names_of_files() -> None:
    run = replace(PLAN, policies=("tail-ssjf:tail=1.2,alpha=inf",)).runs[0]
    assert run.name == "continuous-16-0.9-tail-ssjf-tail-1.2-alpha-inf-1"


def test_mode_none_is_run_once_whatever_the_batches() -> None:
    plan = replace(PLAN, modes=("none", "dynamic"), batches=(4, 16))
    assert plan.engines == (Engine("none", 1), Engine("dynamic", 4), Engine("dynamic", 16))
    assert plan.most_places == 16
    assert [plan.warm_up_requests(engine) for engine in plan.engines] == [1, 4, 16]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loads": (0.0,)}, "load must be positive"),
        ({"loads": ()}, "at least one"),
        ({"repeats": 0}, "repeats"),
        ({"modes": ("static",)}, "static"),
        ({"policies": ("fcfs", "fcfs")}, "fcfs .* twice"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PLAN, **changes)  # type: ignore[arg-type]


def test_equal_plans_have_one_digest_and_others_another() -> None:
    assert replace(PLAN).digest == PLAN.digest
    assert replace(PLAN, seed=2).digest != PLAN.digest
    assert replace(PLAN, modes=["continuous"]).digest == PLAN.digest


def test_what_differs_between_two_plans_is_said() -> None:
    other = replace(PLAN, seed=2, flags={"engine": {"threads": 2}})
    mine = replace(PLAN, flags={"engine": {"threads": 1}})
    assert live_plan.differences(mine.to_json(), other.to_json()) == [
        "flags.engine.threads: 1 there, 2 asked for",
        "seed: 1 there, 2 asked for",
    ]
    assert live_plan.differences(PLAN.to_json(), PLAN.to_json()) == []


def test_a_window_takes_its_arrivals_or_its_work_whichever_is_longer() -> None:
    below, above = (
        PlannedRun(Engine("continuous", 2), load, Choice("fcfs"), 1) for load in (0.9, 1.5)
    )
    assert live_plan.predicted_s(90, below, capacity_requests_s=1.0) == 108
    assert live_plan.predicted_s(90, above, capacity_requests_s=1.0) == 98
