"""The engine on a GPU: bf16, and the same answers together as alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from engine_svc import assembly
from engine_svc.assembly import Assembled, assemble, build
from engine_svc.config import EngineSettings
from engine_svc.forward_pass import Longest
from engine_svc.graphs import Graphs, decode_sizes, mixed_sizes
from engine_svc.loop import ready_of
from engine_svc.model.loading import LoadedModel, load
from engine_svc.runner import Runner
from engine_svc.sampling_plan import Plan
from engine_svc.sequence import Sequence as EngineSequence
from engine_svc.step import Cell, Chunk, Step
from engine_svc.step_inputs import Sizes

from .turns import Turns, make_sequence

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def on_cuda() -> Assembled:
    return assemble(EngineSettings(device="cuda", max_sequences=16, kv_tokens=65_536))


@pytest.fixture(scope="module")
def in_float32() -> LoadedModel:
    return load("", device=torch.device("cuda"), dtype=torch.float32)


def test_the_engine_says_that_it_runs_on_cuda_in_bfloat16(on_cuda: Assembled) -> None:
    info = ready_of(on_cuda)
    assert (info.device, info.dtype) == ("cuda:0", "bfloat16")


def test_bfloat16_answers_in_a_mixed_batch_are_greedy_within_rounding(
    on_cuda: Assembled, reference: Any
) -> None:
    encode = on_cuda.loaded.tokenizer.encode_prompt
    prompt = encode("What is the capital of France?")
    turns = Turns(on_cuda)
    turns.start(
        make_sequence(0, prompt, max_tokens=32),
        *(
            make_sequence(i, encode("Tell me a story. " * i), max_tokens=64, temperature=0.7)
            for i in range(1, 16)
        ),
    )
    turns.until_idle()
    assert turns.is_empty
    # bf16 may turn a near-tie round, so each token is held against fp32's logits after the same
    # tokens: it has to be close to the best there, which a wrong cache or mask never is.
    assert largest_gap(reference, prompt, turns.tokens(0)) < 0.5


def largest_gap(reference: Any, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """By how much, at worst, a token of the answer is below the best logit in fp32 on CPU."""
    with torch.inference_mode():
        logits = reference(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    chosen = logits.gather(1, torch.tensor(answer)[:, None]).squeeze(1)
    return float((logits.amax(-1) - chosen).max())


def test_float32_answers_are_those_of_the_cpu(
    in_float32: LoadedModel, smollm2: LoadedModel, pretrained: Any
) -> None:
    prompts = [smollm2.tokenizer.encode_prompt("Count to ten. " * i) for i in range(1, 9)]
    answers = []
    settings = EngineSettings(max_sequences=8, kv_tokens=16_384)
    for loaded in (in_float32, smollm2):
        turns = Turns(build(settings, loaded))
        turns.start(*(make_sequence(i, p, max_tokens=32) for i, p in enumerate(prompts)))
        turns.until_idle()
        answers.append([turns.tokens(i) for i in range(len(prompts))])
    assert answers[0] == answers[1]


def test_a_seeded_answer_is_drawn_again_in_another_batch(in_float32: LoadedModel) -> None:
    prompt = in_float32.tokenizer.encode_prompt("Write a poem about the sea.")
    drawn: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9, "seed": 3, "max_tokens": 48}
    settings = EngineSettings(device="cuda", max_sequences=8, kv_tokens=16_384)
    answers = []
    for others in (0, 7):
        turns = Turns(build(settings, in_float32))
        turns.start(
            make_sequence(0, prompt, **drawn),
            *(make_sequence(i, [i] * 9 * i, temperature=1.0) for i in range(1, others + 1)),
        )
        turns.until_idle()
        answers.append(turns.tokens(0))
    assert answers[0] == answers[1]


Captured = tuple[Runner, Graphs, list[EngineSequence]]


@pytest.fixture(scope="module")
def captured(on_cuda: Assembled) -> Captured:
    """The parts of an engine with graphs of a few sizes, five sequences read."""
    loaded, shape = on_cuda.loaded, on_cuda.shape
    runner = assembly.make_runner(loaded, shape)
    graphs = Graphs(runner.forward, shape.max_context_tokens)
    sizes = [*decode_sizes(8), *mixed_sizes(8, 256)]
    with torch.inference_mode():
        graphs.capture(sizes, shape.max_sequences, loaded.model.device)
    sequences = [make_sequence(i, range(40 + 30 * i), max_tokens=100) for i in range(5)]
    cells = []
    for i, sequence in enumerate(sequences):
        sequence.place, sequence.blocks = i, list(range(1 + 20 * i, 21 + 20 * i))
        cells += [Cell(i, column, block) for column, block in enumerate(sequence.blocks)]
    runner.begin(sequences, cells)
    runner.launch(Step(tuple(Chunk(s, 0, s.length, last=True) for s in sequences), ())).wait()
    return runner, graphs, sequences


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@torch.inference_mode()
def test_a_replayed_graph_gives_the_bits_of_the_eager_pass(captured: Captured, rows: int) -> None:
    runner, graphs, sequences = captured
    step = Step((), tuple(sequences[:rows]))
    graph = graphs.find(Sizes(0, 0, rows), Plan(logprobs=1))
    assert graph is not None
    assert graph.logits is not None
    runner._load(graph, step)
    graph.graph.replay()
    replayed = graph.logits[0][:rows].clone()
    eager = runner.forward.logits(graph.columns, graph.sizes, Longest(0, 0))[0][:rows]
    assert torch.equal(replayed, eager)


@torch.inference_mode()
def test_a_replayed_graph_that_reads_prompts_draws_what_the_eager_pass_draws(
    captured: Captured,
) -> None:
    runner, graphs, sequences = captured
    late = make_sequence(9, range(200, 300), max_tokens=100)
    late.place, late.blocks = 9, list(range(201, 214))
    step = Step((Chunk(late, 0, 100, last=True),), tuple(sequences[:3]))
    runner.begin([late], [Cell(9, column, block) for column, block in enumerate(late.blocks)])
    graph = graphs.find(Sizes(100, 1, 3), Plan())
    assert graph is not None
    runner._load(graph, step)
    before = runner._tables.positions.clone(), runner._sampler.last_tokens.clone()
    found = []
    for run in ("replayed", "eager"):
        runner._tables.positions.copy_(before[0])
        runner._sampler.last_tokens.copy_(before[1])
        if run == "replayed":
            draws = graph.run(runner.forward, Plan())
        else:
            longest = Longest(graph.sizes.tokens, on_context(runner))
            draws = runner.forward(graph.columns, graph.sizes, longest, Plan())
        rows = [0, *range(graph.sizes.chunks, graph.sizes.chunks + 3)]
        found.append((draws.tokens[rows].tolist(), runner._tables.positions.tolist()))
    assert found[0] == found[1]


def on_context(runner: Runner) -> int:
    context: int = runner._cache.shape.max_context_tokens
    return context


def test_sampling_that_no_graph_holds_goes_beside_sampling_that_one_does(
    on_cuda: Assembled,
) -> None:
    turns = Turns(on_cuda)
    turns.start(
        make_sequence(1, range(30), max_tokens=12, logprobs=3),
        make_sequence(2, range(40), max_tokens=40, temperature=1.0),
    )
    turns.until_idle()
    assert [len(turns.tokens(i)) for i in (1, 2)] == [12, 40]
    assert all(token.logprobs is not None for token in turns.news(1))
    assert turns.is_empty


def test_a_step_too_large_for_the_memory_left_runs_in_parts(on_cuda: Assembled) -> None:
    turns = Turns(on_cuda)
    torch.cuda.empty_cache()
    # Less stays free than 16 prompts of 500 tokens need, and more than four of them.
    hog_bytes = torch.cuda.mem_get_info()[0] - (48 << 20)
    hog = torch.empty(hog_bytes, dtype=torch.uint8, device="cuda")
    try:
        turns.start(*(make_sequence(i, range(500), max_tokens=3) for i in range(40)))
        turns.until_idle()
    finally:
        del hog
        torch.cuda.empty_cache()
    ended = {f.sequence_id for r in turns.reports for f in r.finished}
    failed = {f.sequence_id for r in turns.reports for f in r.failed}
    assert ended | failed == set(range(40))
    assert sum(r.out_of_memory for r in turns.reports) >= 1
    assert turns.is_empty
