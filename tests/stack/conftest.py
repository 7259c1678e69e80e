"""Clients of the shared services, and a second, narrow set for rougher tests.

After every test the queue is empty, the engine is free, and each accepted request has
had exactly one outcome.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from ssjf_cli.stack import Stack, StackOptions
from tests.conftest import ENGINE_FLAGS, StartStack
from tests.stack.generation import Client, connected, ledger_holds

NARROW_QUEUE = 3


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[Client]:
    """A client of the shared services."""
    async with connected(stack.gateway_address) as made:
        yield made
        made.cancel_all()
        assert ledger_holds(await made.until_idle())


@pytest.fixture(scope="session")
def narrow_services(stack: Stack, start_stack: StartStack) -> Stack:
    """An engine with one place behind a gateway with a short queue; the shared predictor."""
    return start_stack(
        StackOptions(
            engine={**ENGINE_FLAGS, "device": "cpu", "max_sequences": 1},
            predictor=None,
            gateway={
                "predictor": stack.predictor_address,
                "max_queued": NARROW_QUEUE,
                "drain_timeout_s": 60,
            },
        )
    )


@pytest.fixture
def narrow(narrow_services: Stack) -> Iterator[Stack]:
    """The narrow services, started again after a test that ended them."""
    yield narrow_services
    for name in ("engine", "gateway"):
        if not narrow_services.is_running(name):
            narrow_services.restart(name)


@pytest.fixture
async def narrow_client(narrow: Stack) -> AsyncIterator[Client]:
    """A client of the narrow services."""
    async with connected(narrow.gateway_address) as made:
        yield made
        made.cancel_all()
        if narrow.is_running("gateway") and narrow.is_running("engine"):
            assert ledger_holds(await made.until_idle())
