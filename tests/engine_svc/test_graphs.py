"""Which graphs there are, and which one a step runs in; replaying them is test_cuda's."""

from __future__ import annotations

from typing import Any

import pytest

from engine_svc.graphs import DRAWS, FILTERED, GREEDY, Graphs, decode_sizes, mixed_sizes
from engine_svc.sampling_plan import Plan
from engine_svc.step_inputs import Sizes


def captured(max_rows: int = 256, max_tokens: int = 4096) -> Graphs:
    """As after a capture, with the keys in place of graphs."""
    graphs = Graphs(Any, 4096)  # type: ignore[arg-type]
    sizes = [*decode_sizes(max_rows), *mixed_sizes(max_rows, max_tokens)]
    graphs._sizes = sorted(sizes, key=lambda s: (s.tokens, s.rows))
    kinds: tuple[Plan | None, ...] = (GREEDY, DRAWS, FILTERED, None)
    held: Any = {(each, kind): (each, kind) for each in sizes for kind in kinds}
    graphs._graphs = held
    return graphs


@pytest.mark.parametrize(("max_rows", "last"), [(1, [1]), (5, [1, 2, 4, 5]), (600, [384, 512])])
def test_decode_sizes_end_with_the_full_batch_or_the_largest_graph(
    max_rows: int, last: list[int]
) -> None:
    assert [each.rows for each in decode_sizes(max_rows)][-len(last) :] == last


@pytest.mark.parametrize(
    ("step", "graph"),
    [
        (Sizes(0, 0, 1), Sizes(0, 0, 1)),
        (Sizes(0, 0, 33), Sizes(0, 0, 48)),
        (Sizes(100, 1, 0), Sizes(128, 2, 8)),
        (Sizes(129, 1, 100), Sizes(256, 4, 128)),
        # More chunks than tokens of the smallest graph are meant for.
        (Sizes(100, 3, 9), Sizes(256, 4, 64)),
        (Sizes(4096, 32, 200), Sizes(4096, 64, 256)),
    ],
)
def test_a_step_runs_in_the_smallest_graph_that_holds_it(step: Sizes, graph: Sizes) -> None:
    found: Any = captured().find(step, Plan())
    assert found == (graph, GREEDY)


@pytest.mark.parametrize("step", [Sizes(0, 0, 300), Sizes(4097, 1, 1), Sizes(4096, 65, 1)])
def test_a_step_that_no_graph_holds_runs_without(step: Sizes) -> None:
    assert captured().find(step, Plan()) is None


@pytest.mark.parametrize(
    ("plan", "kind"),
    [
        (Plan(), GREEDY),
        (Plan(draws=True), DRAWS),
        (Plan(draws=True, filters=True), FILTERED),
        (Plan(penalties=True), None),
        (Plan(logprobs=0), None),
    ],
)
def test_the_sampling_in_the_graph_covers_what_the_step_asks_for(
    plan: Plan, kind: Plan | None
) -> None:
    found: Any = captured().find(Sizes(0, 0, 2), plan)
    assert found[1] == kind


def test_drawing_beside_prompts_takes_the_graph_with_filters() -> None:
    found: Any = captured().find(Sizes(10, 1, 2), Plan(draws=True))
    assert found[1] == FILTERED
