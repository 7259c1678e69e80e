from __future__ import annotations

from pathlib import Path

import pytest

from gateway_svc.assembly import build_ordering
from gateway_svc.config import GatewaySettings
from gateway_svc.scheduling.policies.oracle import Oracle
from ssjf.wire.run import StartupError, load_settings


def load(*arguments: str) -> GatewaySettings:
    return load_settings("gateway_svc", GatewaySettings, list(arguments))


def test_the_defaults_are_valid() -> None:
    settings = load()
    assert (settings.port, settings.policy, settings.max_queued) == (50051, "default", 1024)
    assert settings.engine_addresses == ("127.0.0.1:50053",)
    assert settings.predictor_address == "127.0.0.1:50052"


def test_the_environment_sets_and_a_flag_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSJF_GATEWAY_POLICY", "fcfs")
    monkeypatch.setenv("SSJF_GATEWAY_MAX_QUEUED", "7")
    settings = load("--max-queued", "9")
    assert (settings.policy, settings.max_queued) == ("fcfs", 9)


def test_engines_are_a_list() -> None:
    settings = load("--engines", "a:1, [::1]:2,")
    assert settings.engine_addresses == ("a:1", "[::1]:2")


def test_the_predictor_can_be_left_out() -> None:
    assert load("--predictor", "none").predictor_address is None


@pytest.mark.parametrize(
    "value", ["predictor:50052", "10.0.0.1:1,10.0.0.2:1", "[::1]:1, [::1]:2", "127.0.0.1:1"]
)
def test_predictors_are_a_name_or_a_list_of_addresses(value: str) -> None:
    assert load("--predictor", value).predictor_address == value


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        (
            "--policy",
            "longest",
            "there are: default, bounded-ssjf, fcfs, hrrn, oracle, ssjf,",
        ),
        ("--engines", " , ", "at least one host:port"),
        ("--engines", "a:1,b", "'b' is not host:port"),
        ("--engines", "a:1,b:2, a:1", "listed twice"),
        ("--engines", "a:0", "'a:0' is not host:port"),
        ("--engines", "a:65536", "'a:65536' is not host:port"),
        ("--predictor", ",", "at least one host:port"),
        ("--predictor", "somewhere", "'somewhere' is not host:port"),
        ("--predictor", "10.0.0.1:1,somewhere", "'somewhere' is not host:port"),
        ("--predictor", "10.0.0.1:1,there:1", "or one name for all: 'there'"),
        ("--predictor", "10.0.0.1:1,[::1]:1", "all IPv4, or all IPv6"),
        ("--port", "70000", "65535"),
        ("--max-queued", "0", "greater than or equal to 1"),
        ("--queue-timeout-s", "0", "greater than 0"),
        ("--queue-timeout-s", "nan", "finite"),
        ("--prediction-budget-ms", "-1", "greater than or equal to 0"),
        ("--prior-tokens", "nan", "less than or equal to 1000000"),
        ("--decode-token-ms", "0", "greater than 0"),
        ("--default-max-tokens", "4294967296", "less than or equal to 1000000"),
        ("--stall-timeout-s", "inf", "less than or equal to 3600"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_2_and_is_named(
    flag: str, value: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        load(flag, value)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"gateway_svc: {flag} (SSJF_GATEWAY_")
    assert says in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--policy", "oracle"), "need --benchmark"),
        (("--oracle-lengths", "lengths.json"), "need --benchmark"),
        (("--policy", "oracle", "--benchmark"), "needs --oracle-lengths FILE"),
    ],
)
def test_the_oracle_is_for_benchmarks_with_lengths_only(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        load(*arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def oracle(path: Path) -> GatewaySettings:
    return load("--policy", "oracle", "--benchmark", "--oracle-lengths", str(path))


def test_the_oracles_lengths_are_read_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "lengths.json"
    path.write_text('{"r1": 5}')
    policy = build_ordering(oracle(path)).policy._configured
    assert isinstance(policy, Oracle)
    assert policy._lengths == {"r1": 5}


@pytest.mark.parametrize(
    "text", ["[1]", "{", '{"r1": 0}', '{"r1": 1.5}', '{"r1": true}', '{"r1": "1"}', "\xff"]
)
def test_lengths_that_are_none_stop_the_start_with_a_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lengths.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(StartupError, match=r"--oracle-lengths .*lengths.json: "):
        build_ordering(oracle(path))


def test_a_missing_file_of_lengths_stops_the_start_with_a_line(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="No such file"):
        build_ordering(oracle(tmp_path / "missing.json"))
