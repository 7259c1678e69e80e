"""Fits the proxy model to answers' lengths.

Owns the loop: prompts tokenised once and kept on the device, batches of similar length,
one learning-rate schedule, Kendall's tau-b on held-back prompts after each epoch, a
checkpoint to resume from. Same seed, data and device kind: same model. Called by `ssjf
predictor train`.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from predictor_svc.encoder import load_encoder
from predictor_svc.model_dir import ModelConfig
from predictor_svc.outputs import Output
from predictor_svc.training import checkpoint
from predictor_svc.training.backbone import layout_of, load_backbone
from predictor_svc.training.data import Example, Lengths
from predictor_svc.training.decoder import Decoder
from predictor_svc.training.evaluate import predict_raw, rank_correlation
from predictor_svc.training.forms import family_rows, input_form, proxy_shape
from predictor_svc.training.model import ProxyModel
from predictor_svc.training.options import TrainOptions
from predictor_svc.training.task import Targets
from predictor_svc.training.tasks import TASKS
from predictor_svc.training.tokenized import Batch, TokenRows, shuffled_batches, tokenize


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the data gave."""

    number: int
    train_loss: float
    validation_tau_b: float


@dataclass(frozen=True, slots=True)
class Run:
    """What is trained, on what, from what seed."""

    task: str
    options: TrainOptions
    seed: int
    device: torch.device
    backbone: Path
    """Folder of the backbone that the options name."""
    checkpoint: Path | None = None
    """Written after every epoch; None: never."""
    resume: bool = False
    """Go on from the checkpoint where there is one."""


OnStep = Callable[[int, int], None]
"""Takes the steps done and those in all."""
OnEpoch = Callable[[Epoch], None]


@dataclass(frozen=True, slots=True)
class Fitted:
    """The chosen epoch's model, on the CPU, in evaluation mode."""

    model: ProxyModel
    config: ModelConfig
    epochs: tuple[Epoch, ...]


@dataclass(frozen=True, slots=True)
class _HeldBack:
    """The validation prompts, encoded, and their lengths."""

    ids: list[list[int]]
    lengths: list[Lengths]


def train(
    run: Run,
    examples: Sequence[Example],
    validation: Sequence[Example],
    on_step: OnStep = lambda _done, _total: None,
    on_epoch: OnEpoch = lambda _epoch: None,
) -> Fitted:
    """Fits a model.

    Raises ValueError without examples to learn from or to validate with, or where their
    lengths cannot be learnt (all equal) or name no LLM where it is read; CheckpointError
    where it cannot be resumed.
    """
    if not examples or not validation:
        raise ValueError(
            f"{len(examples)} prompts to train and {len(validation)} to validate: too few"
        )
    make_deterministic(run.seed)
    task, options = TASKS[run.task], run.options
    lengths = [example.lengths for example in examples]
    output = task.output(lengths)
    form = input_form(options, examples, layout_of(run.backbone))
    encoder = load_encoder(run.backbone / "tokenizer.json", form)
    backbone = load_backbone(run.backbone)
    shape = proxy_shape(options, output, encoder, backbone)
    model = ProxyModel(backbone, shape, options.dropout).to(run.device)
    tokens = tokenize(encoder, [example.prompt.text for example in examples], run.device)
    loop = _Loop(model, run, output, tokens, task.targets(lengths, output))
    config = ModelConfig(task=run.task, llm=_llm_name(examples), input=encoder.form, output=output)
    signature = checkpoint.signature(run, config, [*examples, *validation])
    held_back = _HeldBack(
        encoder.encode([each.prompt.text for each in validation]),
        [each.lengths for each in validation],
    )
    epochs = _run_epochs(loop, run, config, signature, held_back, on_step, on_epoch)
    model.set_means(family_rows(form))
    raw = predict_raw(model, held_back.ids)
    output = task.calibrated(output, raw, held_back.lengths, run.seed)
    return Fitted(model.cpu().eval(), config.model_copy(update={"output": output}), epochs)


def make_deterministic(seed: int) -> None:
    """Same seed, same weights; on CUDA, CUBLAS_WORKSPACE_CONFIG must be set before it starts."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(mode=True)
    # Else every new tensor is filled first: a kernel more each. None is read before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _run_epochs(
    loop: _Loop,
    run: Run,
    config: ModelConfig,
    signature: str,
    held_back: _HeldBack,
    on_step: OnStep,
    on_epoch: OnEpoch,
) -> tuple[Epoch, ...]:
    """Trains to the end and leaves the chosen epoch's weights in the model."""
    epochs: list[Epoch] = []
    best: dict[str, Tensor] = {}
    if run.resume and run.checkpoint is not None and run.checkpoint.exists():
        stored = checkpoint.load(run.checkpoint, signature)
        loop.load_state_dict(stored["loop"])
        epochs, best = [Epoch(**each) for each in stored["epochs"]], stored["best"]
        for epoch in epochs:
            on_epoch(epoch)
    for number in range(len(epochs) + 1, run.options.epochs + 1):
        loss = loop.run_epoch(number, on_step)
        raw = predict_raw(loop.model, held_back.ids)
        tau = rank_correlation(raw, config.output, held_back.lengths)
        epochs.append(Epoch(number, loss, tau))
        on_epoch(epochs[-1])
        if not run.options.keep_best_epoch or _is_best(epochs):
            best = copy.deepcopy(loop.model.state_dict())
        if run.checkpoint is not None:
            checkpoint.save(run.checkpoint, signature, loop.state_dict(), epochs, best)
    loop.model.load_state_dict(best)
    return tuple(epochs)


