"""The real services, started once for the session, and private ones for rougher tests.

Every test that asks for them is marked `service` and has the time that models take to
load. When one fails, its report carries the last lines of the services' logs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack

import pytest

from ssjf_cli.stack import Stack, StackOptions

TIMEOUT_S = 300
START_FIXTURES = {"stack", "start_stack"}

# Small enough for two cores; one thread leaves the other core to the tests and services.
ENGINE_FLAGS = {"threads": 1, "max_sequences": 4}
PREDICTOR_FLAGS = {"threads": 1}

StartStack = Callable[[StackOptions], Stack]
_running: list[Stack] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if START_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("service")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and item.get_closest_marker("service"):
        for stack in _running:
            for service in stack.services:
                log = stack.log_path(service.name)
                lines = log.read_text(errors="replace").splitlines() if log.exists() else []
                report.sections.append((f"{log}", "\n".join(lines[-20:])))
    return report


@pytest.fixture(scope="session")
def start_stack() -> Iterator[StartStack]:
    """Starts services, which stop with the session."""
    with ExitStack() as exits:

        def start(options: StackOptions) -> Stack:
            stack = exits.enter_context(Stack(options))
            _running.append(stack)
            return stack

        yield start


@pytest.fixture(scope="session")
def stack(start_stack: StartStack) -> Stack:
    """Gateway, predictor and engine with their real small models, on CPU.

    Shared: a test leaves it idle, with all three services running.
    """
    return start_stack(
        StackOptions(
            engine={**ENGINE_FLAGS, "device": "cpu"},
            predictor={**PREDICTOR_FLAGS, "provider": "cpu"},
            gateway={"policy": "ssjf"},
        )
    )
