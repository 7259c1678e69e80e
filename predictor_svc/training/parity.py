"""Whether an exported graph computes what the model computes.

Owns the bounds of each precision and the prompts that it is checked on. Knows nothing of
how a graph came about. Called by `export`, which writes nothing where a check fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from tokenizers import Tokenizer

from predictor_svc.encoder import PromptText, load_encoder
from predictor_svc.lengths import Floats
from predictor_svc.model_dir import Precision
from predictor_svc.outputs import Readings
from predictor_svc.training.model import pad
from predictor_svc.training.weights import Trained

MAX_DIFFERENCE = 1e-3
"""fp32: largest difference of an output."""
LARGE_OUTPUT = 10.0
"""Of a larger one, such as tokens, the difference may be larger in proportion."""
MAX_TOKENS_RATIO = 2e-2
"""fp16: largest difference of expected tokens, as a share of them."""
MIN_CORRELATION = 0.9
"""int8: least correlation of rank scores. It tells a wrong graph (near 0) from a coarse one."""

BATCHES_TOKENS = ((2,), (7, 3), (16, 128, 2), (200,), *((tokens, 2) for tokens in range(4, 48)))
"""Words of the prompts checked, about, batch by batch: alone and padded, short and long."""


class ParityError(Exception):
    """An exported graph computes something else than the model."""


class Reference:
    """What the model gives for prompts of random words, in the form that it is served them.

    Bare words will not do: the activations with which a chat model marks a conversation's
    beginning are thousands of times the others, and without one a word bears them, in fp16
    further off than any prompt that there can be.
    """

    def __init__(self, trained: Trained) -> None:
        """Runs the model: in evaluation mode, on the CPU, in float32."""
        model, form = trained.model, trained.config.input
        encoder = load_encoder(trained.tokenizer, form)
        words = Tokenizer.from_file(str(trained.tokenizer))
        draw = np.random.default_rng(0)

        def prompt(tokens: int) -> PromptText:
            ids = draw.integers(0, words.get_vocab_size(), size=tokens).tolist()
            llm = form.llms[int(draw.integers(len(form.llms)))] if form.llms else ""
            return PromptText(words.decode(ids), llm=llm)

        self._output = trained.config.output
        self._batches = [
            pad(encoder.encode([prompt(tokens) for tokens in lengths]))
            for lengths in BATCHES_TOKENS
        ]
        with torch.no_grad():
            parts = [model(ids, mask).numpy() for ids, mask in self._batches]
        self._wanted: Floats = np.concatenate(parts)

    def check(self, graph: Path, precision: Precision) -> None:
        """Raises ParityError where the graph is further off than its precision explains."""
        raw = self._run(graph)
        if raw.shape != self._wanted.shape or not np.isfinite(raw).all():
            raise ParityError(f"{precision}: outputs of shape {raw.shape}, or not all finite")
        checks = {
            "fp32": self._check_outputs,
            "fp16": self._check_tokens,
            "int8": self._check_order,
        }
        checks[precision](raw)

    def _run(self, graph: Path) -> Floats:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        parts = [
            session.run(None, dict(zip(names, _int32(batch), strict=True)))[0]
            for batch in self._batches
        ]
        return np.concatenate(parts)

    def _check_outputs(self, raw: Floats) -> None:
        sizes = np.maximum(np.abs(self._wanted) / LARGE_OUTPUT, 1.0)
        difference = float((np.abs(raw - self._wanted) / sizes).max())
        if not difference <= MAX_DIFFERENCE:
            raise ParityError(
                f"fp32: ONNX Runtime and PyTorch differ by {difference:.2g}; "
                f"allowed is {MAX_DIFFERENCE}"
            )

    def _check_tokens(self, raw: Floats) -> None:
        wanted = self._read(self._wanted).expected_tokens
        ratio = float((np.abs(self._read(raw).expected_tokens - wanted) / wanted).max())
        if not ratio <= MAX_TOKENS_RATIO:
            raise ParityError(
                f"fp16: expected tokens differ from PyTorch's by {ratio:.2%}; "
                f"allowed is {MAX_TOKENS_RATIO:.0%}"
            )

    def _check_order(self, raw: Floats) -> None:
        scores = [self._read(each).rank_scores for each in (raw, self._wanted)]
        correlation = float(np.corrcoef(np.stack(scores)).min())
        if not correlation >= MIN_CORRELATION:
            raise ParityError(
                f"int8: rank scores correlate with PyTorch's by {correlation:.3f} only; "
                f"allowed is {MIN_CORRELATION} (leave it out: --precision fp32 --precision fp16)"
            )

    def _read(self, raw: Floats) -> Readings:
        return self._output.read(raw, np.full(len(raw), np.inf))


def _int32(
    tensors: Sequence[torch.Tensor],
) -> list[np.ndarray[tuple[int, ...], np.dtype[np.int32]]]:
    return [each.numpy().astype(np.int32) for each in tensors]
