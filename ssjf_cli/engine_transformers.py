"""transformers' `generate` on the engine's benchmark cases, for comparison.

A batch is padded to its longest answer and runs to its end before the next begins: what
`generate` offers. Only tokens that were asked for count. Called by `engine_bench`.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from engine_svc.model.shapes import SHAPES
from ssjf_bench.engine_cases import Case


def build(shape: str, device: str, dtype: torch.dtype) -> Any:
    """A transformers model of a named shape with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    known = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=known.vocabulary_size,
        hidden_size=known.hidden_size,
        intermediate_size=known.intermediate_size,
        num_hidden_layers=known.layers,
        num_attention_heads=known.heads,
        num_key_value_heads=known.kv_heads,
        head_dim=known.head_size,
        max_position_embeddings=known.context_tokens,
        tie_word_embeddings=known.tied_embeddings,
        dtype=dtype,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


def seconds(model: Any, case: Case, at_once: int) -> float:
    """What a case takes, in batches of at most `at_once` in the order of the requests."""
    prompts = case.prompts(model.config.vocab_size)
    began_s = time.perf_counter()
    for first in range(0, len(prompts), at_once):
        batch = torch.tensor(prompts[first : first + at_once], device=model.device)
        longest = max(case.output_tokens[first : first + at_once])
        answers = model.generate(
            batch,
            attention_mask=torch.ones_like(batch),
            max_new_tokens=longest,
            min_new_tokens=longest,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
        if answers.shape[1] != batch.shape[1] + longest:
            raise ValueError(f"generate gave {answers.shape[1]} tokens a row")
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began_s
