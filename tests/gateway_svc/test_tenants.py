"""The tenant file: what it may say, and that it is followed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway_svc import tenants
from gateway_svc.scheduling.job import Priority
from gateway_svc.scheduling.quota import UNLIMITED, Tenant
from gateway_svc.tenants import TenantFileError, Tenants, read
from ssjf.wire import auth
from ssjf.wire.auth import Principal
from ssjf.wire.run import StartupError

SECRET = "a-secret-token-0001"  # noqa: S105 (made up)
OTHER = "a-secret-token-0002"


def write(folder: Path, text: str) -> Path:
    path = folder / "tenants.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_tenant_has_what_the_file_says(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"""
        [tenants.acme]
        tokens = ["{SECRET}", "sha256:{auth.digest(OTHER).hex()}"]
        highest_class = "urgent"
        weight = 2.5
        max_queued_requests = 10
        max_queued_tokens = 5000
        max_running_requests = 3
        admin = true
        """,
    )
    rules, principals = read(path)
    assert rules["acme"].tenant == Tenant("acme", 2.5, 10, 5000, 3)
    assert rules["acme"].highest is Priority.URGENT
    assert principals == {
        auth.digest(SECRET): Principal("acme", admin=True),
        auth.digest(OTHER): Principal("acme", admin=True),
    }


def test_what_the_file_leaves_out_is_standard_and_unlimited(tmp_path: Path) -> None:
    rules, principals = read(write(tmp_path, f'[tenants.acme]\ntokens = ["{SECRET}"]'))
    assert rules["acme"].tenant == Tenant("acme", 1.0, UNLIMITED, UNLIMITED, UNLIMITED)
    assert rules["acme"].highest is Priority.STANDARD
    assert principals[auth.digest(SECRET)] == Principal("acme")


@pytest.mark.parametrize(
    ("highest", "asked", "given"),
    [
        (Priority.STANDARD, Priority.URGENT, Priority.STANDARD),
        (Priority.STANDARD, Priority.BATCH, Priority.BATCH),
        (Priority.BATCH, Priority.STANDARD, Priority.BATCH),
        (Priority.URGENT, Priority.URGENT, Priority.URGENT),
    ],
)
def test_a_request_can_only_lower_itself(
    highest: Priority, asked: Priority, given: Priority
) -> None:
    assert tenants.Rules(Tenant("acme"), highest).clamp(asked) is given


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tenants = 3", "tenants"),
        ("", "tenants: Field required"),
        ("[tenants]", "tenants"),
        ("[tenants.acme]", "tenants.acme.tokens"),
        ("[tenants.acme]\ntokens = []", "tenants.acme.tokens"),
        ('[tenants.acme]\ntokens = ["secret"]', "tenants.acme.tokens.0"),
        (f'[tenants.acme]\ntokens = ["{SECRET}"]\nweigth = 2', "tenants.acme.weigth"),
        (f'[tenants.acme]\ntokens = ["{SECRET}"]\nweight = 0', "tenants.acme.weight"),
        (f'[tenants.acme]\ntokens = ["{SECRET}"]\nweight = nan', "tenants.acme.weight"),
        (f'[tenants.acme]\ntokens = ["{SECRET}"]\nmax_queued_requests = 0', "max_queued_requests"),
        (f'[tenants.acme]\ntokens = ["{SECRET}"]\nhighest_class = "top"', "highest_class"),
        (f'[tenants."a b"]\ntokens = ["{SECRET}"]', "tenants"),
        (
            f'[tenants.a]\ntokens = ["{SECRET}"]\n[tenants.b]\ntokens = ["{SECRET}"]',
            "tenants.b.tokens.0: the token is listed twice",
        ),
        ("[tenants.acme", "is not TOML"),
    ],
)
def test_a_wrong_file_stops_the_start_naming_the_key_and_never_a_token(
    tmp_path: Path, text: str, says: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(StartupError) as caught:
        Tenants(path)
    message = str(caught.value)
    assert message.startswith(f"--tenants {path}: ")
    assert says in message
    assert "secret" not in message.removeprefix(f"--tenants {path}: ")


def test_a_missing_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="No such file"):
        Tenants(tmp_path / "missing.toml")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tenants.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(TenantFileError, match="is not TOML"):
        read(path)


def test_no_repr_shows_a_token(tmp_path: Path) -> None:
    known = Tenants(write(tmp_path, f'[tenants.acme]\ntokens = ["{SECRET}"]'))
    entry = tenants.TenantEntry(tokens=[SECRET])
    assert SECRET not in f"{known!r} {known.table!r} {known.all!r} {entry!r}"


def test_without_a_file_there_is_one_tenant_that_may_do_everything() -> None:
    sole = Tenants(None)
    assert sole.table is None
    assert sole.all == (Tenant(""),)
    assert sole.of(auth.OPEN).clamp(Priority.URGENT) is Priority.URGENT


async def test_another_version_of_the_file_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenants, "LOOK_INTERVAL_S", 0.01)
    path = write(tmp_path, f'[tenants.acme]\ntokens = ["{SECRET}"]')
    known = Tenants(path)
    taken: asyncio.Queue[tuple[Tenant, ...]] = asyncio.Queue()
    following = asyncio.create_task(known.follow(taken.put_nowait))
    write(tmp_path, f'[tenants.acme]\ntokens = ["{OTHER}"]\nweight = 7')
    assert [each.weight for each in await asyncio.wait_for(taken.get(), 10)] == [7.0]
    assert known.table is not None
    assert known.table.authenticate(auth.bearer(OTHER)) == Principal("acme")
    following.cancel()


async def test_a_version_that_is_wrong_is_logged_and_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tenants, "LOOK_INTERVAL_S", 0.01)
    path = write(tmp_path, f'[tenants.acme]\ntokens = ["{SECRET}"]')
    known = Tenants(path)
    taken: asyncio.Queue[tuple[Tenant, ...]] = asyncio.Queue()
    following = asyncio.create_task(known.follow(taken.put_nowait))
    write(tmp_path, '[tenants.acme]\ntokens = ["secret"]')
    await asyncio.sleep(0.1)
    write(tmp_path, f'[tenants.acme]\ntokens = ["{SECRET}"]\nweight = 9')
    assert [each.weight for each in await asyncio.wait_for(taken.get(), 10)] == [9.0]
    assert taken.empty()
    logged = capfd.readouterr()
    assert "tenant file refused" in logged.out + logged.err
    following.cancel()
