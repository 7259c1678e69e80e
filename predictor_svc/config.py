"""The predictor's settings; the composition root reads them once."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from predictor_svc.loaded import PrecisionChoice
from predictor_svc.model_dir import default_model_dir
from predictor_svc.session import Provider
from ssjf.wire.settings import SETTINGS, ServiceSettings


class PredictorSettings(ServiceSettings):
    """Settings of the predictor service (environment: SSJF_PREDICTOR_…)."""

    model_config = SETTINGS | SettingsConfigDict(
        env_prefix="SSJF_PREDICTOR_", cli_prog_name="predictor_svc", protected_namespaces=()
    )

    port: int = Field(default=50052, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    model_dir: Path = Field(default_factory=default_model_dir)
    """Folder that `ssjf predictor export` wrote."""
    watch_interval_s: float = Field(default=2.0, ge=0, le=3600, allow_inf_nan=False)
    """Seconds between two looks at that folder, from which a new model is taken over; 0 never
    looks."""
    provider: Provider = "auto"
    """ONNX Runtime execution provider: cpu, cuda (refuses to start without it), or auto (cuda
    where it works, else cpu; the log and a metric say which)."""
    precision: PrecisionChoice = "auto"
    """Which of the model's graphs runs: fp32, fp16, int8, or auto (fp16 on cuda; on a CPU the
    fastest that predicts as well, measured at export)."""
    cuda_graphs: bool = True
    """On cuda, capture each shape once and replay it: less to launch for small batches."""
    threads: int = Field(default=0, ge=0, le=1024)
    """CPU threads of the model; 0 takes one a core."""
    max_batch: int = Field(default=32, ge=1, le=4096)
    """Prompts run together at most."""
    max_wait_ms: float = Field(default=0.0, ge=0, le=1000, allow_inf_nan=False)
    """Milliseconds that a prompt waits for company while another batch runs; an idle model
    starts at once."""
    max_queue_items: int = Field(default=4096, ge=1, le=1_000_000)
    """Prompts that may wait; more are refused with RESOURCE_EXHAUSTED."""
    max_items: int = Field(default=256, ge=1, le=65_536)
    """Prompts that one call may carry."""
    cache_items: int = Field(default=65_536, ge=0, le=100_000_000)
    """Prompts whose predictions are remembered, about half a kilobyte each; 0 remembers none."""
