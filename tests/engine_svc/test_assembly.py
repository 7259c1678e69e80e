from __future__ import annotations

import pytest

from engine_svc.assembly import assemble, build
from engine_svc.config import EngineSettings
from engine_svc.kv_cache import CacheShape
from engine_svc.model.loading import LoadedModel
from engine_svc.sizing import cache_shape
from ssjf.wire.run import StartupError

from .conftest import MakeEngine
from .turns import Turns


def test_what_is_left_open_is_filled_for_the_cpu(smollm2: LoadedModel) -> None:
    shape = cache_shape(EngineSettings(device="cpu"), smollm2, 512)
    assert shape == CacheShape(
        total_blocks=1024, block_tokens=16, max_sequences=8, max_context_tokens=2048
    )


def test_the_context_is_never_more_than_the_models_own(tiny: LoadedModel) -> None:
    settings = EngineSettings(device="cpu", max_context_tokens=100_000)
    assert cache_shape(settings, tiny, 512).max_context_tokens == 512


def test_the_context_is_never_more_than_the_cache_holds(tiny: LoadedModel) -> None:
    settings = EngineSettings(device="cpu", kv_tokens=100)
    assert cache_shape(settings, tiny, 512).max_context_tokens == 96


def test_warming_up_leaves_nothing_behind(make_engine: MakeEngine) -> None:
    turns = Turns(make_engine())
    turns.turn()
    assert turns.is_empty


def test_a_cache_without_room_for_its_memory_is_one_line(tiny: LoadedModel) -> None:
    with pytest.raises(StartupError, match="no memory for a KV cache"):
        build(EngineSettings(device="cpu", kv_tokens=10**15), tiny)


def test_cuda_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(StartupError, match="finds no CUDA device"):
        assemble(EngineSettings(device="cuda"))
