"""A trained network to ONNX files, one for each precision of its weights.

Owns how each precision is made: fp32 and fp16 are traced by PyTorch around the fused
backbone, int8 is laid out for CPUs, its matrix products and embeddings quantised. Knows
nothing of folders or manifests. Called by `export`.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

from predictor_svc.model_dir import Precision
from predictor_svc.training.adapted import Backbone
from predictor_svc.training.bert import BertEncoder
from predictor_svc.training.decoder import Decoder
from predictor_svc.training.fused import FusedBackbone
from predictor_svc.training.fused_decoder import FusedDecoder
from predictor_svc.training.model import ProxyModel, pad

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
OPSET = 18
DECODER_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
# Some of a decoder's activations are a thousand times the others. With one scale a tensor, int8
# leaves little of the small ones: SmolLM2's outputs correlated with fp32's by 0.57 only.
INPUTS = {"input_ids": ("batch", "length"), "attention_mask": ("batch", "length")}
OUTPUT = "outputs"
# Per channel: with one scale for a whole matrix outputs are three times as far off.
QUANTISED = ("MatMul", "Attention", "EmbedLayerNormalization")


def precisions_of(model: ProxyModel) -> tuple[Precision, ...]:
    """Precisions that a graph of this model can have."""
    return DECODER_PRECISIONS if isinstance(model.backbone, Decoder) else PRECISIONS


def write_float(model: ProxyModel, path: Path, dtype: torch.dtype, for_cpu: bool = False) -> None:
    """Writes the graph, weights inside, both axes dynamic; inputs int32, outputs float32.

    `model` is in evaluation mode with its adapters merged; `dtype` is the backbone's, and
    `for_cpu` takes for every operator the one that is fastest there.
    """
    fused = copy.copy(model)
    fused._modules = dict(model._modules)
    fused.backbone = _fused(model.backbone, dtype, for_cpu)  # type: ignore[assignment]
    ids, mask = pad([[101, 2000, 2001, 2002, 102], [101, 2003, 102]])
    axes = {"batch": torch.export.Dim("batch"), "length": torch.export.Dim("length")}
    with _without_chatter(), torch.no_grad():
        torch.onnx.export(
            fused.eval(),
            (ids.int(), mask.int()),
            path,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_shapes={name: {0: axes["batch"], 1: axes["length"]} for name in INPUTS},
            external_data=False,
            verbose=False,
        )


def write_int8(model: ProxyModel, path: Path) -> None:
    """Writes the graph with the backbone's weights in 8 bits; inputs are quantised as they
    come (dynamic quantisation). The head stays as it is. `model` is as in `write_float`.
    """
    write_float(model, path, torch.float32, for_cpu=True)
    graph = onnx.load(path)
    # PyTorch's own notes on shapes contradict what its optimiser has made of the head.
    graph.graph.ClearField("value_info")
    names = [node.name for node in graph.graph.node if node.op_type in QUANTISED]
    with _without_chatter():
        quantize_dynamic(
            graph,
            path,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_quantize=names,
            per_channel=True,
            weight_type=QuantType.QInt8,
            # Fused operators have no shape inference, which would tell it that these are floats.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )


def describe(path: Path, facts: Mapping[str, str]) -> None:
    """Stores `facts` as the file's metadata, in place of the exporter's notes on its source.

    Those name the building machine's folders; without them the same weights give the same bytes.
    """
    graph = onnx.load(path)
    _drop_unread(graph.graph)
    for each in (graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.input):
        each.ClearField("metadata_props")
        each.ClearField("doc_string")
    onnx.helper.set_model_props(graph, dict(facts))
    onnx.save(graph, path)


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Of the norms' outputs those that training alone would want; kernels may not give them."""
    read = {name for node in graph.node for name in node.input}
    for node in graph.node:
        if node.op_type == "SkipSimplifiedLayerNormalization":
            outputs = [name if name in read else "" for name in node.output]
            while outputs and not outputs[-1]:
                outputs.pop()
            node.output[:] = outputs


def _fused(backbone: Backbone, dtype: torch.dtype, for_cpu: bool) -> nn.Module:
    if isinstance(backbone, BertEncoder):
        return FusedBackbone(backbone, dtype, for_cpu)
    if isinstance(backbone, Decoder):
        return FusedDecoder(backbone, dtype)
    raise TypeError(f"{type(backbone).__name__} has no fused form")


@contextmanager
def _without_chatter() -> Iterator[None]:
    """The exporters print their own progress, give advice, and warn about their own future."""
    names = ("torch.onnx", "onnxscript", "onnx_ir", None)
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
