"""A BERT backbone in ONNX Runtime's fused operators, for export alone.

Owns which of them compute what a `BertEncoder` computes: EmbedLayerNormalization, Attention,
SkipLayerNormalization and BiasGelu (domain com.microsoft), which the CPU and CUDA
providers run as one kernel each. PyTorch traces them as symbols, so the head around them
is exported as it is written. Built directly rather than by pattern matching, which breaks
without a word when an exporter changes its patterns. Called by `export`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from predictor_svc.training.bert import BertEncoder, Layer

# The same that `BertEncoder` adds where there is padding.
MASKED = -10000.0
Shape = Sequence[int | torch.SymInt]


class FusedBackbone(nn.Module):
    """Takes the place of a `BertEncoder` whose adapters are merged, in a model to be exported.

    Computes in `dtype` and gives float32: pooling and head cost nothing and stay exact.
    """

    def __init__(self, backbone: BertEncoder, dtype: torch.dtype, for_cpu: bool = False) -> None:
        """`for_cpu` takes for every operator the one that is fastest there."""
        super().__init__()
        self.epsilon = backbone.shape.epsilon
        # The one segment there is goes into the positions.
        positions = backbone.positions.weight + backbone.segment
        self.words = fixed(backbone.words.weight, dtype)
        self.positions = fixed(positions, dtype)
        self.gamma = fixed(backbone.norm.weight, dtype)
        self.beta = fixed(backbone.norm.bias, dtype)
        self.layers = nn.ModuleList(
            (CpuLayer if for_cpu else FusedLayer)(layer, self.epsilon, dtype)
            for layer in backbone.layers
            if isinstance(layer, Layer)
        )

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask, (batch, length) int32, padding last, to (batch, length, width)."""
        batch, length = ids.shape
        shape = (batch, length, self.gamma.shape[0])
        inputs = (ids, None, self.words, self.positions, None, self.gamma, self.beta)
        # Besides the states it counts the real tokens of each row: all that Attention needs.
        states, real_tokens = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::EmbedLayerNormalization",
            (*inputs, attention_mask),
            {"epsilon": self.epsilon},
            dtypes=(self.gamma.dtype, torch.int32),
            shapes=(shape, (batch,)),
            version=1,
        )
        for layer in self.layers:
            states = layer(states, real_tokens)
        return states.float()


class FusedLayer(nn.Module):
    """One transformer layer, post-norm."""

    def __init__(self, layer: Layer, epsilon: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = layer.heads
        self.epsilon = epsilon
        projections = (layer.query, layer.key, layer.value)
        self.packed = fixed(torch.cat([each.weight.T for each in projections], dim=1), dtype)
        self.packed_bias = fixed(torch.cat([each.bias for each in projections]), dtype)
        self.attended = fixed(layer.attended.weight.T, dtype)
        self.attended_norm = _norm(layer.attended_norm, layer.attended, dtype)
        self.up = fixed(layer.up.weight.T, dtype)
        self.up_bias = fixed(layer.up.bias, dtype)
        self.down = fixed(layer.down.weight.T, dtype)
        self.norm = _norm(layer.norm, layer.down, dtype)

    def forward(self, states: Tensor, real_tokens: Tensor) -> Tensor:
        """(batch, length, width), (batch,) to (batch, length, width)."""
        mixed = operator(
            "Attention",
            (states, self.packed, self.packed_bias, real_tokens),
            {"num_heads": self.heads, "mask_filter_value": MASKED},
            states.shape,
        )
        mixed = mixed @ self.attended
        states = self._add_and_norm(mixed, states, *self.attended_norm)
        hidden = states @ self.up
        # Unlike FastGelu it has the exact error function, as training does.
        hidden = operator("BiasGelu", (hidden, self.up_bias), {}, hidden.shape)
        return self._add_and_norm(hidden @ self.down, states, *self.norm)

    def _add_and_norm(
        self, added: Tensor, states: Tensor, scale: Tensor, shift: Tensor, bias: Tensor
    ) -> Tensor:
        inputs = (added, states, scale, shift, bias)
        attributes = {"epsilon": self.epsilon}
        return operator("SkipLayerNormalization", inputs, attributes, states.shape)


class CpuLayer(FusedLayer):
    """The same layer without SkipLayerNormalization, whose CPU kernel is not vectorised.

    At 128 tokens it takes 0.15 ms, addition and norm one after the other 0.05 ms (two cores).
    """

    def _add_and_norm(
        self, added: Tensor, states: Tensor, scale: Tensor, shift: Tensor, bias: Tensor
    ) -> Tensor:
        # Sum, because ONNX Runtime would fuse an Add and the norm again when it loads them. The
        # bias is added on its own, because the quantised product before it takes it in.
        total = operator("Sum", (added + bias, states), {}, states.shape, domain="")
        return functional.layer_norm(total, scale.shape, scale, shift, self.epsilon)


def _norm(norm: nn.LayerNorm, before: nn.Linear, dtype: torch.dtype) -> nn.ParameterList:
    """Scale, shift, and the bias of the linear layer before it, which the kernel adds, too."""
    return nn.ParameterList(fixed(each, dtype) for each in (norm.weight, norm.bias, before.bias))


def operator(
    name: str,
    inputs: Sequence[Tensor],
    attributes: Mapping[str, float],
    shape: Shape,
    domain: str = "com.microsoft",
) -> Tensor:
    """One fused operator whose output has its first input's type."""
    return torch.onnx.ops.symbolic(
        f"{domain}::{name}",
        inputs,
        dict(attributes),
        dtype=inputs[0].dtype,
        shape=shape,
        version=1 if domain else None,
    )


def fixed(tensor: Tensor, dtype: torch.dtype) -> nn.Parameter:
    """A weight of an exported graph."""
    return nn.Parameter(tensor.detach().to(dtype).contiguous(), requires_grad=False)
