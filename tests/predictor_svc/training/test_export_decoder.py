"""Exported graphs of a small random decoder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from predictor_svc.encoder import InputForm
from predictor_svc.model_dir import TOKENIZER, ModelConfig, Precision, open_model_dir
from predictor_svc.session import Session, SessionOptions
from predictor_svc.training.decoder import Decoder, DecoderShape
from predictor_svc.training.export import export
from predictor_svc.training.model import ProxyModel, ProxyShape, pad
from predictor_svc.training.weights import Trained
from tests.predictor_svc.small_model import DISTRIBUTION
from tests.predictor_svc.toy import letters_tokenizer
from tests.predictor_svc.training.test_export import graph_of, run

LAYERS = 2
SHAPE = DecoderShape(
    vocabulary=300,
    width=64,
    layers=LAYERS,
    heads=4,
    kv_heads=2,
    hidden=96,
    epsilon=1e-5,
    rope_theta=1000.0,
)
ROWS = [[1, *range(20, 60)], [2, 9, 30], [3, 40], [0, 40, 41]]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")


def random_model(folder: Path, **shape: Any) -> Trained:
    """A network whose weights, adapters and LLM table included, are all random."""
    torch.manual_seed(0)
    proxy = ProxyShape(
        outputs=DISTRIBUTION.width,
        layers=LAYERS,
        hidden=16,
        pooling="last-mean",
        llm_tokens=(1, 2),
        llm_position=0,
        llm_seen_as=7,
        **shape,
    )
    model = ProxyModel(Decoder(SHAPE), proxy)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    form = InputForm(layout="chat", marks="role", max_tokens=64)
    config = ModelConfig(task="test", llm="several", input=form, output=DISTRIBUTION)
    folder.mkdir(parents=True, exist_ok=True)
    letters_tokenizer().save(str(folder / TOKENIZER))
    return Trained(model.eval(), config, "revision", folder / TOKENIZER)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Path]:
    """A model with adapters, and its folder in every precision; tests only read it."""
    folder = tmp_path_factory.mktemp("exported")
    trained = random_model(folder / "made", adapter_rank=2)
    export(trained, folder / "model")
    return trained, folder / "model"


def test_every_precision_computes_what_the_model_computes(made: tuple[Trained, Path]) -> None:
    trained, folder = made
    ids, mask = pad(ROWS)
    with torch.no_grad():
        wanted = trained.model(ids, mask).numpy()
    assert np.abs(wanted - wanted.mean(axis=0)).max() > 0.1  # the rows do differ
    model = open_model_dir(folder)
    assert np.abs(run(model.graph("fp32"), ids, mask) - wanted).max() < 1e-4
    assert np.abs(run(model.graph("fp16"), ids, mask) - wanted).max() < 2e-2


def test_a_decoder_has_no_int8_graph(made: tuple[Trained, Path], tmp_path: Path) -> None:
    trained, folder = made
    manifest = open_model_dir(folder).manifest
    assert tuple(manifest.graphs) == PRECISIONS
    assert manifest.cpu_precision == "fp32"
    with pytest.raises(ValueError, match="of this model there are fp32, fp16"):
        export(trained, tmp_path / "model", ["fp32", "int8"])
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_transformer_is_fused(precision: Precision, made: tuple[Trained, Path]) -> None:
    graph = graph_of(made[1], precision).graph
    operators = Counter(node.op_type for node in graph.node)
    assert operators["GroupQueryAttention"] == LAYERS
    assert operators["SkipSimplifiedLayerNormalization"] == 2 * LAYERS
    assert operators["SimplifiedLayerNormalization"] == 1
    assert operators["QuickGelu"] == LAYERS
    assert operators["MatMul"] == 5 * LAYERS + 1  # each LLM's own weights in the head
    assert operators["Softmax"] == operators["Range"] == 0
    kinds = {each.name: each.data_type for each in graph.initializer}
    factors = [node.input[1] for node in graph.node if node.op_type == "MatMul"]
    assert {kinds[name] for name in factors if name in kinds} == {
        getattr(onnx.TensorProto, {"fp32": "FLOAT", "fp16": "FLOAT16"}[precision])
    }


@pytest.mark.parametrize("precision", PRECISIONS)
def test_padding_changes_nothing(precision: Precision, made: tuple[Trained, Path]) -> None:
    graph = open_model_dir(made[1]).graph(precision)
    beside = run(graph, *pad(ROWS))
    for row, ids in enumerate(ROWS):
        assert np.abs(run(graph, *pad([ids]))[0] - beside[row]).max() < 2e-3


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_of_padding_alone_is_finite(precision: Precision, made: tuple[Trained, Path]) -> None:
    ids, mask = torch.zeros(2, 8), torch.zeros(2, 8)
    assert np.isfinite(run(open_model_dir(made[1]).graph(precision), ids, mask)).all()


@pytest.mark.gpu
def test_on_cuda_it_is_captured_and_computes_the_same(made: tuple[Trained, Path]) -> None:
    trained, folder = made
    options = SessionOptions(provider="cuda", max_batch=4)
    session = Session(open_model_dir(folder).graph("fp16"), options, max_tokens=64)
    session.warm_up()
    with torch.no_grad():
        wanted = trained.model(*pad(ROWS)).numpy()
    assert session.captures
    assert np.abs(session.run(ROWS) - wanted).max() < 2e-2
    assert not session.partly_on_cpu
    # CUDA has no fp32 attention with shared keys: that graph runs, but says what it is.
    exact = Session(open_model_dir(folder).graph("fp32"), options, max_tokens=64)
    assert exact.partly_on_cpu
    assert not exact.captures
