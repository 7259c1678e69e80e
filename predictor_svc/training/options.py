"""Every number of a training run, and the named recipes that set them together.

Owns the registry of recipes: a task, an input form and options. `ssjf predictor train
--recipe NAME --set OPTION=VALUE` starts from one and changes what it likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from predictor_svc.layouts import Marks
from predictor_svc.training.model import Pooling
from predictor_svc.training.tasks import TASKS


class OptionError(ValueError):
    """An option that does not exist or is out of range; one line."""


class TrainOptions(BaseModel):
    """How a model is fitted. The defaults are the project's own; `PAPER` is the SSJF paper's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(default=6, ge=1)
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=1e-4, ge=0)
    """Of the backbone or its adapters, at its highest."""
    head_learning_rate: float = Field(default=1e-3, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the rate rises; afterwards it falls linearly to 0."""
    freeze_after_epochs: int | None = Field(default=None, ge=0)
    """The backbone is trained this long, the head to the end; none: both to the end."""
    keep_best_epoch: bool = True
    """The epoch with the best validation tau-b, or the last one."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """In the head and, but for decoders, which know none, in the backbone's layers."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    backbone: str = Field(default="minilm", min_length=1)
    """Of those packaged (minilm, smollm2), or a folder with a BERT or Llama model."""
    layers: int | None = Field(default=None, ge=1)
    """Backbone layers used, from the first; none: all."""
    adapter_rank: int = Field(default=0, ge=0)
    """Rank of adapters over a frozen backbone; 0 fine-tunes the backbone itself."""
    pooling: Pooling = "mean"
    head: Literal["normed", "ssjf"] = "normed"
    hidden: int = Field(default=256, ge=1)
    max_tokens: int = Field(default=256, ge=8, le=512)
    head_tokens: int = Field(default=0, ge=0)
    turns: bool = True
    """Multi-round: the turns before the last message are read, too."""
    marks: Marks = "none"
    """Whether a token before each message tells its role, or its role and length. What a
    chat model reads names the roles in any case."""
    llm: Literal["none", "token", "head"] = "none"
    """Where the LLM's name is read: nowhere, by the whole network, or by the head alone."""
    rows_a_prompt: int = Field(default=1, ge=1)
    """Rows of one prompt (its LLMs) that a batch takes together. More than 1 needs llm=head,
    where they share one pass of the backbone; `batch_size` then counts prompts."""
    rows_an_epoch: int | None = Field(default=None, ge=1)
    """Rows of one prompt that an epoch takes at most, drawn anew each time: the LLMs' lengths
    for one prompt say much the same. None: all."""
    llm_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of rows whose LLM is hidden, so that one never seen can be predicted for."""

    @model_validator(mode="after")
    def _consistent(self) -> TrainOptions:
        if self.head_tokens > self.max_tokens - 3:
            raise ValueError("head_tokens: leaves no room for the tail")
        if self.rows_a_prompt > 1 and self.llm != "head":
            raise ValueError("rows_a_prompt: more than 1 needs llm=head")
        if self.llm_dropout and self.llm == "none":
            raise ValueError("llm_dropout: no LLM is read that could be hidden")
        return self


@dataclass(frozen=True, slots=True)
class Recipe:
    """A task and how it is trained."""

    task: str
    options: TrainOptions
    about: str


PAPER = TrainOptions(
    epochs=6,
    batch_size=16,
    learning_rate=1e-5,
    head_learning_rate=1e-5,
    weight_decay=0.01,
    warmup_share=0.0,
    freeze_after_epochs=3,
    keep_best_epoch=False,
    clip_norm=None,
    pooling="cls",
    head="ssjf",
    hidden=128,
    max_tokens=512,
    marks="role",
)
"""The SSJF paper's and its repository's: AdamW at 1e-5 falling linearly, batch 16, 6 epochs,
the encoder frozen after 3, the last 512 tokens, two hidden layers of 128 on [CLS]."""

_SSJF_TASKS = [name for name in TASKS if name != "distribution"]

RECIPES: dict[str, Recipe] = {
    **{f"ssjf-{task}": Recipe(task, PAPER, "the SSJF paper's recipe") for task in _SSJF_TASKS},
    "ssjf-tiny": Recipe(
        "multiclass",
        PAPER.model_copy(update={"layers": 2}),
        "the paper's recipe on a tiny backbone: the first two layers",
    ),
    "ssjf-single-round": Recipe(
        "multiclass",
        PAPER.model_copy(update={"turns": False}),
        "the paper's recipe, earlier turns unread",
    ),
    "ssjf-head-tail": Recipe(
        "multiclass",
        PAPER.model_copy(update={"head_tokens": 128}),
        "the paper's recipe, the first 128 and the last 384 tokens",
    ),
    "ssjf-all-llms": Recipe(
        "multiclass",
        PAPER.model_copy(update={"llm": "head"}),
        "the paper's recipe with the LLM's name as an input",
    ),
    "distribution": Recipe(
        "distribution",
        TrainOptions(adapter_rank=64, learning_rate=1e-3, epochs=8),
        "for one LLM: adapters, small enough to ship",
    ),
    "distribution-llms": Recipe(
        "distribution",
        TrainOptions(
            llm="head",
            llm_dropout=0.1,
            rows_a_prompt=13,
            batch_size=32,
            epochs=24,
            max_tokens=512,
            head_tokens=128,
            marks="role-length",
        ),
        "for many LLMs, told apart by name: the whole backbone is fine-tuned",
    ),
    "distribution-llms-smollm2": Recipe(
        "distribution",
        TrainOptions(
            backbone="smollm2",
            llm="head",
            llm_dropout=0.1,
            rows_a_prompt=16,
            rows_an_epoch=16,
            batch_size=32,
            epochs=4,
            learning_rate=5e-5,
            pooling="last-mean",
            max_tokens=512,
            head_tokens=128,
        ),
        "the same on a small LLM, SmolLM2-135M: better, for ten times the work",
    ),
}


def with_settings(options: TrainOptions, settings: Sequence[str]) -> TrainOptions:
    """The options changed by `NAME=VALUE` strings. Raises OptionError on the first wrong."""
    changes = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in TrainOptions.model_fields:
            known = ", ".join(TrainOptions.model_fields)
            raise OptionError(f"{setting}: expected NAME=VALUE with a name of: {known}")
        changes[name] = None if value == "none" and name not in ("llm", "marks") else value
    try:
        return TrainOptions.model_validate(options.model_dump() | changes)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise OptionError(f"{where}: {problem['msg']}" if where else problem["msg"]) from None
