"""Mistral (Jiang et al. 2023): Llama with a sliding window, section 2, where its files say so.

In GGUF it goes by the name of llama.
"""

from __future__ import annotations

from typing import Any

from engine_svc.model.config import Traits
from engine_svc.model.families.family import Family


def _traits(config: Any) -> Traits:
    if config.sliding_window is None:
        return Traits()
    return Traits(windows=(config.sliding_window,) * config.num_hidden_layers)


FAMILY = Family("mistral", "MistralForCausalLM", _traits, in_gguf=False)
