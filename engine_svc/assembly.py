"""Puts model, cache, scheduler and loop together for a device.

Fills the settings that were left open from what the device has. Called by the
composition root and by tests that want a whole engine without gRPC.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine_svc.blocks import BlockAccounting
from engine_svc.config import EngineSettings
from engine_svc.engine import Engine
from engine_svc.kv_cache import CacheShape, KVCache, bytes_per_token
from engine_svc.mailbox import Mailbox
from engine_svc.model.loading import LoadedModel, load
from engine_svc.params import SamplingParams
from engine_svc.runner import Runner
from engine_svc.sampler import Sampler
from engine_svc.scheduler import Scheduler, Step
from engine_svc.sequence import Sequence
from ssjf.wire.run import StartupError

BLOCK_TOKENS = 16
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Assembled:
    """An engine, and what others must know of it."""

    engine: Engine
    mailbox: Mailbox
    loaded: LoadedModel
    shape: CacheShape


def device_of(settings: EngineSettings) -> torch.device:
    """The device asked for. Raises StartupError where it is not there."""
    if settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise StartupError("--device cuda: PyTorch finds no CUDA device")
    return torch.device("cuda", torch.cuda.current_device())


def assemble(settings: EngineSettings) -> Assembled:
    """Loads the model and builds the engine around it. Raises StartupError."""
    device = device_of(settings)
    on_cpu = device.type == "cpu"
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    chosen = ("float32" if on_cpu else "bfloat16") if settings.dtype == "auto" else settings.dtype
    limit = settings.max_context_tokens or (2048 if on_cpu else None)
    loaded = load(settings.model, device=device, dtype=DTYPES[chosen], max_context_tokens=limit)
    return build(settings, loaded)


def build(settings: EngineSettings, loaded: LoadedModel) -> Assembled:
    """Builds the engine around a model that is loaded. Raises StartupError."""
    device = loaded.model.device
    shape = cache_shape(settings, loaded)
    try:
        cache = KVCache(loaded.config, shape, device, loaded.model.dtype)
    except (RuntimeError, MemoryError) as error:
        kv_tokens = shape.total_blocks * BLOCK_TOKENS
        raise StartupError(f"no memory for a KV cache of {kv_tokens} tokens") from error
    blocks = BlockAccounting(shape.total_blocks, shape.block_tokens)
    prefill = settings.max_prefill_tokens or (2048 if device.type == "cpu" else 16_384)
    runner = Runner(loaded.model, cache, Sampler(loaded.eos_token_ids))
    _warm_up(runner, shape)
    mailbox = Mailbox()
    engine = Engine(
        scheduler=Scheduler(blocks, max_sequences=shape.max_sequences, max_prefill_tokens=prefill),
        runner=runner,
        eos_token_ids=loaded.eos_token_ids,
        mailbox=mailbox,
    )
    return Assembled(engine, mailbox, loaded, shape)


def cache_shape(settings: EngineSettings, loaded: LoadedModel) -> CacheShape:
    """What the cache can hold. Raises StartupError where that is less than one sequence."""
    on_cpu = loaded.model.device.type == "cpu"
    max_sequences = settings.max_sequences or (8 if on_cpu else 256)
    context = min(
        settings.max_context_tokens or (2048 if on_cpu else loaded.config.context_tokens),
        loaded.config.context_tokens,
    )
    most = max_sequences * -(-context // BLOCK_TOKENS)
    wanted = (settings.kv_tokens or (16_384 if on_cpu else 0)) // BLOCK_TOKENS
    total = wanted or min(most, _free_blocks(settings.kv_memory_fraction, loaded))
    if total < 1:
        raise StartupError("no memory is left for the KV cache")
    return CacheShape(total, BLOCK_TOKENS, max_sequences, min(context, total * BLOCK_TOKENS))


def _free_blocks(fraction: float, loaded: LoadedModel) -> int:
    torch.cuda.empty_cache()
    free_bytes, _ = torch.cuda.mem_get_info(loaded.model.device)
    block_bytes = BLOCK_TOKENS * bytes_per_token(loaded.config, loaded.model.dtype)
    return int(free_bytes * fraction) // block_bytes


def _warm_up(runner: Runner, shape: CacheShape) -> None:
    """Runs a prompt and a decode step, so that the first request pays for no set-up."""
    params = SamplingParams(max_tokens=2, temperature=1.0, top_p=0.95)
    length = min(8, shape.max_context_tokens - 1)
    sequence = Sequence(0, (0,) * length, params, place=0, blocks=(1,))
    runner.run(Step((sequence,), ()))
    sequence.output.append(0)
    runner.run(Step((), (sequence,)))
    runner.clear(sequence)
