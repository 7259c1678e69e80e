"""Which LLM that a model was trained on stands for one that it was not.

Owns how the names of LLMs are written and which of them are of a family. Knows nothing of
networks and of prompts. Pure; called by `encoder`, `cache` and `llm_notes`, so that serving
and evaluation read a name alike, and by training, which learns a family's place.

    meta-llama/Llama-3.1-8B-Instruct     maker / name
    Meta-Llama-3.1-8B-Instruct.Q4_K_M.gguf   the same LLM: case, separators, file form
    Llama-3.2-1B-Instruct                of its family: llama, major version 3
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

MOST_REMEMBERED: Final = 4096
"""Names whose reading is kept; what clients send is not bounded."""
SAME_MAKER: Final = {"ministral": "mistral", "mixtral": "mistral"}
"""First words under which one maker publishes models of one kind."""
KINDS: Final = frozenset({"code", "coder", "math", "reasoning", "thinking"})
"""Words that say that answers are of another length than the family's."""
NO_FAMILY: Final = frozenset({"chat", "checkpoint", "llm", "model", "my", "open", "test", "text"})
"""First words that say nothing of who made it."""
SYNONYMS: Final = {"it": "instruct", "inst": "instruct"}

_CACHE_FOLDER = re.compile(r"models--(?:[^/]+--)?([^/]+?)(?:/|$)")
_QUANTISED = re.compile(
    r"""(?<![a-z0-9])(?:
      i?q\d(?:[-_.](?:k|0|1|xxs|xs|s|m|l|xl|nl))*   # llama.cpp's: q8_0, q4_k_m, iq3_xxs
    | (?:int|fp|bf|f|nf|mxfp|nvfp)\d+ | w\d+a\d+ | [48][-_]?bit | g128
    | awq | gptq | qat | gguf | ggml | exl[23] | bnb | mlx | onnx | marlin | quantized | hf
    )(?![a-z0-9])""",
    re.VERBOSE | re.ASCII,
)
_WORD = re.compile(r"[a-z]+(?=\d+(?:\.\d+)?(?![a-z0-9]))|\d+(?:\.\d+)+[a-z]*|[a-z0-9]+", re.ASCII)
_SIZE = re.compile(r"(?:(\d{1,4})x)?[ae]?(\d{1,5}(?:\.\d{1,5})?)([bm])", re.ASCII)
_VERSION = re.compile(r"(\d{1,3}(?:\.\d{1,3})?)[a-z]?", re.ASCII)

How = Literal["own", "alias", "member", "family", "any"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a name is read as."""

    name: str
    """An LLM or a family that the model knows; empty for any LLM."""
    how: How
    """Its own name, another spelling of it, one member of its family, the family's mean, or none
    of these."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """A name taken apart."""

    words: tuple[str, ...]
    """All that tells it from others."""
    family: str
    """The first word, and what kind of answers it gives; empty where there is none."""
    version: float
    """Of the series; 1 where none is written."""
    size_b: float
    """Parameters in billions, of all experts; nan where none are written."""

    @property
    def major(self) -> int:
        return int(self.version)

    @property
    def group(self) -> str:
        return f"{self.family}-{self.major}"


@lru_cache(maxsize=MOST_REMEMBERED)
def read(name: str, llms: tuple[str, ...], families: tuple[str, ...] = ()) -> Reading:
    """How a model that knows `llms`, and the means of `families`, reads a name.

    The same LLM under another spelling is itself. Else the family counts: the LLMs with the
    same first word and, of those, of the same or a neighbouring major version. A member of the
    same version and size is a variant of it, such as an older release, and is read for it.
    Else the family's mean is read where the model has it: one member is a poor witness (the
    answers of Llama-3.2-1B are ordered by Llama-3.2-3B's lengths far worse than by the mean
    over all LLMs). Else the nearest version, of that the nearest size, of that the first in the
    order of `llms`.
    """
    if name in llms:
        return Reading(name, "own")
    if not llms:
        return Reading("", "any")
    asked = _parts(name)
    known = {llm: _parts(llm) for llm in llms}
    for llm, parts in known.items():
        if asked.words and parts.words == asked.words:
            return Reading(llm, "alias")
    near = {
        llm: parts
        for llm, parts in known.items()
        if asked.family and parts.family == asked.family and abs(parts.major - asked.major) <= 1
    }
    if not near:
        return Reading("", "any")
    # Of two majors that are as near, the newer.
    major = -min((abs(each.major - asked.major), -each.major) for each in near.values())[1]
    members = {llm: parts for llm, parts in near.items() if parts.major == major}
    nearest = min(members, key=lambda llm: _distance(asked, members[llm]))
    group = members[nearest].group
    if group in families and _distance(asked, members[nearest]) != (0.0, 0.0):
        return Reading(group, "family")
    return Reading(nearest, "member")


def families_of(llms: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """The families of which there are at least two, with their members, both in order.

    A family with one member has that one's place.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for llm in llms:
        parts = _parts(llm)
        if parts.family:
            groups[parts.group].append(llm)
    return {
        group: tuple(members)
        for group, members in sorted(groups.items())
        if len(members) > 1 and group not in llms
    }


def _distance(one: _Parts, other: _Parts) -> tuple[float, float]:
    """Of version, then of size as a factor; a size that is not written is far from all."""
    ratio = abs(math.log(one.size_b / other.size_b))
    return abs(one.version - other.version), math.inf if math.isnan(ratio) else ratio


@lru_cache(maxsize=MOST_REMEMBERED)
def _parts(name: str) -> _Parts:
    words = _words(name)
    first = next((n for n, word in enumerate(words) if word.isalpha()), None)
    if first is None or words[first] in NO_FAMILY:
        return _Parts(words, "", 1.0, math.nan)
    family = SAME_MAKER.get(words[first], words[first])
    kinds = sorted({"coder" if word == "code" else word for word in words} & KINDS)
    after = _VERSION.fullmatch(words[first + 1]) if first + 1 < len(words) else None
    version = float(after[1]) if after and not _SIZE.fullmatch(words[first + 1]) else 1.0
    return _Parts(words, "-".join((family, *kinds)), version, _size_b(words))


def _words(name: str) -> tuple[str, ...]:
    """What tells a name from others: lower case, without maker, place, provider and precision."""
    cached = _CACHE_FOLDER.search(name)
    last = cached[1] if cached else name.rstrip("/").rpartition("/")[2]
    text = _QUANTISED.sub(" ", last.lower().partition("@")[0])
    found = [SYNONYMS.get(word, word) for word in _WORD.findall(text)]
    return tuple(found[1:] if found[:2] == ["meta", "llama"] else found)


def _size_b(words: Sequence[str]) -> float:
    """Of the first word that is a size: 8b, 1.5b, 135m, 8x7b."""
    for word in words:
        if size := _SIZE.fullmatch(word):
            experts, number, unit = size.groups()
            return int(experts or 1) * float(number) * (1.0 if unit == "b" else 1e-3) or math.nan
    return math.nan
