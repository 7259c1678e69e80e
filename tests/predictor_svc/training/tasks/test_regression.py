from __future__ import annotations

import pytest
import torch

from predictor_svc.training.data import Lengths
from predictor_svc.training.tasks.regression import Loss, Regression

LENGTHS = [Lengths((10, 99), (True, True)), Lengths((300, 1), (True, False))]


@pytest.mark.parametrize(("kind", "wanted"), [("l1", (2 + 100) / 2), ("mse", (4 + 10_000) / 2)])
def test_the_loss_is_a_distance_to_the_first_sample_in_tokens(kind: Loss, wanted: float) -> None:
    task = Regression(kind)
    output = task.output(LENGTHS)
    raw = torch.tensor([[12.0], [200.0]])
    assert float(task.loss(raw, task.targets(LENGTHS, output), output)) == wanted
