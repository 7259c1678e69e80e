"""What a model's shape is, as one plain value.

Read from a Hugging Face configuration (`huggingface`), from a GGUF file's metadata
(`gguf_file`) or from a name (`shapes`); the model, the KV cache and the service only
read it.
"""

from __future__ import annotations

from dataclasses import dataclass


class UnsupportedModel(ValueError):
    """The model needs something that the engine has not; one line says what."""


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (RoFormer, section 3.2) and its scaling."""

    theta: float
    kind: str = "default"
    """`default`, `linear`, `llama3`, `yarn` or `divided`."""
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 1.0
    original_context_tokens: int = 0
    fast_turns: float = 32.0
    """Of `yarn`: pairs that turn more often than this over the original context stay."""
    slow_turns: float = 1.0
    """Of `yarn`: pairs that turn less often than this are stretched by the whole factor."""
    whole_pairs: bool = True
    """Of `yarn`: whether the border pairs are rounded to whole ones."""
    magnitude: float = 1.0
    """What cosines and sines are multiplied by."""
    divisors: tuple[float, ...] = ()
    """Of `divided`: what each pair's frequency is divided by."""


@dataclass(frozen=True, slots=True)
class Traits:
    """In what one family differs from another."""

    qkv_bias: bool = False
    out_bias: bool = False
    """Of the attention's output product."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """Whether each query and key head is RMS-normed before it is rotated."""
    windows: tuple[int | None, ...] = ()
    """Tokens that each layer looks back on, itself counted, None for all; empty: all layers all."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a decoder-only transformer."""

    family: str
    vocabulary_size: int
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_size: int
    norm_eps: float
    context_tokens: int
    tied_embeddings: bool
    rope: Rope
    traits: Traits = Traits()

    @property
    def qkv_size(self) -> int:
        """Features of queries, keys and values of one token."""
        return (self.heads + 2 * self.kv_heads) * self.head_size

    def window(self, layer: int) -> int | None:
        """Tokens that a layer looks back on; None: all."""
        return self.traits.windows[layer] if self.traits.windows else None
