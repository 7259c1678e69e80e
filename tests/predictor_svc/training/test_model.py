from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from predictor_svc.training.backbone import load_backbone
from predictor_svc.training.model import LLM_POSITION, ProxyModel, ProxyShape, pad

UNKNOWN, ALPHA, BETA = 1, 2, 3
TEXT = (2054, 2003, 1996, 3437, 102)
ROWS = [[101, llm, *TEXT] for llm in (UNKNOWN, ALPHA, BETA)]


def model_of(backbone: Path, **shape: Any) -> ProxyModel:
    torch.manual_seed(4)
    model = ProxyModel(load_backbone(backbone), ProxyShape(outputs=3, hidden=8, **shape)).eval()
    for table in model.head.modules():
        if isinstance(table, torch.nn.Embedding):  # as after training: it begins at zero
            torch.nn.init.normal_(table.weight[1:].detach())
    return model


def told_apart(backbone: Path, **shape: Any) -> ProxyModel:
    return model_of(backbone, llm_tokens=(ALPHA, BETA), **shape)


def pooled(model: ProxyModel, rows: list[list[int]]) -> Tensor:
    ids, mask = pad(rows)
    with torch.no_grad():
        return model.pooled(model.backbone(model.seen(ids), mask), mask)


def outputs(model: ProxyModel, rows: list[list[int]]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(*pad(rows))
    return found


def are_distinct(rows: Tensor) -> bool:
    return len({tuple(row) for row in rows.tolist()}) == len(rows)


@pytest.mark.parametrize("head", ["ssjf", "normed"])
def test_read_by_the_head_the_llm_changes_outputs_but_not_the_pooled_state(
    head: str, tiny_backbone: Path
) -> None:
    model = told_apart(tiny_backbone, head=head, llm_seen_as=UNKNOWN)
    states = pooled(model, ROWS)
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])
    assert are_distinct(outputs(model, ROWS))


def test_read_as_a_token_the_llm_changes_the_pooled_state(tiny_backbone: Path) -> None:
    assert are_distinct(pooled(told_apart(tiny_backbone), ROWS))


def test_a_token_that_is_no_llm_s_adds_nothing(tiny_backbone: Path) -> None:
    model = told_apart(tiny_backbone, llm_seen_as=UNKNOWN)
    states = pooled(model, ROWS)
    with torch.no_grad():
        unnamed = model.outputs(states, torch.tensor([UNKNOWN, 5, 900]))
        bare = model.outputs(states, None)
    torch.testing.assert_close(unnamed, bare)


def test_a_number_can_have_the_mean_of_others_outputs(tiny_backbone: Path) -> None:
    family = 4
    model = model_of(tiny_backbone, llm_tokens=(ALPHA, BETA, family), llm_seen_as=UNKNOWN)
    before = outputs(model, [*ROWS, [101, family, *TEXT]])
    model.set_means({3: (1, 2)})
    after = outputs(model, [*ROWS, [101, family, *TEXT]])
    assert torch.equal(after[:3], before[:3])
    torch.testing.assert_close(after[3], after[1:3].mean(dim=0))
    assert not torch.allclose(before[3], after[3])


def test_hiding_the_llm_touches_its_place_alone(tiny_backbone: Path) -> None:
    ids, _ = pad(ROWS)
    seen = told_apart(tiny_backbone, llm_seen_as=UNKNOWN).seen(ids)
    assert set(seen[:, LLM_POSITION].tolist()) == {UNKNOWN}
    ids[:, LLM_POSITION] = UNKNOWN
    assert torch.equal(seen, ids)
    assert torch.equal(model_of(tiny_backbone).seen(ids), ids)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last-mean"])
def test_padding_changes_nothing(pooling: str, tiny_backbone: Path) -> None:
    model = model_of(tiny_backbone, pooling=pooling)
    alone = outputs(model, [ROWS[0]])
    beside = outputs(model, [ROWS[0], [101, *TEXT * 6]])
    torch.testing.assert_close(alone[0], beside[0], atol=1e-5, rtol=1e-4)


def test_pooling_is_the_mean_of_real_tokens_or_the_first(tiny_backbone: Path) -> None:
    states = torch.tensor([[[1.0], [3.0], [90.0]], [[2.0], [4.0], [9.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert model_of(tiny_backbone).pooled(states, mask).tolist() == [[2.0], [5.0]]
    first = model_of(tiny_backbone, pooling="cls").pooled(states, mask)
    assert first.tolist() == [[1.0], [2.0]]


def test_last_mean_is_the_last_real_token_beside_the_mean(tiny_backbone: Path) -> None:
    states = torch.tensor([[[1.0], [3.0], [90.0]], [[2.0], [4.0], [9.0]], [[5.0], [6.0], [7.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]])
    model = model_of(tiny_backbone, pooling="last-mean")
    assert model.pooled(states, mask).tolist() == [[3.0, 2.0], [9.0, 5.0], [5.0, 5.0]]
    assert outputs(model, ROWS).shape == (3, 3)


def test_a_decoder_s_llm_is_read_from_the_first_place(tiny_decoder: Path) -> None:
    model = model_of(
        tiny_decoder, llm_tokens=(1, 2), llm_position=0, llm_seen_as=8, pooling="last-mean"
    )
    rows = [[llm, 5, 6, 7] for llm in (0, 1, 2)]
    states = pooled(model, rows)
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])
    torch.testing.assert_close(states[0], pooled(model, [[8, 5, 6, 7]])[0])
    assert are_distinct(outputs(model, rows))


def test_only_the_first_layers_asked_for_are_used(tiny_backbone: Path) -> None:
    assert len(model_of(tiny_backbone, layers=1).backbone.layers) == 1


def test_the_ssjf_head_has_two_hidden_layers(tiny_backbone: Path) -> None:
    head = model_of(tiny_backbone, head="ssjf").head
    layers = [module for module in head.modules() if isinstance(module, torch.nn.Linear)]
    assert [(each.in_features, each.out_features) for each in layers] == [(16, 8), (8, 8), (8, 3)]


@pytest.mark.parametrize("rank", [0, 2])
def test_the_backbone_is_trained_whole_or_through_adapters(rank: int, tiny_backbone: Path) -> None:
    model = model_of(tiny_backbone, adapter_rank=rank)
    trained = model.trained_parameters()
    assert ("backbone.words.weight" in trained) == (rank == 0)
    assert any("lora_a" in name for name in trained) == (rank > 0)
    assert "head.outer.weight" in trained
