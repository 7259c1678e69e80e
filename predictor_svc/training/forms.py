"""What a network will read, and what it is made of: by the options, the data, the backbone.

Owns which options go together with which kind of backbone. Called by `train`.
"""

from __future__ import annotations

from collections.abc import Sequence

from predictor_svc.encoder import Encoder, InputForm
from predictor_svc.layouts import Layout
from predictor_svc.llm_names import families_of
from predictor_svc.outputs import Output
from predictor_svc.training.adapted import Backbone
from predictor_svc.training.example import Example
from predictor_svc.training.model import ProxyShape
from predictor_svc.training.options import TrainOptions


def input_form(options: TrainOptions, examples: Sequence[Example], layout: Layout) -> InputForm:
    """What the network will read.

    Raises ValueError where it is to read LLMs that no row names, or what its form cannot say.
    """
    llms = sorted({example.model for example in examples if example.model})
    if options.llm != "none" and not llms:
        raise ValueError(f"llm={options.llm}: no row names its LLM")
    if layout == "chat":
        _check_chat(options)
    return InputForm(
        layout=layout,
        max_tokens=options.max_tokens,
        head_tokens=options.head_tokens,
        turns=options.turns,
        marks="role" if layout == "chat" else options.marks,
        llms=tuple(llms) if options.llm != "none" else (),
        # A family is a mean of what the head has for its members; the backbone has no such thing.
        families=tuple(families_of(llms)) if options.llm == "head" else (),
    )


def _check_chat(options: TrainOptions) -> None:
    if options.llm == "token":
        raise ValueError("llm=token: a decoder has no tokens to spare; llm=head tells LLMs apart")
    if options.marks == "role-length":
        raise ValueError("marks=role-length: a decoder reads roles as it knows them, no marks")
    if options.pooling == "cls":
        raise ValueError("pooling=cls: a decoder's first token has seen nothing; use last-mean")


def family_rows(form: InputForm) -> dict[int, tuple[int, ...]]:
    """Each family's number in the head, and those of its members: as `form.named`, from 1."""
    number_of = {name: number for number, name in enumerate(form.named, start=1)}
    members_of = families_of(form.llms)
    return {
        number_of[family]: tuple(number_of[member] for member in members_of[family])
        for family in form.families
    }


def proxy_shape(
    options: TrainOptions, output: Output, encoder: Encoder, backbone: Backbone
) -> ProxyShape:
    """What the network will be."""
    return ProxyShape(
        backbone=options.backbone,
        outputs=output.width,
        layers=len(backbone.layers[: options.layers]),
        adapter_rank=options.adapter_rank,
        pooling=options.pooling,
        head=options.head,
        hidden=options.hidden,
        llm_tokens=encoder.llm_tokens,
        llm_position=encoder.llm_position,
        llm_seen_as=encoder.unread_llm_token if options.llm == "head" else None,
    )
