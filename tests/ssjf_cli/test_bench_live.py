"""`ssjf bench live` on the real services, small: runs, records, resuming, and what ends it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ssjf_bench import live_records, live_work
from ssjf_bench.live_folder import LiveFolder
from ssjf_bench.live_records import Run
from ssjf_bench.replay import Record
from ssjf_cli import live_options, live_services, live_session
from ssjf_cli.live_options import LiveOptions
from ssjf_cli.main import app
from ssjf_cli.process import ServiceProcess
from ssjf_cli.stack import Stack, StackOptions

LENGTHS = (3, 9, 4, 12, 2, 7, 5, 10)
ONE_THREAD = ["--engine-flag=threads=1", "--predictor-flag=threads=1"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Prompts with short answers."""
    rows = [
        {"id": f"p{number}", "prompt": f"Count to {number}.", "model": "m", "response_tokens": n}
        for number, n in enumerate(LENGTHS)
    ]
    path = tmp_path / "lengths.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def live(out: Path, *more: str) -> Result:
    options = ["--max-batch=2", "--policy=fcfs", "--policy=oracle", "--load=2", *more]
    return CliRunner().invoke(app, ["bench", "live", f"--out={out}", *options])


@pytest.mark.service
@pytest.mark.timeout(300)
def test_every_policy_sees_the_same_and_a_second_call_has_nothing_to_run(
    tmp_path: Path, data: Path
) -> None:
    out, summary, plots = (tmp_path / name for name in ("runs", "summary.json", "plots"))
    files = (f"--data={data}", f"--json={summary}", f"--plots={plots}", *ONE_THREAD)
    result = live(out, *files)
    assert result.exit_code == 0, result.output
    fcfs, oracle = (
        live_records.read(out / f"continuous-2-2-{policy}-1.jsonl.gz")
        for policy in ("fcfs", "oracle")
    )
    check_fairness(fcfs, oracle)
    check_header(oracle)
    written = json.loads(summary.read_text())
    assert [each["policy"] for each in written["results"]] == ["fcfs", "oracle"]
    assert written["capacities"]["continuous-2"]["requests_s"] == fcfs.header.capacity_requests_s
    checksums = {each["file"]: each["sha256"] for each in written["records"]}
    assert checksums["continuous-2-2-fcfs-1.jsonl.gz"] == live_records.sha256(
        out / "continuous-2-2-fcfs-1.jsonl.gz"
    )
    assert {path.name for path in plots.iterdir()} == set(written["plots"]) != set()

    again = live(out, *files)
    assert again.exit_code == 0, again.output
    assert "starting" not in again.output
    other = live(out, *files, "--seed=2")
    assert other.exit_code == 1
    assert "seed: 1 there, 2 asked for" in other.output


def check_fairness(*runs: Run) -> None:
    """The same prompts, arrivals, lengths and warm-up, and nothing that a policy alone has."""
    seen = [
        [(row.request_id, row.prompt_id, row.forced_tokens, row.measured) for row in run.rows]
        for run in runs
    ]
    assert seen[1:] == seen[:-1]
    arrivals = [[row.arrival_s for row in run.rows if row.measured] for run in runs]
    assert arrivals[1:] == arrivals[:-1]
    for run in runs:
        assert list(run.header.invalid) == []
        assert {row.output_tokens == row.forced_tokens for row in run.rows} == {True}
        assert sorted(row.output_tokens for row in run.rows if row.measured) == sorted(LENGTHS)
        assert {row.llm for row in run.rows} == {"m"}
    differing = [dict(run.header.flags["gateway"]) for run in runs]
    for flags in differing:
        del flags["policy"]
        flags.pop("oracle_lengths", None)
    assert differing[1:] == differing[:-1]


def check_header(run: Run) -> None:
    header = run.header
    assert header.offered_requests_s == pytest.approx(2 * header.capacity_requests_s)
    assert header.cpu_s.keys() == {"engine", "predictor", "gateway", "generator"}
    assert min(header.cpu_s.values()) > 0
    assert header.flags["engine"]["model_name"] == "m"
    assert header.flags["engine"]["prefix_reuse"] is False
    assert header.facts["bound_violations"] == 0
    assert header.facts["policy_in_force"] == "oracle"
    assert header.facts["kv_tokens"] >= header.facts["kv_tokens_wanted"] > 2 * max(LENGTHS)
    assert header.window_s > 0


class Watching:
    """Watches a session, and kills an engine once the measured window has begun."""

    def __init__(self, victim: ServiceProcess | None = None) -> None:
        self._victim = victim
        self.runs: list[Run] = []

    def begin(self, name: str, extra_requests: int = 0) -> None:
        """Nothing to see."""

    def note(self, text: str) -> None:
        """Nothing is expected to be odd."""
        raise AssertionError(text)

    def advance(self, record: Record) -> None:
        """The first answer of the window is the engine's last."""
        if record.request.request_id.isdigit() and self._victim is not None:
            self._victim.kill()

    def ended(self, run: Run) -> None:
        """Keeps it."""
        self.runs.append(run)


