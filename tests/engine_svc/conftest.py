"""The real default model and a tiny random one, each loaded once for the session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from engine_svc.__main__ import SERVICE, service_of
from engine_svc.assembly import Assembled, build
from engine_svc.config import EngineSettings
from engine_svc.loop_thread import LoopThread
from engine_svc.messages import Stop
from engine_svc.model.loading import LoadedModel, embedded_model, load
from engine_svc.service import EngineService
from engine_svc.tokenizer import Tokenizer
from ssjf.engine.v1 import engine_pb2_grpc
from ssjf.wire.server import Listening, listen

from .gateway_side import Gateway

# A busy machine must fail no test.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

CPU = torch.device("cpu")
MakeEngine = Callable[..., Assembled]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Threads that wait for one another are slower than one where the cores are shared."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pretrained() -> Any:
    """The default model's tokenizer as transformers loads it."""
    path = embedded_model()
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)


@pytest.fixture(scope="session")
def tokenizer(pretrained: Any) -> Tokenizer:
    return Tokenizer(pretrained)


@pytest.fixture(scope="session")
def smollm2() -> LoadedModel:
    return load("", device=CPU, dtype=torch.float32, max_context_tokens=2048)


@pytest.fixture(scope="session")
def reference() -> Any:
    """The default model as transformers itself loads it."""
    path = embedded_model()
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, local_files_only=True, dtype=torch.float32
    )


@pytest.fixture(scope="session")
def tiny_folder(pretrained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: two layers of random weights under the real vocabulary."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(pretrained),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.5,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    pretrained.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> LoadedModel:
    return load(str(tiny_folder), device=CPU, dtype=torch.float32)


@pytest.fixture
def make_engine(tiny: LoadedModel) -> MakeEngine:
    """Builds an engine around the tiny model, or another; settings as keywords."""

    def make(loaded: LoadedModel = tiny, **settings: Any) -> Assembled:
        return build(EngineSettings(device="cpu", **settings), loaded)

    return make


@dataclass(frozen=True)
class Serving:
    """An engine that serves in this process."""

    listening: Listening
    service: EngineService
    assembled: Assembled

    def connect(self) -> Gateway:
        return Gateway(self.listening.address)


@pytest.fixture
async def serve(make_engine: MakeEngine) -> AsyncIterator[Callable[..., Any]]:
    """Starts engines over real gRPC; settings as keywords."""
    started: list[tuple[Serving, LoopThread]] = []

    async def start(**options: Any) -> Serving:
        settings = EngineSettings(device="cpu", port=0, **options)
        assembled = make_engine(**options)
        loop = LoopThread(assembled)
        service = service_of(loop, settings)
        adds = {
            SERVICE: lambda server: engine_pb2_grpc.add_EngineServiceServicer_to_server(
                service, server
            )
        }
        serving = Serving(await listen(settings, adds), service, assembled)
        started.append((serving, loop))
        return serving

    yield start
    for serving, loop in started:
        await serving.listening.server.stop(grace=None)
        loop.post(Stop())
        await loop.ended
