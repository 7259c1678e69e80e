"""The decoder that all supported families share: RMSNorm, grouped-query attention, SwiGLU.

A forward pass over our own KV cache; it knows no sequence and no request. Source:
LLaMA (Touvron et al. 2023), section 2.2; grouped queries: Ainslie et al. 2023. In what
families differ is in `config.Traits`. Called by `runner`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from engine_svc.attention import Attention, HeadRules
from engine_svc.model.ops import AddedTo, Ops, Rows, ops_for
from engine_svc.model.parameters import LayerParameters, Parameters
from engine_svc.model.rope import RotaryTable


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """The tokens of one forward pass: those of chunks one after another, then one a row."""

    token_ids: Tensor
    """int64 [tokens]."""
    positions: Tensor
    """int64 [tokens], from 0 in each sequence."""
    attention: Attention
    logits_at: Tensor | None = None
    """int64 [rows]: the tokens whose logits are wanted; None: all."""


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: Rows
    heads: HeadRules
    out: AddedTo
    gate_up: Rows
    down: AddedTo


class Decoder:
    """A model whose weights are on one device."""

    def __init__(self, parameters: Parameters, max_positions: int, ops: Ops | None = None) -> None:
        """`ops` replaces the operations that the device would get, for comparisons."""
        self.config = config = parameters.config
        self._embedding = parameters.embedding
        self.device, self.dtype = self._embedding.device, self._embedding.dtype
        ops = ops or ops_for(self.device, config.norm_eps)
        self._layers = [self._layer(ops, i, layer) for i, layer in enumerate(parameters.layers)]
        self._head = ops.normed(parameters.norm, parameters.head)
        ops.prepare()
        self._rotary = RotaryTable(config.rope, config.head_size, max_positions, self.device)

    def forward(self, batch: ForwardBatch) -> Tensor:
        """Logits of the next token, the model's dtype [rows, vocabulary]."""
        hidden = functional.embedding(batch.token_ids, self._embedding)
        rotation = self._rotary.at(batch.positions)
        for index, layer in enumerate(self._layers):
            attended = batch.attention(index, layer.qkv(hidden), rotation, layer.heads)
            hidden = layer.out(attended, hidden)
            hidden = layer.down(layer.gate_up(hidden), hidden)
        if batch.logits_at is not None:
            hidden = hidden[batch.logits_at]
        return self._head(hidden)

    def _layer(self, ops: Ops, index: int, layer: LayerParameters) -> _Layer:
        heads = HeadRules(
            heads=self.config.heads,
            query_norm=layer.query_norm,
            key_norm=layer.key_norm,
            norm_eps=self.config.norm_eps,
            window_tokens=self.config.window(index),
        )
        return _Layer(
            qkv=ops.normed(layer.attention_norm, layer.qkv, layer.qkv_bias),
            heads=heads,
            out=ops.added(layer.out, layer.out_bias),
            gate_up=ops.gated(layer.mlp_norm, layer.gate_up, layer.gate_up_bias),
            down=ops.added(layer.down, layer.down_bias),
        )
