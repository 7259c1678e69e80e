"""The engine's settings: environment (`SSJF_ENGINE_…`) and flags, read once at start.

What is left open is filled for the device by `resolve`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from ssjf.wire.settings import SETTINGS, ServiceSettings


class EngineSettings(ServiceSettings):
    """Generates tokens for the sequences that a gateway schedules."""

    model_config = SETTINGS | SettingsConfigDict(
        env_prefix="SSJF_ENGINE_", cli_prog_name="engine_svc"
    )

    port: int = Field(default=50053, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    model: str = ""
    """Model to serve: a .gguf file or a Hugging Face folder with safetensors (Llama family);
    empty for the embedded SmolLM2-135M-Instruct."""
    model_name: str = Field(default="SmolLM2-135M-Instruct", min_length=1, max_length=128)
    """Name under which requests ask for the model."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run; auto is CUDA where there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of weights and KV cache; auto is bfloat16 on CUDA and float32 on CPU."""
    max_sequences: int | None = Field(default=None, ge=1, le=4096)
    """Sequences that run at once; by default 8 on CPU and 256 on CUDA."""
    max_context_tokens: int | None = Field(default=None, ge=2)
    """Prompt plus answer tokens of one sequence; by default 2048 on CPU and the model's own on
    CUDA, and never more than that."""
    max_prefill_tokens: int | None = Field(default=None, ge=1)
    """Prompt tokens read in one step: more starts answers sooner and holds running ones up
    longer; longer prompts are read in pieces. By default 512 on CPU and what takes an H100 some
    60 ms on CUDA, 512 to 16384."""
    prefix_reuse: bool = True
    """Keep what was read of prompts while memory lasts, for prompts that begin alike."""
    cuda_graphs: bool = True
    """Capture steps as CUDA graphs at the start; off starts faster and runs slower."""
    kv_tokens: int | None = Field(default=None, ge=16)
    """Tokens that the KV cache holds over all sequences; by default 16384 on CPU, and on CUDA
    what kv_memory_fraction gives."""
    kv_memory_fraction: float = Field(default=0.9, gt=0, lt=1)
    """Share that the KV cache takes on CUDA of the memory left by weights and the largest step."""
    threads: int | None = Field(default=None, ge=1, le=256)
    """Threads for computing on CPU; by default PyTorch's choice."""
    loop: Literal["auto", "thread", "process"] = "auto"
    """Where the engine loop runs, beside the one that serves; auto is a process on CUDA, so that
    serving never holds it up, and a thread on CPU."""
    benchmark: bool = False
    """Accept forced output lengths, for benchmarks."""
