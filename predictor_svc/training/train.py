"""Fits the proxy model to sampled lengths.

Owns the loop: prompts tokenised once, batches of similar length, one learning-rate
schedule, Kendall's tau-b on held-back prompts after each epoch; the best epoch is kept.
Same seed and data, same model. Called by `ssjf predictor train`.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from predictor_svc.encoder import Encoder, load_encoder
from predictor_svc.model_dir import ModelConfig
from predictor_svc.training.backbone import load_backbone
from predictor_svc.training.data import Example
from predictor_svc.training.evaluate import predict_logits, rank_correlation
from predictor_svc.training.losses import Labels, distribution_loss, make_labels
from predictor_svc.training.model import ProxyModel, ProxyShape, pad
from predictor_svc.training.tasks import Task

BATCHES_SORTED = 8
"""Batches' worth of prompts that are sorted by length together: less padding, enough chance."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How a model is fitted."""

    epochs: int = 5
    batch_size: int = 64
    adapter_learning_rate: float = 5e-4
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    dropout: float = 0.1
    layers: int = 6
    adapter_rank: int = 64
    hidden: int = 256
    max_input_tokens: int = 256
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the data gave."""

    number: int
    train_loss: float
    validation_tau_b: float


OnStep = Callable[[int, int], None]
"""Takes the steps done and those in all."""
OnEpoch = Callable[[Epoch], None]


@dataclass(frozen=True, slots=True)
class Fitted:
    """The best epoch's model, on the CPU, in evaluation mode."""

    model: ProxyModel
    config: ModelConfig
    epochs: tuple[Epoch, ...]


@dataclass(frozen=True, slots=True)
class _TrainingSet:
    ids: list[list[int]]
    labels: Labels


def train(
    examples: Sequence[Example],
    validation: Sequence[Example],
    task: Task,
    options: TrainOptions,
    backbone_folder: Path,
    device: torch.device,
    on_step: OnStep = lambda _done, _total: None,
    on_epoch: OnEpoch = lambda _epoch: None,
) -> Fitted:
    """Fits a model.

    Raises ValueError without examples to learn from or to validate with.
    """
    if not examples or not validation:
        raise ValueError(
            f"{len(examples)} prompts to train and {len(validation)} to validate: too few"
        )
    torch.manual_seed(options.seed)
    encoder = load_encoder(backbone_folder / "tokenizer.json", options.max_input_tokens)
    shape = ProxyShape(task.bins.count, options.layers, options.adapter_rank, options.hidden)
    model = ProxyModel(load_backbone(backbone_folder), shape, options.dropout).to(device)
    config = _config(examples, task, options)
    loop = _Loop(model, config, task, options, device, _prepare(examples, encoder, task))
    best, best_tau, epochs = model.state_dict(), -2.0, []
    for number in range(1, options.epochs + 1):
        loss = loop.run_epoch(on_step)
        epochs.append(Epoch(number, loss, _validate(model, config, validation, encoder)))
        on_epoch(epochs[-1])
        if epochs[-1].validation_tau_b > best_tau:
            best, best_tau = copy.deepcopy(model.state_dict()), epochs[-1].validation_tau_b
    model.load_state_dict(best)
    return Fitted(model.cpu().eval(), config, tuple(epochs))


class _Loop:
    """The optimiser, its schedule and the random order, over the epochs."""

    def __init__(
        self,
        model: ProxyModel,
        config: ModelConfig,
        task: Task,
        options: TrainOptions,
        device: torch.device,
        data: _TrainingSet,
    ) -> None:
        self._model = model
        self._task = task
        self._options = options
        self._device = device
        self._data = data
        self._labels = data.labels.to(device)
        self._rank_values = torch.tensor(config.rank_values, device=device)
        self._random = random.Random(options.seed)  # noqa: S311
        self._steps_an_epoch = -(-len(data.ids) // options.batch_size)
        self._steps = 0
        self._optimizer = torch.optim.AdamW(
            _parameter_groups(model, options), weight_decay=options.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._rate)

    def run_epoch(self, on_step: OnStep) -> float:
        """One pass; the mean loss."""
        self._model.train()
        total = torch.zeros((), device=self._device)
        for batch in self._batches():
            total += self._step(batch)
            self._steps += 1
            on_step(self._steps, self._steps_an_epoch * self._options.epochs)
        return float(total) / self._steps_an_epoch

    def _step(self, batch: list[int]) -> Tensor:
        ids, mask = (each.to(self._device) for each in pad([self._data.ids[i] for i in batch]))
        labels = self._labels.rows(torch.tensor(batch, device=self._device))
        loss = distribution_loss(self._model(ids, mask), labels, self._rank_values, self._task)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._schedule.step()
        return loss.detach()

    def _batches(self) -> Iterator[list[int]]:
        """Every prompt once, in random batches of similar length."""
        order = list(range(len(self._data.ids)))
        self._random.shuffle(order)
        size = self._options.batch_size
        window = size * BATCHES_SORTED
        batches = []
        for start in range(0, len(order), window):
            near = sorted(order[start : start + window], key=lambda i: len(self._data.ids[i]))
            batches += [near[at : at + size] for at in range(0, len(near), size)]
        self._random.shuffle(batches)
        yield from batches

    def _rate(self, step: int) -> float:
        """Linear warm-up, then linear decay to zero, as a factor."""
        steps = self._steps_an_epoch * self._options.epochs
        warmup = max(1.0, self._options.warmup_share * steps)
        return min((step + 1) / warmup, max(0.0, 1.0 - step / steps))


def _parameter_groups(model: ProxyModel, options: TrainOptions) -> list[dict[str, object]]:
    trained = model.trained_parameters()
    head = [value for name, value in trained.items() if name.startswith("head.")]
    adapters = [value for name, value in trained.items() if not name.startswith("head.")]
    return [
        {"params": adapters, "lr": options.adapter_learning_rate},
        {"params": head, "lr": options.head_learning_rate},
    ]


def _prepare(examples: Sequence[Example], encoder: Encoder, task: Task) -> _TrainingSet:
    ids = encoder.encode([example.prompt.text for example in examples])
    return _TrainingSet(ids, make_labels([example.lengths for example in examples], task))


def _config(examples: Sequence[Example], task: Task, options: TrainOptions) -> ModelConfig:
    tokens = np.concatenate([example.lengths.tokens for example in examples]).astype(float)
    models = sorted({example.model for example in examples if example.model})
    return ModelConfig(
        task=task.name,
        llm=models[0] if len(models) == 1 else "several" if models else "",
        max_input_tokens=options.max_input_tokens,
        bin_count=task.bins.count,
        top_tokens=task.bins.top_tokens,
        beyond_tokens=task.bins.beyond_tokens,
        rank_values=tuple(round(float(value), 6) for value in task.bins.rank_values(tokens)),
        quantiles=task.quantiles,
    )


def _validate(
    model: ProxyModel, config: ModelConfig, validation: Sequence[Example], encoder: Encoder
) -> float:
    """Tau-b against every sample, averaged: steadier than against the first alone."""
    logits = predict_logits(model, encoder.encode([each.prompt.text for each in validation]))
    return rank_correlation(logits, config, [each.lengths for each in validation])
