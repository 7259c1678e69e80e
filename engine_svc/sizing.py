"""How large the parts of an engine are, from what its device has.

Memory for activations, sampling and CUDA graphs is found by running the largest step
there can be before the KV cache takes its share of what is left. Called by `assembly`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from engine_svc.batch_tables import BatchTables
from engine_svc.config import EngineSettings
from engine_svc.kv_cache import CacheShape, KVCache, bytes_per_token
from engine_svc.model.loading import LoadedModel
from engine_svc.params import SamplingParams
from engine_svc.runner import Runner
from engine_svc.sampler import DeviceSampler
from engine_svc.sequence import Sequence
from engine_svc.step import Cell, Chunk, Step
from ssjf.wire.run import StartupError

BLOCK_TOKENS: Final = 16
STEP_FLOATING_POINT_OPERATIONS: Final = 4e13
"""Of a step that reads prompts while others decode: some 60 ms of an H100."""
PREFILL_TOKENS_ON_CPU: Final = 512
MOST_PREFILL_TOKENS: Final = 16_384
GRAPH_BYTES: Final = 1 << 30
"""For CUDA graphs and what is allocated beside PyTorch's own memory."""


@dataclass(frozen=True, slots=True)
class PrefillTokens:
    """Prompt tokens of one step."""

    beside_decode: int
    """While sequences decode, which it holds up."""
    idle: int
    """While none does."""


def prefill_tokens(settings: EngineSettings, loaded: LoadedModel) -> PrefillTokens:
    """What is asked for, or what holds running sequences up tolerably."""
    if settings.max_prefill_tokens:
        return PrefillTokens(settings.max_prefill_tokens, settings.max_prefill_tokens)
    held_up = _tolerable_tokens(loaded)
    return PrefillTokens(held_up, min(4 * held_up, MOST_PREFILL_TOKENS))


def _tolerable_tokens(loaded: LoadedModel) -> int:
    if loaded.model.device.type == "cpu":
        return PREFILL_TOKENS_ON_CPU
    tokens = STEP_FLOATING_POINT_OPERATIONS / (2 * max(1, loaded.parameters))
    # A power of two, as the graphs that read prompts are: 2,304 would be padded to 4,096.
    return 1 << int(min(max(tokens, 512), MOST_PREFILL_TOKENS)).bit_length() - 1


def cache_shape(
    settings: EngineSettings, loaded: LoadedModel, max_prefill_tokens: int
) -> CacheShape:
    """What the cache can hold. Raises StartupError where that is less than one sequence."""
    on_cpu = loaded.model.device.type == "cpu"
    max_sequences = settings.max_sequences or (8 if on_cpu else 256)
    context = min(
        settings.max_context_tokens or (2048 if on_cpu else loaded.config.context_tokens),
        loaded.config.context_tokens,
    )
    most = max_sequences * -(-context // BLOCK_TOKENS)
    total = (settings.kv_tokens or (16_384 if on_cpu else 0)) // BLOCK_TOKENS
    if not total:
        trial = CacheShape(1, BLOCK_TOKENS, max_sequences, context)
        total = min(most, _free_blocks(settings, loaded, trial, max_prefill_tokens))
    if total < 1:
        raise StartupError("no memory is left for the KV cache")
    return CacheShape(total, BLOCK_TOKENS, max_sequences, min(context, total * BLOCK_TOKENS))


def warm_up(runner: Runner, shape: CacheShape) -> None:
    """Runs a prompt and a decode step, so that the first request pays for no set-up."""
    length = min(8, shape.max_context_tokens - 1)
    params = SamplingParams(max_tokens=2, temperature=1.0, top_p=0.95)
    sequence = Sequence(0, (0,) * length, params, place=0)
    runner.begin([sequence], [Cell(0, 0, 1)])
    runner.launch(Step((Chunk(sequence, 0, length, last=True),), ())).wait()
    runner.launch(Step((), (sequence,))).wait()
    runner.end(sequence)
    runner.clear([1])


def _free_blocks(
    settings: EngineSettings, loaded: LoadedModel, shape: CacheShape, max_prefill_tokens: int
) -> int:
    """Blocks for the share of the memory that the largest step leaves."""
    device = loaded.model.device
    torch.cuda.empty_cache()
    before_bytes = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    _run_largest(loaded, shape, max_prefill_tokens)
    step_bytes = torch.cuda.max_memory_allocated(device) - before_bytes
    torch.cuda.empty_cache()
    free_bytes, _ = torch.cuda.mem_get_info(device)
    left_bytes = free_bytes - step_bytes - GRAPH_BYTES
    block_bytes = BLOCK_TOKENS * bytes_per_token(loaded.config, loaded.model.dtype)
    return int(left_bytes * settings.kv_memory_fraction) // block_bytes


def _run_largest(loaded: LoadedModel, shape: CacheShape, tokens: int) -> None:
    """A step of `tokens` prompt tokens that samples for a full batch.

    All tokens lie in the padding block: what they attend to means nothing, what they need
    is the same.
    """
    device = loaded.model.device
    cache = KVCache(loaded.config, shape, device, loaded.model.dtype)
    sampler = DeviceSampler(
        places=shape.max_sequences,
        vocabulary=loaded.config.vocabulary_size,
        eos_token_ids=loaded.eos_token_ids,
        device=device,
    )
    runner = Runner(loaded.model, cache, BatchTables(shape, device), sampler)
    each = min(max(1, tokens // shape.max_sequences), shape.max_context_tokens)
    params = SamplingParams(max_tokens=1, temperature=1.0, top_p=0.95)
    sequences = [
        Sequence(place, (0,) * each, params, place=place) for place in range(shape.max_sequences)
    ]
    runner.begin(sequences, ())
    chunks = [Chunk(sequence, 0, each, last=True) for sequence in sequences]
    runner.launch(Step(tuple(chunks), ())).wait()
