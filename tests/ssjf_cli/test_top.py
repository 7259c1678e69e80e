"""`ssjf top`, against the real gateway and on made-up snapshots."""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gateway_svc.__main__ import running_gateway
from gateway_svc.config import GatewaySettings
from ssjf.engine.v1 import engine_pb2
from ssjf.gateway.v1 import gateway_pb2
from ssjf_cli import top
from ssjf_cli.top_screen import Screen
from tests.gateway_svc.fakes import FakeEngine, serving

ADMIN = "token-of-the-operators"
TENANTS = f'[tenants.ops]\ntokens = ["{ADMIN}"]\nadmin = true\n'


@asynccontextmanager
async def gateway(**settings: Any) -> AsyncIterator[str]:
    async with serving(FakeEngine(name="engine-a")) as engine:
        given = GatewaySettings(engines=engine, predictor="none", port=0, **settings)
        async with running_gateway(given) as running:
            async with asyncio.timeout(20):
                while not running.fleet.connected:  # noqa: ASYNC110 (it knows no tests)
                    await asyncio.sleep(0.01)
            yield running.listening.address


def paper(*, width: int = 160) -> Console:
    return Console(file=io.StringIO(), width=width, height=60, force_terminal=False)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def test_one_snapshot_is_printed_for_scripts() -> None:
    out, err = paper(), paper()
    async with gateway(policy="bounded-ssjf") as address:
        assert await asyncio.to_thread(top.once, address, None, out, err) == 0
    assert f"ssjf {address}  tiny" in written(out)
    assert "bounded-ssjf α 1.3" in written(out)
    assert "engine-a" in written(out)
    assert written(err) == ""


async def test_without_an_admins_token_there_is_one_line_on_stderr(tmp_path: Path) -> None:
    file = tmp_path / "tenants.toml"
    file.write_text(TENANTS)
    async with gateway(tenants=file) as address:
        refused, good, out = paper(), paper(), paper()
        assert await asyncio.to_thread(top.once, address, None, out, refused) == 1
        assert await asyncio.to_thread(top.once, address, ADMIN, good, refused) == 0
    assert written(refused).startswith("ssjf: UNAUTHENTICATED")
    assert written(out) == ""
    assert "ops" in written(good)


async def test_watching_ends_with_the_gateway_and_says_so() -> None:
    out, err = paper(), paper()
    async with gateway() as address:
        watching = asyncio.create_task(asyncio.to_thread(top.watch, address, None, 0.05, out, err))
        await asyncio.sleep(0.5)
        assert not watching.done()
    assert await asyncio.wait_for(watching, 20) == 1
    assert "waiting 0" in written(out)
    assert written(err).startswith("ssjf: ")


def snapshot() -> gateway_pb2.GetQueueResponse:
    """A gateway with much to see."""
    waiting = gateway_pb2.QueueEntry(
        request_id="[red]waits[/red]",
        tenant="acme",
        priority=gateway_pb2.PRIORITY_CLASS_BATCH,
        predicted_tokens=321.4,
        prediction_source=gateway_pb2.PREDICTION_SOURCE_PRIOR,
        waited_ms=2500,
        wait_reason=gateway_pb2.WAIT_REASON_CLASS,
    )
    running = gateway_pb2.QueueEntry(
        request_id="runs", engine_id="gpu-0", priority=gateway_pb2.PRIORITY_CLASS_URGENT
    )
    return gateway_pb2.GetQueueResponse(
        waiting=[waiting] * 3,
        running=[running],
        waiting_count=1200,
        running_count=1,
        queued_tokens=45678,
        predicted_wait_s=12.34,
        waits=[gateway_pb2.WaitBucket(from_tokens=1024, count=7, mean_wait_ms=90)],
        predictions=gateway_pb2.PredictionQuality(count=99, tau_b=0.62, p90_coverage=0.88),
        scheduling=gateway_pb2.SchedulingStatus(
            policy="bounded-ssjf",
            active_policy="hrrn",
            fallback=True,
            batching_mode=engine_pb2.BATCHING_MODE_DYNAMIC,
            max_batch=8,
            max_batch_wait_ms=50,
            bound_violations=2,
        ),
    )


def drawn(queue: gateway_pb2.GetQueueResponse, rows: int = 2) -> str:
    console = paper()
    console.print(Screen("host:1", gateway_pb2.GetServerInfoResponse(), rows).draw(queue))
    return written(console)


def test_the_screen_shows_who_waits_and_why() -> None:
    text = drawn(snapshot())
    assert "waiting 1,200 (45,678 tokens, about 12.3 s)" in text
    assert "waiting, next first, 2 of 1,200" in text
    row = next(line for line in text.splitlines() if "waits[/red]" in line)
    assert row.split() == [
        *("[red]waits[/red]", "acme", "batch", "0", "321", "prior", "0", "2.5", "s"),
        *("higher", "class"),
    ]
    (runs,) = [line for line in text.splitlines() if line.startswith("runs ")]
    assert runs.split()[-1] == "gpu-0"


def test_in_a_terminal_of_80_columns_an_id_gives_way_and_nothing_else() -> None:
    queue = snapshot()
    queue.running[0].request_id = "0123456789abcdef0123456789abcdef"
    queue.running[0].engine_id = "node-15381"
    queue.running[0].predicted_tokens = queue.running[0].output_tokens = 1234
    queue.running[0].waited_ms = 12_300
    console = paper(width=80)
    console.print(Screen("host:1", gateway_pb2.GetServerInfoResponse(), 2).draw(queue))
    (row,) = [line for line in written(console).splitlines() if line.startswith("012")]
    request, *others = row.split()
    assert request.endswith("…")
    assert len(request) >= 8
    assert others == [*("-", "urgent", "0", "1,234", "1,234", "12.3", "s", "node-15381")]


def test_the_screen_says_when_predictions_are_not_believed() -> None:
    text = drawn(snapshot())
    assert "hrrn (predictions order too badly for bounded-ssjf)" in text
    assert "dynamic, 8 within 50 ms" in text
    assert "bound violations 2" in text
    assert "0.62" in text
    assert "0.88" in text


def test_an_empty_gateway_can_be_drawn() -> None:
    text = drawn(gateway_pb2.GetQueueResponse(predicted_wait_s=math.inf))
    assert "no model" in text
    assert "none connected" in text
    assert "rate not known yet" in text
    assert "not yet" in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_narrow_terminal_is_enough(width: int) -> None:
    console = paper(width=width)
    console.print(Screen("host:1", gateway_pb2.GetServerInfoResponse(), 2).draw(snapshot()))
    assert max(len(line) for line in written(console).splitlines()) <= width
