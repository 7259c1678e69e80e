"""A tiny random proxy model, trained, packed and exported once for all tests here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from predictor_svc.encoder import PromptText
from predictor_svc.lengths import LengthBins
from predictor_svc.training import weights
from predictor_svc.training.backbone import packaged_folder
from predictor_svc.training.data import Example, Lengths, Prompt
from predictor_svc.training.tasks import Task
from predictor_svc.training.train import Fitted, TrainOptions, train
from predictor_svc.training.weights import save_weights
from ssjf_cli.predictor import app

TINY_TASK = Task(
    name="distribution",
    bins=LengthBins(count=12, top_tokens=256, beyond_tokens=362),
    label_width_bins=0.7,
    ranking_weight=1.0,
    ranking_scale=8.0,
    quantiles=(0.1, 0.5, 0.9),
)
TINY_OPTIONS = TrainOptions(
    epochs=4,
    batch_size=8,
    adapter_learning_rate=1e-2,
    head_learning_rate=2e-2,
    layers=2,
    adapter_rank=2,
    hidden=16,
    max_input_tokens=32,
    seed=1,
)


def example(prompt: str, tokens: tuple[int, ...], source: str = "own") -> Example:
    lengths = Lengths(tokens, tuple(each < 256 for each in tokens))
    return Example(Prompt(prompt, source, PromptText(prompt)), "tiny-llm", lengths)


def learnable_examples(count: int) -> list[Example]:
    """Prompts that say how long their answer is: one word or an essay."""
    short = [example(f"One word: what is number {n}?", (3, 4, 3)) for n in range(count // 2)]
    essay = [
        example(f"Write an essay about topic {n}.", (200, 256, 180)) for n in range(count // 2)
    ]
    return [each for pair in zip(short, essay, strict=True) for each in pair]


def fit_tiny(folder: Path, seed: int = 1) -> Fitted:
    """Fits the tiny model on 48 prompts."""
    options = replace(TINY_OPTIONS, seed=seed)
    examples = learnable_examples(60)
    return train(examples[:48], examples[48:], TINY_TASK, options, folder, torch.device("cpu"))


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Tiny tensors: a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT folder as published ones are, two layers of width 16 with random weights."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer = (packaged_folder() / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(tokenizer)
    return folder


@pytest.fixture(scope="session")
def tiny_fitted(tiny_backbone: Path) -> Fitted:
    return fit_tiny(tiny_backbone)


@pytest.fixture(scope="session")
def tiny_weights(tiny_fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_weights(tiny_fitted.model, tiny_fitted.config, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model_dir(
    tiny_weights: Path, tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What `ssjf predictor build` makes of the tiny model; made once, an export takes seconds."""
    folder = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "packaged_folder", lambda: tiny_backbone)
        arguments = ["build", "--model", str(tiny_weights), "--out", str(folder)]
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return folder
