"""A decoder backbone in ONNX Runtime's fused operators, for export alone.

Owns which of them compute what a `Decoder` computes: GroupQueryAttention (which turns queries
and keys by position, too), SkipSimplifiedLayerNormalization and QuickGelu (domain
com.microsoft). As in `fused`, they are traced as symbols. Called by `graphs`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from predictor_svc.training.decoder import Decoder, DecoderLayer, rotary_angles
from predictor_svc.training.fused import fixed, operator

LONGEST_TOKENS = 8192
"""Positions whose angles are stored: as many tokens as an input's form can have."""


class FusedDecoder(nn.Module):
    """Takes the place of a `Decoder` whose adapters are merged, in a model to be exported.

    Computes in `dtype` and gives float32: pooling and head cost nothing and stay exact.
    """

    def __init__(self, backbone: Decoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.epsilon = backbone.shape.epsilon
        self.words = fixed(backbone.words.weight, dtype)
        cosines, sines = rotary_angles(backbone.shape, torch.arange(LONGEST_TOKENS))
        self.cosines, self.sines = fixed(cosines, dtype), fixed(sines, dtype)
        layers = [each for each in backbone.layers if isinstance(each, DecoderLayer)]
        self.layers = nn.ModuleList(FusedDecoderLayer(each, dtype) for each in layers)
        # Each norm is fused with the addition before it: a layer gives what it adds, and the
        # next norm adds it.
        scales = [layer.attention_norm.weight for layer in layers] + [backbone.norm.weight]
        self.scales = nn.ParameterList(fixed(scale, dtype) for scale in scales)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask, (batch, length) int32, padding last, to (batch, length, width)."""
        states = torch.embedding(self.words, ids)
        normed = rms_norm(states, self.scales[0], self.epsilon)
        # Padding comes last, where causal attention never looks: every row counts as full.
        last_keys = (attention_mask >= 0).to(torch.int32).sum(dim=1, dtype=torch.int32) - 1
        total = torch.scalar_tensor(ids.shape[1], dtype=torch.int32)
        for layer, scale in zip(self.layers, list(self.scales)[1:], strict=True):
            states, added = layer(states, normed, last_keys, total, self.cosines, self.sines)
            states, normed = add_and_norm(states, added, scale, self.epsilon)
        return normed.float()


class FusedDecoderLayer(nn.Module):
    """One transformer layer, pre-norm, between its first norm and its last addition."""

    def __init__(self, layer: DecoderLayer, dtype: torch.dtype) -> None:
        super().__init__()
        self.shape = layer.shape
        projections = (layer.query, layer.key, layer.value)
        self.packed = fixed(torch.cat([each.weight for each in projections]).T, dtype)
        self.attended = fixed(layer.attended.weight.T, dtype)
        self.scale = fixed(layer.feed_norm.weight, dtype)
        self.gate = fixed(layer.gate.weight.T, dtype)
        self.up = fixed(layer.up.weight.T, dtype)
        self.down = fixed(layer.down.weight.T, dtype)

    def forward(
        self,
        states: Tensor,
        normed: Tensor,
        last_keys: Tensor,
        total: Tensor,
        cosines: Tensor,
        sines: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """(batch, length, width) states and their norm; gives states and what to add to them."""
        packed = normed @ self.packed
        mixed = self._attend(packed, last_keys, total, cosines, sines)
        states, normed = add_and_norm(states, mixed @ self.attended, self.scale, self.shape.epsilon)
        gate = normed @ self.gate
        # x · sigmoid(x), the SiLU that training has.
        gate = operator("QuickGelu", (gate,), {"alpha": 1.0}, gate.shape)
        return states, (gate * (normed @ self.up)) @ self.down

    def _attend(
        self, packed: Tensor, last_keys: Tensor, total: Tensor, cosines: Tensor, sines: Tensor
    ) -> Tensor:
        shape = self.shape
        batch, length, _ = packed.shape
        cached = (batch, shape.kv_heads, length, shape.head_size)
        mixed, _, _ = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            (packed, None, None, None, None, last_keys, total, cosines, sines),
            {"num_heads": shape.heads, "kv_num_heads": shape.kv_heads, "do_rotary": 1},
            dtypes=(packed.dtype,) * 3,
            shapes=((batch, length, shape.width), cached, cached),
            version=1,
        )
        return mixed


def rms_norm(states: Tensor, scale: Tensor, epsilon: float) -> Tensor:
    """RMS norm over the last axis, times `scale`."""
    return operator(
        "SimplifiedLayerNormalization",
        (states, scale),
        {"epsilon": epsilon, "axis": -1, "stash_type": 1},
        states.shape,
        domain="",
    )


def add_and_norm(
    states: Tensor, added: Tensor, scale: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """The sum, and its RMS norm times `scale`."""
    normed, _, _, total = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::SkipSimplifiedLayerNormalization",
        (added, states, scale),
        {"epsilon": epsilon},
        dtypes=(states.dtype, torch.float32, torch.float32, states.dtype),
        shapes=(states.shape, (1,), (1,), states.shape),
        version=1,
    )
    return total, normed
