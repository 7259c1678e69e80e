"""Sampling written down plainly, in float64, one row and one token at a time."""

from __future__ import annotations

import math

import numpy as np

from engine_svc.params import SamplingParams
from engine_svc.sequence import Sequence

from .one_step import EOS


def after_rules(logits: np.ndarray, sequence: Sequence) -> np.ndarray:
    """The row after penalties, biases and min_tokens."""
    params = sequence.params
    changed = logits.astype(np.float64)
    for token in {*sequence.prompt, *sequence.output}:
        if changed[token] > 0:
            changed[token] /= params.repetition_penalty
        else:
            changed[token] *= params.repetition_penalty
    for token in set(sequence.output):
        changed[token] -= params.presence_penalty
        changed[token] -= params.frequency_penalty * sequence.output.count(token)
    for token, bias in params.logit_bias.items():
        changed[token] += bias
    if len(sequence.output) < params.min_tokens:
        for token in params.stop_token_ids | (frozenset() if params.ignore_eos else EOS):
            changed[token] = -math.inf
    return changed


def kept(logits: np.ndarray, params: SamplingParams) -> tuple[list[int], float]:
    """Token ids that pass top_k, top_p and min_p, most probable first.

    Also by how much, in probability, the nearest token missed its border or passed it.
    """
    probabilities = softmax(logits / params.temperature)
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if params.top_k:
        order = order[: params.top_k]
    mass = sum(probabilities[order])
    passed, before, gap = [], 0.0, math.inf
    for token in order:
        to_nucleus = params.top_p * mass - before if params.top_p < 1 else math.inf
        to_floor = probabilities[token] - params.min_p * probabilities[order[0]]
        if to_nucleus > 0 and to_floor >= 0:
            passed.append(token)
        if before:
            gap = min(gap, abs(to_nucleus), abs(to_floor))
        before += probabilities[token]
    return passed, gap


def distribution(logits: np.ndarray, sequence: Sequence) -> np.ndarray:
    """Probability of every token to be the next one."""
    changed = after_rules(logits, sequence)
    result = np.zeros_like(changed)
    if sequence.params.greedy:
        result[changed.argmax()] = 1.0
        return result
    passed, _ = kept(changed, sequence.params)
    result[passed] = softmax(changed[passed] / sequence.params.temperature)
    return result


def softmax(values: np.ndarray) -> np.ndarray:
    """Of a vector."""
    weights = np.exp(values - values.max())
    normalised: np.ndarray = weights / weights.sum()
    return normalised
