"""Exported graphs of small random networks: what is in them, and what is not written."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from predictor_svc.encoder import InputForm
from predictor_svc.model_dir import MANIFEST, TOKENIZER, ModelConfig, Precision, open_model_dir
from predictor_svc.training import graphs
from predictor_svc.training.bert import BertEncoder, BertShape
from predictor_svc.training.export import PRECISIONS, ParityError, export
from predictor_svc.training.model import ProxyModel, ProxyShape, pad
from predictor_svc.training.weights import Trained
from tests.predictor_svc.small_model import DISTRIBUTION
from tests.predictor_svc.toy import bert_tokenizer

LAYERS, WIDTH = 2, 32
BACKBONE = BertShape(vocabulary=1200, positions=64, width=WIDTH, layers=LAYERS, heads=4, hidden=64)
LLM_TOKENS = (7, 9)


def random_model(folder: Path, seed: int = 0, **shape: Any) -> Trained:
    """A network whose weights, adapters and LLM table included, are all random."""
    torch.manual_seed(seed)
    proxy = ProxyShape(outputs=DISTRIBUTION.width, layers=LAYERS, hidden=16, **shape)
    model = ProxyModel(BertEncoder(BACKBONE), proxy)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    config = ModelConfig(
        task="test", llm="tiny-llm", input=InputForm(max_tokens=64), output=DISTRIBUTION
    )
    folder.mkdir(parents=True, exist_ok=True)
    bert_tokenizer(BACKBONE.vocabulary).save(str(folder / TOKENIZER))
    return Trained(model.eval(), config, f"revision-{seed}", folder / TOKENIZER)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every precision; tests only read it."""
    folder = tmp_path_factory.mktemp("exported")
    export(random_model(folder / "made", adapter_rank=2), folder / "model")
    return folder / "model"


def run(graph: Path, ids: torch.Tensor, mask: torch.Tensor) -> Any:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    feeds = {"input_ids": ids.int().numpy(), "attention_mask": mask.int().numpy()}
    return session.run(None, feeds)[0]


def graph_of(folder: Path, precision: Precision) -> Any:
    return onnx.load(open_model_dir(folder).graph(precision))


@pytest.mark.parametrize(
    "shape",
    [
        {"pooling": "mean", "head": "normed", "adapter_rank": 2},
        {"pooling": "cls", "head": "ssjf"},
        {"pooling": "mean", "head": "normed", "llm_tokens": LLM_TOKENS},
        {"pooling": "cls", "head": "ssjf", "llm_tokens": LLM_TOKENS},
    ],
)
def test_every_shape_of_network_is_exported_as_it_is(shape: dict[str, Any], tmp_path: Path) -> None:
    trained = random_model(tmp_path, **shape)
    # The second token is an LLM's where the network knows LLMs: two known ones, one other.
    ids, mask = pad([[1, 7, *range(20, 50)], [1, 9, 30], [1, 8], [1, 7, 40]])
    with torch.no_grad():
        wanted = trained.model(ids, mask).numpy()
    export(trained, tmp_path / "model", ["fp32"])
    got = run(open_model_dir(tmp_path / "model").graph("fp32"), ids, mask)
    assert np.abs(got - wanted).max() < 1e-4
    assert np.abs(wanted - wanted.mean(axis=0)).max() > 0.1  # the rows do differ


def test_the_folder_holds_one_file_a_precision(exported: Path) -> None:
    manifest = open_model_dir(exported).manifest
    graph_files = [stored.file for stored in manifest.graphs.values()]
    assert list(manifest.graphs) == list(PRECISIONS)
    assert {path.name for path in exported.iterdir()} == {*graph_files, TOKENIZER, MANIFEST}
    assert manifest.cpu_precision == "int8"
    assert manifest.outputs == {"outputs": ("batch", "8")}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_graph_says_what_it_is(precision: Precision, exported: Path) -> None:
    graph = graph_of(exported, precision)
    facts = {each.key: each.value for each in graph.metadata_props}
    assert facts["revision"] == "revision-0"
    assert (facts["task"], facts["llm"], facts["precision"]) == ("test", "tiny-llm", precision)
    assert int(facts["opset"]) == next(o.version for o in graph.opset_import if not o.domain)
    assert json.loads(facts["inputs"])["attention_mask"] == ["batch", "length"]
    assert json.loads(facts["outputs"]) == {"outputs": ["batch", "8"]}
    assert facts["max_tokens"] == "64"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_takes_int32_and_gives_float32(
    precision: Precision, exported: Path
) -> None:
    session = onnxruntime.InferenceSession(
        open_model_dir(exported).graph(precision), providers=["CPUExecutionProvider"]
    )
    assert [(each.name, each.type) for each in session.get_inputs()] == [
        ("input_ids", "tensor(int32)"),
        ("attention_mask", "tensor(int32)"),
    ]
    assert [(each.name, each.type) for each in session.get_outputs()] == [
        ("outputs", "tensor(float)")
    ]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_transformer_is_fused(precision: Precision, exported: Path) -> None:
    operators = Counter(node.op_type for node in graph_of(exported, precision).graph.node)
    assert operators["EmbedLayerNormalization"] == 1
    assert operators["Attention"] == LAYERS
    assert operators["SkipLayerNormalization"] == 2 * LAYERS
    assert operators["BiasGelu"] == LAYERS
    assert operators["MatMul"] == 3 * LAYERS
    assert operators["Softmax"] == 0