def _is_best(epochs: Sequence[Epoch]) -> bool:
    """Whether no epoch was better than the last; one without a tau-b is the worst there is."""
    taus = np.nan_to_num([each.validation_tau_b for each in epochs], nan=-np.inf)
    return bool(taus[-1] == taus.max())


class _Loop:
    """The optimiser, its schedule and the random order, over the epochs."""

    def __init__(
        self, model: ProxyModel, run: Run, output: Output, tokens: TokenRows, targets: Targets
    ) -> None:
        self.model = model
        self._task = TASKS[run.task]
        self._options = run.options
        self._device = run.device
        self._output = output
        self._tokens = tokens
        self._targets = {name: each.to(run.device) for name, each in targets.items()}
        self._random = random.Random(run.seed)  # noqa: S311
        self._steps_an_epoch = tokens.batch_count(run.options)
        self._steps = 0
        if run.device.type == "cuda" and isinstance(model.backbone, Decoder):
            # Thousands of small kernels a step: launching them takes longer than they run.
            for layer in model.backbone.layers:
                layer.compile(dynamic=True)
        self._optimizer = torch.optim.AdamW(
            _parameter_groups(model, run.options),
            weight_decay=run.options.weight_decay,
            fused=run.device.type == "cuda",
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._rate)

    def run_epoch(self, number: int, on_step: OnStep) -> float:
        """One pass; the mean loss."""
        self.model.train()
        frozen_after = self._options.freeze_after_epochs
        is_frozen = frozen_after is not None and number > frozen_after
        total = torch.zeros((), device=self._device)
        for batch in shuffled_batches(self._tokens, self._options, self._random):
            total += self._step(batch, is_frozen)
            self._steps += 1
            on_step(self._steps, self._steps_an_epoch * self._options.epochs)
        return float(total) / self._steps_an_epoch

    def state_dict(self) -> dict[str, Any]:
        """All that the next epoch depends on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "steps": self._steps,
            "order": self._random.getstate(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if self._device.type == "cuda" else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._steps = state["steps"]
        self._random.setstate(state["order"])
        torch.set_rng_state(state["torch"])
        if state["cuda"] is not None and self._device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"])

    def _step(self, batch: Batch, is_frozen: bool) -> Tensor:
        rows = torch.tensor(batch.rows, device=self._device)
        targets = {name: each[rows] for name, each in self._targets.items()}
        ids, mask, llms = self._tokens.tensors(batch)
        pooled = self.model.pooled(self._states(ids, mask, is_frozen), mask)
        if len(batch.encoded) < len(batch.rows):
            pooled = pooled[torch.tensor(batch.owners, device=self._device)]
        raw = self.model.outputs(pooled, llms)
        loss = self._task.loss(raw, targets, self._output)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self._options.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self._options.clip_norm)
        self._optimizer.step()
        self._schedule.step()
        return loss.detach()

    def _states(self, ids: Tensor, mask: Tensor, is_frozen: bool) -> Tensor:
        """The backbone's states, float32; computed in bfloat16 on CUDA."""
        is_cuda = self._device.type == "cuda"
        with (
            torch.set_grad_enabled(not is_frozen),
            torch.autocast(self._device.type, torch.bfloat16, enabled=is_cuda),
        ):
            states: Tensor = self.model.backbone(self.model.seen(ids), mask)
        return states.float()

    def _rate(self, step: int) -> float:
        """Linear warm-up, then linear decay to zero, as a factor."""
        steps = self._steps_an_epoch * self._options.epochs
        warmup = max(1.0, self._options.warmup_share * steps)
        return min((step + 1) / warmup, max(0.0, 1.0 - step / steps))


def _parameter_groups(model: ProxyModel, options: TrainOptions) -> list[dict[str, object]]:
    trained = model.trained_parameters()
    backbone = [value for name, value in trained.items() if name.startswith("backbone.")]
    others = [value for name, value in trained.items() if not name.startswith("backbone.")]
    return [
        {"params": backbone, "lr": options.learning_rate},
        {"params": others, "lr": options.head_learning_rate},
    ]


def _llm_name(examples: Sequence[Example]) -> str:
    models = {example.model for example in examples if example.model}
    return "several" if len(models) > 1 else next(iter(models), "")
