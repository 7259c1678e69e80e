from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from predictor_svc.training import backbone as backbones
from predictor_svc.training.adapted import AdaptedLinear
from predictor_svc.training.backbone import (
    BackboneMissing,
    Packaged,
    backbone_folder,
    load_backbone,
    packaged_folder,
)


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    ids = torch.randint(1000, 20000, (3, 24))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    return ids, mask


@pytest.mark.parametrize("packaged", [True, False])
def test_the_encoder_computes_what_transformers_computes(
    packaged: bool, tiny_backbone: Path
) -> None:
    from transformers import BertModel

    folder = packaged_folder() if packaged else tiny_backbone
    ids, mask = inputs()
    reference = BertModel.from_pretrained(folder)
    reference.train(mode=False)
    with torch.no_grad():
        wanted = reference(ids, attention_mask=mask).last_hidden_state
        found = load_backbone(folder).eval()(ids, mask)
    assert (wanted - found)[mask.bool()].abs().max() < 1e-4


def test_a_fresh_adapter_changes_nothing_and_merging_keeps_the_output() -> None:
    torch.manual_seed(0)
    layer = AdaptedLinear(6, 4)
    inputs = torch.randn(5, 6)
    before = layer(inputs)
    layer.adapt(2)
    assert torch.equal(layer(inputs), before)
    assert layer.lora_b is not None
    torch.nn.init.normal_(layer.lora_b)
    adapted = layer(inputs)
    assert not torch.allclose(adapted, before)
    layer.merge()
    assert layer.lora_a is None
    torch.testing.assert_close(layer(inputs), adapted)


def test_only_adapters_and_norms_are_trained(tiny_backbone: Path) -> None:
    backbone = load_backbone(tiny_backbone)
    backbone.adapt(2)
    trained = {name for name, value in backbone.named_parameters() if value.requires_grad}
    assert trained
    assert all("lora_" in name or "norm." in name for name in trained)
    assert {name.split(".")[0] for name in trained} == {"layers"}


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Packaged("no_such_package_here", lambda folder: folder)
    monkeypatch.setitem(backbones.PACKAGED, "minilm", missing)
    with pytest.raises(BackboneMissing, match="requirements-models"):
        packaged_folder()


def test_a_backbone_is_named_or_a_folder(tiny_decoder: Path, tmp_path: Path) -> None:
    assert backbone_folder("minilm") == packaged_folder()
    assert backbone_folder(str(tiny_decoder)) == tiny_decoder
    for name in ("minilm-l12", str(tmp_path)):
        with pytest.raises(BackboneMissing, match=f"no backbone {name}: there are minilm, smollm2"):
            backbone_folder(name)
