"""Tenants at the gateway: who they are, what they may, what they get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from gateway_svc import tenants as tenants_module
from ssjf.gateway.v1 import gateway_pb2
from ssjf.wire import auth, errors
from tests.gateway_svc.conftest import Start, ends, until
from tests.gateway_svc.fakes import FakeEngine, FakePredictor

ADMIN = "token-of-the-operators"
TOKENS = {name: f"token-of-tenant-{name}" for name in ("acme", "beta", "bulk")}


@pytest.fixture
def tenant_file(tmp_path: Path) -> Any:
    """Writes a tenant file: `operators`, and acme, beta and bulk with what the test says."""
    path = tmp_path / "tenants.toml"

    def write(**given: dict[str, Any]) -> Path:
        entries: dict[str, dict[str, Any]] = {
            "operators": {"tokens": [ADMIN], "admin": True, "highest_class": "urgent"}
        }
        for name, token in TOKENS.items():
            entries[name] = {"tokens": [token], **given.get(name, {})}
        lines = []
        for name, entry in entries.items():
            lines.append(f"[tenants.{name}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in entry.items()]
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return write


async def test_without_a_known_token_nothing_is_generated(start: Start, tenant_file: Any) -> None:
    rig = await start(FakeEngine(), tenants=tenant_file())
    for token in (None, "some-other-token-000"):
        failure = await rig.generate("count to 3", token=token).failure()
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "UNAUTHENTICATED",
        )
    answer = await rig.generate("count to 3", token=TOKENS["acme"]).end()
    assert answer.token_ids == [0, 1, 2]
    assert rig.counts() == {"accepted": 1, "finished": 1}


@pytest.mark.parametrize("method", ["GetQueue", "WatchQueue"])
async def test_the_queue_is_an_admins_to_look_at(
    start: Start, tenant_file: Any, method: str
) -> None:
    rig = await start(FakeEngine(), tenants=tenant_file())
    request = getattr(gateway_pb2, f"{method}Request")()

    async def ask(token: str) -> Any:
        call = getattr(rig.stub, method)(request, metadata=auth.bearer(token))
        return await (call if method == "GetQueue" else call.read())

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(TOKENS["acme"])
    failure = errors.decode(caught.value)
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "PERMISSION_DENIED",
    )
    assert await ask(ADMIN)


async def test_a_class_above_the_tenants_highest_is_lowered(start: Start, tenant_file: Any) -> None:
    file = tenant_file(bulk={"highest_class": "batch"}, beta={"highest_class": "urgent"})
    rig = await start(FakeEngine(), tenants=file)
    given = {}
    for name in TOKENS:
        answer = rig.generate(
            "count to 1", token=TOKENS[name], priority=gateway_pb2.PRIORITY_CLASS_URGENT
        )
        given[name] = (await answer.has("queued")).priority
        await answer.end()
    assert given == {
        "acme": gateway_pb2.PRIORITY_CLASS_STANDARD,
        "beta": gateway_pb2.PRIORITY_CLASS_URGENT,
        "bulk": gateway_pb2.PRIORITY_CLASS_BATCH,
    }


async def test_a_request_says_nothing_of_its_tenant(start: Start, tenant_file: Any) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine, tenants=tenant_file())
    metadata = (*auth.bearer(TOKENS["acme"]), ("tenant", "beta"), ("x-tenant-id", "operators"))
    request = gateway_pb2.GenerateRequest(prompt="count to 3")
    call = rig.stub.Generate(request, metadata=metadata)
    await call.read()
    assert [entry.tenant for entry in (await rig.queue(token=ADMIN)).running] == ["acme"]
    await until(lambda: engine.running)
    assert engine.running[engine.only].sequence.cache_salt == "acme"
    call.cancel()


async def test_a_tenants_limit_on_queued_requests_refuses_it_alone(
    start: Start, tenant_file: Any
) -> None:
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine, tenants=tenant_file(acme={"max_queued_requests": 2}))
    first = await rig.queued("count to 2", token=TOKENS["beta"])
    waiting = [await rig.queued("count to 2", token=TOKENS["acme"]) for _ in range(2)]
    failure = await rig.generate("count to 2", token=TOKENS["acme"]).failure()
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert failure.quota == (("tenants/acme/queued_requests", "at most 2 queued requests"),)
    assert failure.retry_after_s is not None
    other = await rig.queued("count to 2", token=TOKENS["beta"])
    refused = {each.tenant: each.refused for each in (await rig.queue(token=ADMIN)).tenants}
    assert (refused["acme"], refused["beta"]) == (1, 0)
    engine.by_hand = False
    await ends([first, *waiting, other])


async def test_a_tenants_limit_on_queued_tokens_counts_prompt_and_answer(
    start: Start, tenant_file: Any
) -> None:
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine, tenants=tenant_file(acme={"max_queued_tokens": 50}))
    first = await rig.queued("count to 2", token=TOKENS["beta"])
    second = await rig.queued("count to 2", token=TOKENS["acme"], max_tokens=40)
    failure = await rig.generate("count to 2", token=TOKENS["acme"], max_tokens=5).failure()
    assert failure.quota == (("tenants/acme/queued_tokens", "at most 50 queued tokens"),)
    engine.by_hand = False
    await ends([first, second])
    assert rig.counts() == {"accepted": 2, "finished": 2, "refused": 1}


async def test_a_tenants_limit_on_running_requests_leaves_places_to_others(
    start: Start, tenant_file: Any
) -> None:
    engine = FakeEngine(places=4, by_hand=True)
    rig = await start(engine, tenants=tenant_file(acme={"max_running_requests": 1}))
    answers = [
        await rig.queued("count to 2", token=TOKENS[name], request_id=f"{name}{n}")
        for n, name in enumerate(("acme", "acme", "acme", "beta"))
    ]
    await until(lambda: len(engine.running) == 2)
    assert engine.started == ["acme0", "beta3"]
    shown = await rig.queue(token=ADMIN)
    assert {entry.wait_reason for entry in shown.waiting} == {gateway_pb2.WAIT_REASON_TENANT_LIMIT}
    engine.by_hand = False
    await ends(answers)
    assert engine.started == ["acme0", "beta3", "acme1", "acme2"]


async def test_tenants_get_tokens_in_proportion_to_their_weights(
    start: Start, tenant_file: Any
) -> None:
    engine, predictor = FakeEngine(places=1, by_hand=True), FakePredictor()
    file = tenant_file(acme={"weight": 3.0})
    rig = await start(engine, predictor=predictor, tenants=file)
    first = await rig.queued("count to 1", token=TOKENS["bulk"], request_id="first")
    answers = [
        await rig.queued("count to 20", token=TOKENS[name], request_id=f"{name}-{n}")
        for n in range(12)
        for name in ("beta", "acme")
    ]
    engine.by_hand = False
    await ends([first, *answers])
    early = [name.partition("-")[0] for name in engine.started[1:13]]
    assert 8 <= early.count("acme") <= 10


async def test_a_flood_of_one_tenant_does_not_make_another_wait(
    start: Start, tenant_file: Any
) -> None:
    engine, predictor = FakeEngine(places=1, by_hand=True), FakePredictor()
    rig = await start(engine, predictor=predictor, tenants=tenant_file())
    flood = [
        await rig.queued("count to 5", token=TOKENS["bulk"], request_id=f"bulk{n}")
        for n in range(30)
    ]
    guest = await rig.queued("count to 50", token=TOKENS["acme"], request_id="acme")
    engine.by_hand = False
    await ends([*flood, guest])
    assert engine.started.index("acme") <= 2


async def test_a_changed_file_is_taken_while_the_gateway_runs(
    start: Start, tenant_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenants_module, "LOOK_INTERVAL_S", 0.02)
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine, tenants=tenant_file())
    first = await rig.queued("count to 2", token=TOKENS["acme"])
    waiting = await rig.queued("count to 2", token=TOKENS["acme"])
    before = rig.gateway.parts.tenants.all
    tenant_file(acme={"max_queued_requests": 1})
    await until(lambda: rig.gateway.parts.tenants.all != before)
    failure = await rig.generate("count to 2", token=TOKENS["acme"]).failure()
    assert failure.quota[0][0] == "tenants/acme/queued_requests"
    engine.by_hand = False
    await ends([first, waiting])  # what was accepted stays accepted
