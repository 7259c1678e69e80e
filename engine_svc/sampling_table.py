"""Sampling parameters of the running sequences, a row a place, on the device.

Written when a sequence starts and only read afterwards, but for the tokens that
penalties count: those are added by each step, since the host has not seen them yet. All
work goes to the current stream, so a row that is written anew cannot disturb a step
that was launched before. Owned by `sampler`; read by it, `logit_rules` and the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from collections.abc import Set
from typing import Final

import numpy as np
import torch
from torch import Tensor

from engine_svc.random_stream import mixed_seed
from engine_svc.sequence import Sequence

INTEGERS: Final = ("seed", "ends_from", "top_k")
FLOATS: Final = ("temperature", "top_p", "min_p", "repetition", "presence", "frequency")
ROW: Final = np.dtype([(n, np.int64) for n in INTEGERS] + [(n, np.float32) for n in FLOATS])
"""One place: `seed` mixed; `ends_from`, tokens of prompt and answer from which ends are
allowed; greedy rows have temperature 0 and no filters."""
WORDS: Final = ROW.itemsize // 8


class SamplingTable:
    """Rows 0 … places - 1, and one more that padding rows of a batch may name."""

    def __init__(
        self, places: int, vocabulary: int, eos_token_ids: Set[int], device: torch.device
    ) -> None:
        self.padding_place = places
        self.vocabulary = vocabulary
        self.device = device
        self.last_tokens = torch.zeros(places + 1, dtype=torch.int64, device=device)
        """The newest token of each place, int64 [places + 1]; 0 after a numeric fault."""
        self._eos_token_ids = eos_token_ids
        blank = np.zeros(places + 1, ROW)
        blank["top_p"] = blank["repetition"] = 1.0
        self.words = torch.from_numpy(blank.view(np.int64).reshape(-1, WORDS).copy()).to(device)
        """The rows as they are in memory, int64 [places + 1, WORDS]."""
        self._floats = self.words[:, len(INTEGERS) :].view(torch.float32)
        self.ends = torch.zeros((places + 1, 1), dtype=torch.int64, device=device)
        """Tokens that end an answer, int64 [places + 1, width]."""
        self.bias_tokens = torch.zeros((places + 1, 1), dtype=torch.int64, device=device)
        self.bias_values = torch.zeros((places + 1, 1), device=device)
        """Biases and their tokens, [places + 1, width]; what is unused adds 0."""
        self._biased: set[int] = set()
        self._history: Tensor | None = None

    @property
    def history(self) -> Tensor:
        """Twice the count in the answer, plus 1 where the prompt has it: int32 [places + 1,
        vocabulary], of places whose sequence is penalised. Made when it is first needed."""
        if self._history is None:
            size = (self.padding_place + 1, self.vocabulary)
            self._history = torch.zeros(size, dtype=torch.int32, device=self.device)
        return self._history

    def integers(self, name: str, places: Tensor) -> Tensor:
        """A column of INTEGERS for some places, int64 [rows, 1]."""
        return self.words[places, INTEGERS.index(name)].unsqueeze(1)

    def floats(self, name: str, places: Tensor) -> Tensor:
        """A column of FLOATS for some places, float32 [rows, 1]."""
        return self._floats[places, FLOATS.index(name)].unsqueeze(1)

    def write(self, places: Items[int], sequences: Items[Sequence]) -> None:
        """Gives places to sequences, with the tokens that each has so far."""
        if not places:
            return
        rows = np.array([_row(s) for s in sequences], ROW)
        index = self._to_device(np.array(places))
        self.words[index] = self._to_device(rows.view(np.int64).reshape(-1, WORDS))
        listed = list(zip(places, sequences, strict=True))
        self._write_ends([(p, s) for p, s in listed if s.params.min_tokens])
        self._write_biases([(p, s) for p, s in listed if s.params.logit_bias or p in self._biased])
        self._write_history([(p, s) for p, s in listed if s.params.penalised])

    def count(self, places: Tensor, tokens: Tensor) -> None:
        """Adds a token to the history of each place; those below 0 count as token 0."""
        cells = places * self.vocabulary + tokens.clamp(min=0)
        twice = torch.full_like(cells, 2, dtype=torch.int32)
        self.history.view(-1).scatter_add_(0, cells, twice)

    def _write_ends(self, listed: list[tuple[int, Sequence]]) -> None:
        for place, sequence in listed:
            ends = sorted(self._ends_of(sequence))
            if not ends:
                self.words[place, INTEGERS.index("ends_from")] = 0
                continue
            # What is left of a row repeats its first end: forbidden twice is no harm.
            self.ends = _widened(self.ends, len(ends), self.ends[:, :1])
            self.ends[place] = ends[0]
            self.ends[place, : len(ends)] = self._to_device(np.array(ends))

    def _ends_of(self, sequence: Sequence) -> Set[int]:
        params = sequence.params
        stops = params.stop_token_ids
        return stops if params.ignore_eos else stops | self._eos_token_ids

    def _write_biases(self, listed: list[tuple[int, Sequence]]) -> None:
        for place, sequence in listed:
            bias = sequence.params.logit_bias
            self._biased.add(place)
            self.bias_tokens = _widened(self.bias_tokens, len(bias), 0)
            self.bias_values = _widened(self.bias_values, len(bias), 0)
            self.bias_values[place] = 0.0
            self.bias_tokens[place, : len(bias)] = self._to_device(np.array([*bias], np.int64))
            values = np.array([*bias.values()], np.float32)
            self.bias_values[place, : len(bias)] = self._to_device(values)

    def _write_history(self, listed: list[tuple[int, Sequence]]) -> None:
        for place, sequence in listed:
            row = self.history[place].zero_()
            prompt = self._to_device(np.asarray(sequence.prompt, np.int64))
            answer = self._to_device(np.asarray(sequence.output, np.int64))
            row.index_fill_(0, prompt, 1)
            row.index_add_(0, answer, torch.full_like(answer, 2, dtype=torch.int32))

    def _to_device(self, values: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(values)
        # Pinned, so that the copy waits for nothing that runs; PyTorch keeps it until done.
        return (
            tensor
            if self.device.type == "cpu"
            else tensor.pin_memory().to(self.device, non_blocking=True)
        )


def _row(sequence: Sequence) -> tuple[int | float, ...]:
    params = sequence.params
    ends_from = len(sequence.prompt) + params.min_tokens if params.min_tokens else 0
    filters = (0, 0.0, 1.0, 0.0)
    if not params.greedy:
        filters = (params.top_k, params.temperature, params.top_p, params.min_p)
    penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
    return (mixed_seed(params.seed), ends_from, *filters, *penalties)


def _widened(table: Tensor, width: int, filler: Tensor | int) -> Tensor:
    """The table, with more columns of `filler` where it has fewer than `width`."""
    if width <= table.shape[1]:
        return table
    wide = table.new_empty((len(table), 1 << (width - 1).bit_length()))
    wide[:] = filler
    wide[:, : table.shape[1]] = table
    return wide
