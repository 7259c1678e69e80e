"""A tiny random proxy model, trained, stored and exported once for all tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from predictor_svc.training.export import export
from predictor_svc.training.train import Fitted
from predictor_svc.training.weights import load_trained, save_weights
from tests.predictor_svc.toy import fit, run_of, write_backbone, write_decoder


@pytest.fixture(scope="package", autouse=True)
def as_torch_was() -> Iterator[None]:
    """One thread, as a second only waits on tiny tensors; what training switches on, off again."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    write_backbone(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    write_decoder(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_fitted(tiny_backbone: Path) -> Fitted:
    return fit(run_of(tiny_backbone, adapter_rank=2))


@pytest.fixture(scope="session")
def tiny_weights(tiny_fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_weights(tiny_fitted.model, tiny_fitted.config, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model_dir(
    tiny_weights: Path, tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny model as it is served, in every precision."""
    folder = tmp_path_factory.mktemp("model")
    export(load_trained(tiny_weights, tiny_backbone), folder)
    return folder
