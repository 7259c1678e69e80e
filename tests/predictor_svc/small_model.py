"""Model folders made in milliseconds: real ONNX graphs that average an embedding.

What a test needs of a graph (NaN, another width, int32 inputs, float16 outputs) is an
argument; the network learns nothing, so predictions are arbitrary but fixed by the seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from predictor_svc.encoder import InputForm
from predictor_svc.loaded import LoadOptions
from predictor_svc.model_dir import MANIFEST, TOKENIZER, Manifest, ModelConfig, StoredFile, sha256
from predictor_svc.outputs import ClassesOutput, DistributionOutput, Output
from predictor_svc.session import Provider, SessionOptions
from predictor_svc.training.backbone import packaged_folder

WORDS = 30522
DISTRIBUTION = DistributionOutput(
    bin_count=8,
    top_tokens=256,
    beyond_tokens=362,
    rank_values=tuple(n / 8 for n in range(8)),
    quantiles=(0.5, 0.9),
    levels=(0.5, 0.9),
)
CLASSES = ClassesOutput(thresholds=(10.0, 100.0), class_tokens=(5.0, 50.0, 200.0))
FORM = InputForm(max_tokens=40)


@dataclass(frozen=True)
class Graph:
    """What is peculiar about a graph."""

    seed: int = 0
    width: int | None = None
    """Outputs; as many as the configuration says by default."""
    value: float | None = None
    """What every weight is, in place of random ones."""
    inputs: int = TensorProto.INT64
    outputs: int = TensorProto.FLOAT


def config(output: Output = DISTRIBUTION, form: InputForm = FORM) -> ModelConfig:
    return ModelConfig(task="test", llm="tiny-llm", input=form, output=output)


def write_graph(path: Path, width: int, graph: Graph) -> None:
    """outputs = mean over real tokens of an embedding of `width`."""
    shape = (WORDS, graph.width or width)
    table = np.random.default_rng(graph.seed).normal(size=shape).astype(np.float32) * 5
    if graph.value is not None:
        table[:] = graph.value
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "input_ids"], ["vectors"]),
        node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "last"], ["weights"]),
        node("Mul", ["vectors", "weights"], ["weighted"]),
        node("ReduceSum", ["weighted", "length_axis"], ["sum"], keepdims=0),
        node("ReduceSum", ["mask", "length_axis"], ["count"], keepdims=1),
        node("Div", ["sum", "count"], ["mean"]),
        node("Cast", ["mean"], ["outputs"], to=graph.outputs),
    ]
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "small",
        [
            value(name, graph.inputs, ["batch", "length"])
            for name in ("input_ids", "attention_mask")
        ],
        [value("outputs", graph.outputs, ["batch", shape[1]])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([2]), "last"),
            numpy_helper.from_array(np.array([1]), "length_axis"),
        ],
    )
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path
    )


def write_model(
    folder: Path,
    revision: str,
    graph: Graph = Graph(),
    stored: ModelConfig | None = None,
) -> Manifest:
    """A whole folder, or a newer model in an old one: each file by rename, the manifest last."""
    stored = stored or config()
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{revision}.fp32.onnx"
    write_graph(folder / ".graph", stored.output.width, graph)
    (folder / ".graph").replace(folder / name)
    if not (folder / TOKENIZER).exists():
        (folder / TOKENIZER).write_bytes((packaged_folder() / TOKENIZER).read_bytes())
    manifest = Manifest(
        revision=revision,
        config=stored,
        opset=18,
        inputs={"input_ids": ("batch", "length"), "attention_mask": ("batch", "length")},
        outputs={"outputs": ("batch", str(stored.output.width))},
        graphs={"fp32": StoredFile(file=name, sha256=sha256(folder / name))},
        cpu_precision="fp32",
        tokenizer=StoredFile(file=TOKENIZER, sha256=sha256(folder / TOKENIZER)),
    )
    write_manifest(folder, manifest.model_dump_json())
    return manifest


def write_manifest(folder: Path, content: str) -> None:
    """Replaces the manifest by a rename."""
    (folder / ".manifest").write_text(content)
    (folder / ".manifest").replace(folder / MANIFEST)


def load_options(folder: Path, provider: Provider = "cpu") -> LoadOptions:
    return LoadOptions(folder, "auto", SessionOptions(provider=provider, threads=1, max_batch=4))
