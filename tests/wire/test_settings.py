from __future__ import annotations

import pytest
from pydantic_settings import SettingsConfigDict

from ssjf.wire.run import load_settings
from ssjf.wire.settings import SETTINGS, ServiceSettings


class ExampleSettings(ServiceSettings):
    """Settings of a service of this test (environment: SSJF_EXAMPLE_…)."""

    model_config = SETTINGS | SettingsConfigDict(
        env_prefix="SSJF_EXAMPLE_", cli_prog_name="example_svc"
    )


def load(*arguments: str) -> ExampleSettings:
    return load_settings("example_svc", ExampleSettings, list(arguments))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        load(*arguments)
    assert exit_.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "key"),
    [
        ("--port=99999", "--port (SSJF_EXAMPLE_PORT)"),
        ("--port=many", "--port (SSJF_EXAMPLE_PORT)"),
        ("--drain-timeout-s=nan", "--drain-timeout-s (SSJF_EXAMPLE_DRAIN_TIMEOUT_S)"),
        ("--log-level=loud", "--log-level (SSJF_EXAMPLE_LOG_LEVEL)"),
    ],
)
def test_a_wrong_flag_exits_with_2_and_names_its_key(
    capsys: pytest.CaptureFixture[str], flag: str, key: str
) -> None:
    (line,) = refusal(capsys, flag).splitlines()
    assert line.startswith(f"example_svc: {key}: ")


def test_a_wrong_environment_variable_exits_with_2_and_names_its_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSJF_EXAMPLE_METRICS_PORT", "-1")
    assert "--metrics-port (SSJF_EXAMPLE_METRICS_PORT)" in refusal(capsys)


def test_every_wrong_setting_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(refusal(capsys, "--port=-1", "--metrics-port=-1").splitlines()) == 2


def test_an_unknown_flag_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--prot" in refusal(capsys, "--prot=1")


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSJF_EXAMPLE_PORT", "1111")
    assert load().port == 1111
    assert load("--port=2222").port == 2222


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        load("--help")
    assert exit_.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, field in ExampleSettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown
        assert field.description
        assert " ".join(field.description.split()) in shown