def test_int8_holds_the_backbone_in_8_bits(exported: Path) -> None:
    graph = graph_of(exported, "int8").graph
    operators = Counter(node.op_type for node in graph.node)
    assert operators["QAttention"] == LAYERS
    assert operators["MatMulInteger"] == 3 * LAYERS
    assert operators["QEmbedLayerNormalization"] == 1
    assert operators["SkipLayerNormalization"] == 0  # slow on CPUs
    assert operators["MatMul"] == 2  # the head's
    floats = [each for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT]
    assert max(np.prod(each.dims) for each in floats) <= WIDTH * 16  # the head's


def test_fp16_halves_the_weights_of_the_backbone(exported: Path) -> None:
    graph = graph_of(exported, "fp16").graph
    kinds = {each.name: each.data_type for each in graph.initializer}
    inputs = [node.input[1] for node in graph.node if node.op_type in ("Attention", "MatMul")]
    assert {kinds[name] for name in inputs} == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_padding_changes_nothing(precision: Precision, exported: Path) -> None:
    graph = open_model_dir(exported).graph(precision)
    alone = run(graph, *pad([[3, 30, 31, 32]]))
    beside = run(graph, *pad([[3, 30, 31, 32], list(range(40, 80))]))
    # Activations are quantised with one scale a batch: int8 differs a little.
    assert np.abs(alone[0] - beside[0]).max() < (0.3 if precision == "int8" else 2e-3)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_of_padding_alone_is_finite(precision: Precision, exported: Path) -> None:
    ids, mask = torch.zeros(2, 8), torch.zeros(2, 8)
    assert np.isfinite(run(open_model_dir(exported).graph(precision), ids, mask)).all()


def test_the_same_network_gives_the_same_files_wherever_it_is_exported(
    exported: Path, tmp_path: Path
) -> None:
    again = export(random_model(tmp_path, adapter_rank=2), tmp_path / "model")
    assert again == open_model_dir(exported).manifest
    content = b"".join(path.read_bytes() for path in exported.glob("*.onnx"))
    assert str(Path(graphs.__file__).parent).encode() not in content


def test_another_model_takes_the_place_of_the_old_graphs(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "model")
    (folder / "model.onnx").write_bytes(b"of an older version")
    old = {stored.file for stored in open_model_dir(folder).manifest.graphs.values()}
    manifest = export(random_model(tmp_path, seed=1), folder, ["fp32"])
    assert open_model_dir(folder).manifest == manifest
    assert manifest.revision == "revision-1"
    assert manifest.cpu_precision == "fp32"
    there = {path.name for path in folder.iterdir()}
    assert there == {manifest.graphs["fp32"].file, TOKENIZER, MANIFEST}
    assert not there & old  # an old manifest never points at new bytes


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_graph_of_another_network_is_not_written(
    precision: Precision, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_another(*arguments: Any) -> None:
        shutil.copyfile(open_model_dir(exported).graph("fp32"), arguments[1])

    monkeypatch.setattr(graphs, "write_float", write_another)
    monkeypatch.setattr(graphs, "write_int8", write_another)
    folder = shutil.copytree(exported, tmp_path / "model")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ParityError, match=f"^{precision}: "):
        export(random_model(tmp_path, seed=1), folder, [precision])
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_network_that_gives_nan_is_not_written(tmp_path: Path) -> None:
    trained = random_model(tmp_path)
    with torch.no_grad():
        next(trained.model.head.parameters()).fill_(float("nan"))
    with pytest.raises(ParityError, match="not all finite"):
        export(trained, tmp_path / "model", ["fp32"])
    assert list((tmp_path / "model").iterdir()) == []


def test_no_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="precisions: at least one"):
        export(random_model(tmp_path), tmp_path / "model", [])
