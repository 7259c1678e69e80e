"""Forward passes of padded sizes, as CUDA graphs have them, against passes of exact sizes."""

from __future__ import annotations

import pytest
import torch

from engine_svc.assembly import make_runner
from engine_svc.batch_tables import to_device
from engine_svc.forward_pass import Longest
from engine_svc.kv_cache import CacheShape
from engine_svc.model.loading import LoadedModel
from engine_svc.runner import Runner
from engine_svc.sampling_plan import Plan
from engine_svc.sequence import Sequence
from engine_svc.step import Cell, Chunk, Step
from engine_svc.step_inputs import Sizes, cut, packed, sizes_of

from .turns import make_sequence

SHAPE = CacheShape(total_blocks=64, block_tokens=16, max_sequences=6, max_context_tokens=256)
LENGTHS = (20, 33, 7)


def begun(tiny: LoadedModel) -> tuple[Runner, list[Sequence]]:
    """Three sequences that are read and have their first token, and one that waits."""
    runner = make_runner(tiny, SHAPE)
    sequences = [make_sequence(i, range(9, 9 + n), max_tokens=30) for i, n in enumerate(LENGTHS)]
    waiting = make_sequence(9, range(50, 90), max_tokens=30)
    cells = []
    for place, sequence in enumerate((*sequences, waiting)):
        sequence.place, sequence.blocks = place, list(range(1 + 5 * place, 6 + 5 * place))
        cells += [Cell(place, column, block) for column, block in enumerate(sequence.blocks)]
    runner.begin([*sequences, waiting], cells)
    runner.launch(Step(tuple(Chunk(s, 0, s.length, last=True) for s in sequences), ())).wait()
    return runner, [*sequences, waiting]


@torch.inference_mode()
def tokens(runner: Runner, step: Step, sizes: Sizes) -> tuple[list[int], list[int]]:
    """The tokens of the step's chunks and rows, run under these sizes."""
    vector = to_device(packed(step, sizes, runner._tables), torch.device("cpu"))
    draws = runner.forward(cut(vector, sizes), sizes, Longest(99, 256), Plan())
    found = draws.tokens.tolist()
    rows = found[sizes.chunks : sizes.chunks + len(step.decode)]
    return found[: len(step.chunks)], rows


@pytest.mark.parametrize("padding", [Sizes(0, 0, 1), Sizes(24, 2, 0), Sizes(5, 1, 3)])
def test_padding_changes_nothing(tiny: LoadedModel, padding: Sizes) -> None:
    found = []
    for more in (Sizes(0, 0, 0), padding):
        runner, (*sequences, waiting) = begun(tiny)
        steps = [
            Step((Chunk(waiting, 0, 25, last=False),), tuple(sequences)),
            Step((Chunk(waiting, 25, 15, last=True),), tuple(sequences)),
            Step((), (*sequences, waiting)),
        ]
        results = []
        for step in steps:
            exact = sizes_of(step)
            # A graph of decode rows has no chunks at all.
            chunks = (exact.tokens + more.tokens, exact.chunks + more.chunks)
            sizes = Sizes(*(chunks if step.chunks else (0, 0)), exact.rows + more.rows)
            results.append(tokens(runner, step, sizes))
        last = [results[1], results[2]]
        found.append((results[0][1], last, runner._tables.positions.tolist()))
        assert runner._tables.positions[-1] == -1
        assert not runner._cache.keys[:, 0].any()
    assert found[0] == found[1]
    assert found[0][2] == [23, 36, 10, 41, -1, -1, -1]


def test_a_step_says_again_nothing_that_the_device_knows(tiny: LoadedModel) -> None:
    runner, (*sequences, _) = begun(tiny)
    decode = tuple(sequences)
    first = runner.launch(Step((), decode)).wait().tokens.tolist()
    loaded = runner._loaded
    second = runner.launch(Step((), decode)).wait().tokens.tolist()
    assert runner._loaded is loaded
    assert runner._tables.positions[:3].tolist() == [n + 2 for n in LENGTHS]
    again, (*others, _) = begun(tiny)
    assert again.launch(Step((), tuple(others))).wait().tokens.tolist() == first
    assert again.launch(Step((), tuple(others))).wait().tokens.tolist() == second