@pytest.mark.service
@pytest.mark.timeout(300)
def test_a_session_goes_on_where_time_ran_out_and_ends_with_a_killed_engine(
    tmp_path: Path, data: Path
) -> None:
    policies = ("fcfs", "ssjf")
    options = LiveOptions(
        data=data, batches=(2,), policies=policies, capacities=("5",), engine={"threads": 1}
    )
    plan, traffic = live_options.plan_of(options)
    work = live_work.work_of(plan, traffic)
    folder = LiveFolder(tmp_path / "runs", plan)
    folder.claim()
    flags = plan.flags
    with Stack(StackOptions(flags["engine"], flags["predictor"], {"policy": "fcfs"})) as stack:
        services = live_services.OwnServices(stack, plan, work)
        first = Watching()
        enough_for_one = iter([1000.0])
        whole = live_session.Session(
            plan, work, folder, services, first, lambda: next(enough_for_one, 0.0)
        ).run(plan.runs)
        assert not whole
        assert [run.header.policy for run in first.runs] == ["fcfs"]
        killing = Watching(stack.process("engine"))
        session = live_session.Session(plan, work, folder, services, killing, lambda: 1000.0)
        with pytest.raises(live_session.Broken, match="ssjf-1: engine: ended by SIGKILL"):
            session.run(folder.missing(plan.runs))
    (run,) = killing.runs
    assert run.header.policy == "ssjf"
    assert run.header.invalid[0] == "engine: ended by SIGKILL"
    assert "requests did not finish" in run.header.invalid[1]
    assert {"OK"} < {row.outcome for row in run.rows}
    assert [folder.counts(planned.name) for planned in plan.runs] == [True, False]


@pytest.mark.service
@pytest.mark.timeout(300)
def test_real_text_is_held_to_the_lengths_of_its_recording(tmp_path: Path) -> None:
    options = LiveOptions(
        real_text=True,
        max_tokens=8,
        jobs=4,
        batches=(2,),
        policies=("fcfs",),
        capacities=("5",),
        engine={"threads": 1},
    )
    plan, traffic = live_options.plan_of(options)
    work = live_work.work_of(plan, traffic)
    folder = LiveFolder(tmp_path / "runs", plan)
    folder.claim()
    # no answer would end by itself after these
    recorded = {each.request_id: 2 + number for number, each in enumerate(work.requests)}
    folder.keep_lengths(recorded)
    watching = Watching()
    flags = plan.flags
    with Stack(StackOptions(flags["engine"], flags["predictor"], {"policy": "fcfs"})) as stack:
        services = live_services.OwnServices(stack, plan, work)
        session = live_session.Session(plan, work, folder, services, watching, lambda: 1000.0)
        assert session.run(plan.runs)
    (run,) = watching.runs
    assert list(run.header.invalid) == []
    measured = [row for row in run.rows if row.measured]
    assert {row.request_id: row.output_tokens for row in measured} == recorded
    assert run.header.facts["lengths_unlike_recording_share"] == 0
    assert {row.forced_tokens for row in run.rows if not row.measured} == {None}


def test_a_gateway_that_runs_is_measured_under_the_policy_that_it_serves(
    tmp_path: Path, stack: Stack
) -> None:
    out, address = tmp_path / "runs", f"--gateway={stack.gateway_address}"
    small = ("--real-text", "--max-tokens=4", "--jobs=5", "--warm-up=1", "--capacity=5")
    held = ["bench", "live", f"--out={tmp_path / 'held'}", address, *small]
    command = ["bench", "live", f"--out={out}", address, *small, "--let-lengths-vary"]
    refused = CliRunner().invoke(app, held)
    assert refused.exit_code == 1
    assert "--let-lengths-vary" in refused.output
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "keeps its settings" in result.output
    (run,) = (live_records.read(path) for path in out.glob("*.jsonl.gz"))
    assert (run.header.run, run.header.policy) == ("continuous-4-0.9-ssjf-1", "ssjf")
    assert run.header.cpu_s.keys() == {"generator"}
    recorded = json.loads((out / "lengths.json").read_text())
    assert {row.request_id: row.output_tokens for row in run.rows if row.measured} == recorded
    other = CliRunner().invoke(app, [*command, "--policy=fcfs"])
    assert other.exit_code == 1
    assert "serves policy ssjf and cannot be restarted" in other.output


INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's is ignored
from ssjf_cli.main import main
main()
"""


@pytest.mark.service
def test_ctrl_c_ends_it_and_its_services(tmp_path: Path, data: Path) -> None:
    arguments = ["bench", "live", f"--out={tmp_path / 'runs'}", f"--data={data}", *ONE_THREAD]
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "starting services …\n"
        while not (services := descendants(process.pid)):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "stopped; the same command goes on\n"
    assert process.returncode == 130
    assert [pid for pid in services if Path(f"/proc/{pid}").exists()] == []


def descendants(pid: int) -> list[int]:
    """What a process has started."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in lists for child in file.read_text().split()]


def test_a_plan_is_shown_and_nothing_is_run_or_written(tmp_path: Path, data: Path) -> None:
    result = live(tmp_path / "runs", f"--data={data}", "--plan", "--capacity=2", "--repeats=2")
    assert result.exit_code == 0, result.output
    shown = [line.split()[0] for line in result.output.splitlines() if "continuous" in line]
    assert shown == [
        "continuous-2-2-fcfs-1",
        "continuous-2-2-oracle-1",
        "continuous-2-2-oracle-2",
        "continuous-2-2-fcfs-2",
    ]
    assert not (tmp_path / "runs").exists()


def test_runs_of_a_plan_can_be_left_to_other_machines(data: Path) -> None:
    plan, _ = live_options.plan_of(LiveOptions(data=data, repeats=2, batches=(2,)))
    chosen = ["continuous-2-0.9-oracle-2", "continuous-2-0.9-ssjf-1"]
    assert {run.name for run in live_options.wanted(plan, chosen)} == set(chosen)
    assert live_options.wanted(plan, []) == list(plan.runs)


def test_no_run_begins_that_would_end_too_late(tmp_path: Path, data: Path) -> None:
    limits = ("--capacity=1", "--seconds-left=5")
    result = live(tmp_path / "runs", f"--data={data}", *limits)
    assert result.exit_code == 75, result.output
    assert "0 of 2 runs done" in result.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "--data FILE"),
        (["--real-text", "--skip=3"], "no trace"),
        (["--real-text", "--policy=sjf"], "no policy 'sjf'"),
        (["--real-text", "--capacity=x"], "REQ_S"),
        (["--real-text", "--engine-flag=threads"], "NAME=VALUE"),
        (["--real-text", "--gateway=127.0.0.1:1"], "gateway 127.0.0.1:1: UNAVAILABLE"),
        (["--data=there-is-none"], "there-is-none"),
        (["--real-text", "--only=fcfs-1"], "--only fcfs-1: the plan has continuous-2"),
    ],
)
def test_what_cannot_be_run_is_said_in_a_line(
    tmp_path: Path, more: Sequence[str], message: str
) -> None:
    result = live(tmp_path / "runs", *more)
    assert result.exit_code == 1
    assert message in result.output
    assert not isinstance(result.exception, ValueError)


def test_answers_of_several_llms_are_refused_until_one_is_chosen(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": name, "prompt": "Hi.", "model": name, "response_tokens": 3} for name in "ab"
    ]
    path = tmp_path / "lengths.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(ValueError, match=r"2 LLMs \(a, b"):
        live_options.plan_of(LiveOptions(data=path))
    plan, traffic = live_options.plan_of(LiveOptions(data=path, llm="b", jobs=4))
    assert plan.llm == plan.flags["engine"]["model_name"] == "b"
    assert {request.llm for request in traffic.requests(traffic.answered())} == {"b"}


def test_settings_of_services_are_values_or_switches() -> None:
    given = ["kv-tokens=512", "cuda_graphs=false", "prefix_reuse=True"]
    assert live_options.flags_of(given) == {
        "kv_tokens": "512",
        "cuda_graphs": False,
        "prefix_reuse": True,
    }


@pytest.mark.parametrize("real_text", [True, False])
@pytest.mark.parametrize("hold_lengths", [True, False])
def test_lengths_are_held_for_real_text_alone(
    data: Path, real_text: bool, hold_lengths: bool
) -> None:
    options = LiveOptions(data=data, real_text=real_text, hold_lengths=hold_lengths)
    plan, _ = live_options.plan_of(options)
    assert plan.hold_lengths is (real_text and hold_lengths)


def test_real_text_takes_every_prompt_once_and_forces_nothing_before_its_recording(
    tmp_path: Path,
) -> None:
    rows = [
        {"id": f"{prompt}{llm}", "prompt": prompt, "model": llm, "response_tokens": 3}
        for prompt in ("Hi.", "Ho.")
        for llm in "ab"
    ]
    path = tmp_path / "lengths.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    plan, traffic = live_options.plan_of(LiveOptions(data=path, real_text=True))
    work = live_work.work_of(plan, traffic)
    assert sorted(request.prompt for request in work.requests) == ["Hi.", "Ho."]
    assert {request.output_tokens for request in (*work.requests, *work.warm_up)} == {None}
    assert {request.max_tokens for request in work.requests} == {1024}
    assert len({request.request_id for request in (*work.requests, *work.warm_up)}) == 18
