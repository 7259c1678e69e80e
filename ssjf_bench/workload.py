"""What is replayed: prompts, how each is sampled, and when each arrives.

Pure data, made before anything runs, so that every policy sees the same prompts,
seeds and arrivals. Knows nothing of gateways or policies.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any


class WorkloadError(Exception):
    """A prompts file cannot be used; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One line of a prompts file."""

    prompt_id: str
    """Its name; the request id in every replay."""
    category: str
    """Kind of answer that it asks for; reports only."""
    text: str
    """What the user says."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, the same under every policy."""

    request_id: str
    """Unique within the workload."""
    prompt: str
    """One user message."""
    max_tokens: int
    """Longest answer."""
    temperature: float
    """Softmax temperature."""
    seed: int
    """Seed of its sampling."""
    turns: tuple[tuple[str, str], ...] = ()
    """Messages before the prompt, each (role, content)."""
    llm: str = ""
    """The LLM that the answer's length is of; empty where it does not matter."""
    prompt_tokens: int = 1
    """Length of the prompt; counts in simulations only."""
    output_tokens: int | None = None
    """Length that the answer shall have; None leaves it to the engine. No scheduler sees it."""
    prompt_id: str = ""
    """The prompt's name where it comes from, for reports; several requests may share it."""
    source: str = ""
    """Where the prompt comes from, for reports."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests and their arrivals."""

    requests: tuple[Request, ...]
    """In order of arrival."""
    arrivals_s: tuple[float, ...]
    """Seconds from the start of the replay, rising, one for each request."""

    def __post_init__(self) -> None:
        if len(self.requests) != len(self.arrivals_s):
            raise ValueError(
                f"{len(self.requests)} requests, but {len(self.arrivals_s)} arrivals_s"
            )
        if list(self.arrivals_s) != sorted(self.arrivals_s):
            raise ValueError("arrivals_s do not rise")


def shipped_prompts() -> tuple[Prompt, ...]:
    """The prompts of the demo."""
    with resources.as_file(resources.files("ssjf_bench") / "data" / "demo_prompts.jsonl") as path:
        return read_prompts(path)


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """The prompts of a JSONL file with `prompt_id`, `category` and `prompt`.

    Raises WorkloadError naming file and line, also for an id that occurs twice.
    """
    prompts: dict[str, Prompt] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(f"{path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            prompt = _parse(line)
        except ValueError as error:
            raise WorkloadError(f"{path}:{number}: {error}") from error
        if prompt.prompt_id in prompts:
            raise WorkloadError(f"{path}:{number}: prompt_id {prompt.prompt_id!r} occurs twice")
        prompts[prompt.prompt_id] = prompt
    if not prompts:
        raise WorkloadError(f"{path}: no prompts")
    return tuple(prompts.values())


def _parse(line: str) -> Prompt:
    row: Any = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 (one type for all that is wrong)
    values = []
    for key in ("prompt_id", "category", "prompt"):
        value = row.get(key)
        if not isinstance(value, str) or not value:
            raise ValueError(f"{key} must be a non-empty string")
        values.append(value)
    return Prompt(*values)


def requests(
    prompts: Sequence[Prompt], *, max_tokens: int, temperature: float, first_seed: int
) -> tuple[Request, ...]:
    """A request for each prompt, with seeds counting up from `first_seed`."""
    return tuple(
        Request(prompt.prompt_id, prompt.text, max_tokens, temperature, first_seed + index)
        for index, prompt in enumerate(prompts)
    )


def burst(requests: Sequence[Request]) -> Workload:
    """All at once, in the given order."""
    return Workload(tuple(requests), (0.0,) * len(requests))


def poisson(requests: Sequence[Request], *, rate_per_s: float, seed: int) -> Workload:
    """In the given order, at exponential distances of mean 1 / `rate_per_s` seconds."""
    if rate_per_s <= 0:
        raise ValueError("rate_per_s must be positive")
    draw = random.Random(seed)  # noqa: S311 (a workload, not a secret)
    now_s, arrivals_s = 0.0, []
    for _ in requests:
        now_s += draw.expovariate(rate_per_s)
        arrivals_s.append(now_s)
    return Workload(tuple(requests), tuple(arrivals_s))
