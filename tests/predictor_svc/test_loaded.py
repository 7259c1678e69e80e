from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from predictor_svc.encoder import PromptText
from predictor_svc.loaded import LoadedModel, ModelRefused, choose_precision, load
from predictor_svc.model_dir import MANIFEST, TOKENIZER, Manifest
from predictor_svc.session import CPU, CUDA
from tests.predictor_svc.small_model import Graph, load_options, write_manifest, write_model


def run(model: LoadedModel, prompt: str) -> list[float]:
    ids = model.encode([PromptText(prompt)])
    outputs = model.worker.submit(model.run, ids).result()
    model.close()
    return [float(each) for each in outputs[0]]


def test_a_loaded_model_predicts_as_its_graph_does(tmp_path: Path) -> None:
    manifest = write_model(tmp_path, "revision-1")
    model = load(load_options(tmp_path))
    assert model.manifest == manifest
    assert (model.precision, model.session.provider, model.fell_back) == ("fp32", CPU, False)
    outputs = run(model, "hello big world")
    assert len(outputs) == manifest.config.output.width
    assert outputs != run(load(load_options(tmp_path)), "hello small world")


def test_a_closed_model_holds_its_graph_no_more(tmp_path: Path) -> None:
    write_model(tmp_path, "revision-1")
    model = load(load_options(tmp_path))
    graph = weakref.ref(model.session._network.session)
    model.close()
    assert graph() is None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), "no model.json"),
    "torn manifest": (lambda folder: cut(folder / MANIFEST), r"model\.json"),
    "no graph": (lambda folder: (folder / "revision-1.fp32.onnx").unlink(), "no revision-1"),
    "torn graph": (lambda folder: cut(folder / "revision-1.fp32.onnx"), "damaged"),
    "torn tokenizer": (lambda folder: cut(folder / TOKENIZER), "damaged"),
    "NaN": (lambda folder: write_model(folder, "revision-2", Graph(value=float("nan"))), "finite"),
    "width": (lambda folder: write_model(folder, "revision-2", Graph(width=5)), "5 numbers"),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_broken_folder_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    damage, message = BREAKS[kind]
    write_model(tmp_path, "revision-1")
    damage(tmp_path)
    with pytest.raises(ModelRefused, match=message) as refused:
        load(load_options(tmp_path))
    assert "\n" not in str(refused.value)


def test_a_tokenizer_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / TOKENIZER).write_text("{}")
    write_model(tmp_path, "revision-1")
    with pytest.raises(ModelRefused):
        load(load_options(tmp_path))


def test_a_precision_that_was_not_exported_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, "revision-1")
    with pytest.raises(ModelRefused, match="no int8 graph"):
        load(replace(load_options(tmp_path), precision="int8"))


def test_a_graph_that_is_none_is_refused(tmp_path: Path) -> None:
    manifest = write_model(tmp_path, "revision-1")
    stored = manifest.tokenizer  # whole, but no graph
    broken = manifest.model_copy(update={"graphs": {"fp32": stored}})
    write_manifest(tmp_path, broken.model_dump_json())
    with pytest.raises(ModelRefused, match=TOKENIZER):
        load(load_options(tmp_path))


@pytest.mark.parametrize(
    ("graphs", "provider", "expected"),
    [
        ({"fp32", "fp16", "int8"}, CUDA, "fp16"),
        ({"fp32", "int8"}, CUDA, "fp32"),
        ({"fp32", "fp16", "int8"}, CPU, "int8"),
    ],
)
def test_auto_takes_the_precision_that_suits_the_provider(
    tmp_path: Path, graphs: set[str], provider: str, expected: str
) -> None:
    manifest = write_model(tmp_path, "revision-1")
    stored = manifest.graphs["fp32"]
    several = Manifest.model_validate(
        {
            **manifest.model_dump(),
            "graphs": {each: stored.model_dump() for each in graphs},
            "cpu_precision": "int8",
        }
    )
    assert choose_precision("auto", provider, several) == expected
    assert choose_precision("fp32", provider, several) == "fp32"
