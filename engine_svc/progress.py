"""How far each running answer is, in arrays over the places of the batch.

At a hundred thousand tokens a second nothing may be done token by token: which tokens
may end their answer is found for a whole step at once, and only those are looked at one
by one (`Sequence.ending` has the rule). Pure; called by the engine loop.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine_svc.sequence import Sequence

Tokens = NDArray[np.int64]
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Rows:
    """The sequences of a step that get a token, in the order of the results."""

    sequences: tuple[Sequence, ...]
    sequence_ids: tuple[int, ...]
    runs: tuple[int, ...]
    """The run of each sequence that was scheduled: an earlier run's token means nothing."""
    places: Tokens
    appends: tuple[Callable[[int], None], ...]
    """What appends a token to each answer."""

    def alive(self) -> list[int]:
        """Rows whose sequence still runs as it was scheduled."""
        pairs = zip(self.sequences, self.runs, strict=True)
        return [row for row, (sequence, run) in enumerate(pairs) if sequence.run == run]

    def only(self, rows: list[int]) -> Rows:
        """Some of the rows."""
        return rows_of(tuple(self.sequences[row] for row in rows))


def rows_of(sequences: tuple[Sequence, ...]) -> Rows:
    """The rows of running sequences."""
    return Rows(
        sequences,
        tuple([s.sequence_id for s in sequences]),
        tuple([s.run for s in sequences]),
        np.array([s.place for s in sequences], dtype=np.int64),
        tuple([s.output.append for s in sequences]),
    )


class Progress:
    """Counts and limits of the answers in all places."""

    def __init__(self, places: int, eos_token_ids: Set[int]) -> None:
        self._eos_token_ids = eos_token_ids
        self._counts = np.zeros(places, np.int64)
        self._limits = np.zeros(places, np.int64)
        # Tokens from which an answer may end by what its tokens are.
        self._ends_from = np.zeros(places, np.int64)
        self._heeds_eos = np.zeros(places, np.bool_)
        self._has_stops = np.zeros(places, np.bool_)

    def start(self, sequence: Sequence) -> None:
        """A sequence has got its place."""
        place, params = sequence.place, sequence.params
        self._counts[place] = len(sequence.output)
        self._limits[place] = sequence.limit_tokens
        forced = sequence.forced_tokens is not None
        self._ends_from[place] = NEVER if forced else params.min_tokens
        self._heeds_eos[place] = not params.ignore_eos
        self._has_stops[place] = bool(params.stop_token_ids)

    def advance(self, rows: Rows, tokens: Tokens) -> tuple[Tokens, list[int]]:
        """Appends a token to each answer; all rows are alive.

        Returns the index of each token in its answer, and the rows that may have ended.
        """
        for append, token in zip(rows.appends, tokens.tolist(), strict=True):
            append(token)
        places = rows.places
        indices = self._counts[places]
        counts = indices + 1
        self._counts[places] = counts
        ends = np.zeros(len(tokens), np.bool_)
        for eos in self._eos_token_ids:
            ends |= tokens == eos
        ends &= self._heeds_eos[places]
        ends |= self._has_stops[places]
        ends &= counts >= self._ends_from[places]
        ends |= counts >= self._limits[places]
        return indices, ends.nonzero()[0].tolist()
