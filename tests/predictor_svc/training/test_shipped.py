"""The weights in the repository: their size, and that they build and serve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from predictor_svc.encoder import PromptText, load_encoder
from predictor_svc.model_dir import open_model_dir
from predictor_svc.pipeline import interpret
from predictor_svc.session import CUDA, Session
from predictor_svc.training.evaluate import predict_logits
from predictor_svc.training.export import build
from predictor_svc.training.weights import load_trained, revision, shipped_folder

PROMPTS = [
    PromptText("Yes or no: is water wet?"),
    PromptText("Write a long story about a lighthouse keeper, in at least five chapters."),
    PromptText("word " * 400),
    PromptText("What is the capital of France? Answer in one word."),
]


@pytest.fixture(scope="module")
def shipped_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shipped")
    build(load_trained(shipped_folder()), folder)
    return folder


def test_what_is_shipped_is_small() -> None:
    total_bytes = sum(path.stat().st_size for path in shipped_folder().iterdir())
    assert total_bytes <= 12 * 1024 * 1024


def test_the_card_names_the_weights_beside_it() -> None:
    assert revision(shipped_folder()) in (shipped_folder() / "README.md").read_text()


def test_the_served_graph_agrees_with_pytorch(shipped_model_dir: Path) -> None:
    model = open_model_dir(shipped_model_dir)
    encoder = load_encoder(model.tokenizer, model.manifest.config.max_input_tokens)
    ids = encoder.encode(PROMPTS)
    served = Session(model.graph, "cpu", 2).run(ids)
    assert np.abs(served - predict_logits(load_trained(shipped_folder()).model, ids)).max() < 1e-3


def test_one_word_is_shorter_than_a_story(shipped_model_dir: Path) -> None:
    model = open_model_dir(shipped_model_dir)
    encoder = load_encoder(model.tokenizer, model.manifest.config.max_input_tokens)
    logits = Session(model.graph, "cpu", 2).run(encoder.encode(PROMPTS))
    yes_no, story, _, capital = interpret(logits, [1024] * 4, model.manifest.config)
    assert yes_no.rank_score < story.rank_score
    assert capital.expected_tokens < story.expected_tokens


@pytest.mark.gpu
def test_cuda_gives_the_same_ranking(shipped_model_dir: Path) -> None:
    model = open_model_dir(shipped_model_dir)
    encoder = load_encoder(model.tokenizer, model.manifest.config.max_input_tokens)
    ids = encoder.encode(PROMPTS)
    session = Session(model.graph, "cuda", 2)
    assert session.provider == CUDA
    expected = Session(model.graph, "cpu", 2).run(ids)
    # TF32 products on tensor cores: three digits.
    assert np.abs(session.run(ids) - expected).max() < 5e-2
