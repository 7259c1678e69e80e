"""The engine on a GPU: bf16, and the same answers together as alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from engine_svc.assembly import Assembled, assemble, build
from engine_svc.config import EngineSettings
from engine_svc.loop import ready_of
from engine_svc.model.loading import LoadedModel, load

from .turns import Turns, make_sequence

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def on_cuda() -> Assembled:
    return assemble(EngineSettings(device="cuda", max_sequences=64, kv_tokens=65_536))


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
            for i in range(1, 64)
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
    for loaded, device in ((in_float32, "cuda"), (smollm2, "cpu")):
        turns = Turns(build(EngineSettings(device=device, kv_tokens=16_384), loaded))  # type: ignore[arg-type]
        turns.start(*(make_sequence(i, p, max_tokens=32) for i, p in enumerate(prompts)))
        turns.until_idle()
        answers.append([turns.tokens(i) for i in range(len(prompts))])
    assert answers[0] == answers[1]


def test_a_seeded_answer_is_drawn_again_in_another_batch(in_float32: LoadedModel) -> None:
    prompt = in_float32.tokenizer.encode_prompt("Write a poem about the sea.")
    drawn: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9, "seed": 3, "max_tokens": 48}
    answers = []
    for others in (0, 7):
        turns = Turns(build(EngineSettings(device="cuda", kv_tokens=16_384), in_float32))
        turns.start(
            make_sequence(0, prompt, **drawn),
            *(make_sequence(i, [i] * 9 * i, temperature=1.0) for i in range(1, others + 1)),
        )
        turns.until_idle()
        answers.append(turns.tokens(0))
    assert answers[0] == answers[1]
