"""Puts model, cache, scheduler and loop together for a device.

Fills the settings that were left open from what the device has (`sizing`). Called by
the composition root and by tests that want a whole engine without gRPC.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine_svc import graphs, sizing
from engine_svc.batch_tables import BatchTables
from engine_svc.blocks import BlockAccounting
from engine_svc.config import EngineSettings
from engine_svc.engine import Engine
from engine_svc.kv_cache import CacheShape, KVCache
from engine_svc.mailbox import Mailbox
from engine_svc.model.loading import LoadedModel, load
from engine_svc.runner import Runner
from engine_svc.sampler import DeviceSampler
from engine_svc.scheduler import Scheduler
from ssjf.wire.run import StartupError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
    prefill = sizing.prefill_tokens(settings, loaded)
    shape = sizing.cache_shape(settings, loaded, prefill.idle)
    runner = make_runner(loaded, shape)
    sizing.warm_up(runner, shape)
    if device.type == "cuda" and settings.cuda_graphs:
        runner.use(_graphs(runner, shape, prefill.idle))
    scheduler = Scheduler(
        BlockAccounting(shape.total_blocks, shape.block_tokens),
        max_sequences=shape.max_sequences,
        max_prefill_tokens=prefill.beside_decode,
        max_idle_prefill_tokens=prefill.idle,
        prefix_reuse=settings.prefix_reuse,
    )
    mailbox = Mailbox()
    engine = Engine(
        scheduler=scheduler,
        runner=runner,
        eos_token_ids=loaded.eos_token_ids,
        mailbox=mailbox,
        overlap=device.type != "cpu",
    )
    return Assembled(engine, mailbox, loaded, shape)


def make_runner(loaded: LoadedModel, shape: CacheShape) -> Runner:
    """A cache and what runs steps over it. Raises StartupError where there is no memory."""
    device = loaded.model.device
    try:
        cache = KVCache(loaded.config, shape, device, loaded.model.dtype)
    except (RuntimeError, MemoryError) as error:
        kv_tokens = shape.total_blocks * shape.block_tokens
        raise StartupError(f"no memory for a KV cache of {kv_tokens} tokens") from error
    sampler = DeviceSampler(
        places=shape.max_sequences,
        vocabulary=loaded.config.vocabulary_size,
        eos_token_ids=loaded.eos_token_ids,
        device=device,
    )
    return Runner(loaded.model, cache, BatchTables(shape, device), sampler)


@torch.inference_mode()
def _graphs(runner: Runner, shape: CacheShape, prefill_tokens: int) -> graphs.Graphs:
    sizes = graphs.decode_sizes(shape.max_sequences)
    sizes += graphs.mixed_sizes(shape.max_sequences, prefill_tokens)
    captured = graphs.Graphs(runner.forward, shape.max_context_tokens)
    captured.capture(sizes, shape.max_sequences, runner.device)
    return captured
