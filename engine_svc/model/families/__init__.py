"""The families of models that are supported, one file each; this is their registry.

All are the same decoder (`engine_svc.model.decoder`); a family says what its files are
called and how its traits are read. Adding one is a file and a line here.
"""

from __future__ import annotations

from typing import Final

from engine_svc.model.config import UnsupportedModel
from engine_svc.model.families import llama, mistral, qwen2, qwen3
from engine_svc.model.families.family import Family

FAMILIES: Final = (llama.FAMILY, mistral.FAMILY, qwen2.FAMILY, qwen3.FAMILY)


def of_architectures(names: list[str]) -> Family:
    """The family of a Hugging Face model's `architectures`. Raises UnsupportedModel."""
    found = [family for family in FAMILIES if family.architecture in names]
    if not found:
        raise unsupported(", ".join(names) or "unnamed")
    return found[0]


def of_gguf(name: str) -> Family:
    """The family of a GGUF file's `general.architecture`. Raises UnsupportedModel."""
    found = [family for family in FAMILIES if family.name == name and family.in_gguf]
    if not found:
        raise unsupported(f"{name} (GGUF)")
    return found[0]


def unsupported(what: str) -> UnsupportedModel:
    """The error for an architecture of no family here."""
    names = ", ".join(family.architecture for family in FAMILIES)
    return UnsupportedModel(f"architecture {what} is not supported; supported: {names}")
