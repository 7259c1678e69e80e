"""What the network gave for prompts that it has read: a bounded cache of its raw outputs.

Owns what makes two prompts the same to the network, and which output is forgotten first
(the one least recently asked for). Raw outputs, because the limit that clips a prediction
is the request's. One cache a loaded model: another revision starts with an empty one.
Called by `pipeline`, on the event loop.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from predictor_svc.encoder import InputForm, PromptText

Row = NDArray[np.float32]


class OutputCache:
    """Rows of network outputs, (width,) each, by digest; 0 `items` keep nothing."""

    def __init__(self, items: int) -> None:
        self._items = items
        self._rows: OrderedDict[bytes, Row] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def enabled(self) -> bool:
        """Whether anything is ever kept."""
        return self._items > 0

    def get(self, key: bytes) -> Row | None:
        """The row of a prompt, which becomes the last to be forgotten."""
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
        return row

    def put(self, key: bytes, row: Row) -> None:
        """Keeps a copy of the row."""
        if not self.enabled:
            return
        self._rows[key] = row.copy()  # a view would keep its whole batch
        self._rows.move_to_end(key)
        if len(self._rows) > self._items:
            self._rows.popitem(last=False)


def digest(text: PromptText, form: InputForm) -> bytes:
    """Equal for prompts that the network cannot tell apart, 16 bytes.

    Lengths stand before the texts, so that no border between two of them can move.
    """
    parts = []
    for turn in text.turns if form.turns else ():
        parts.append(turn.content)
        parts.append(turn.role if form.marks != "none" else "")
    parts.append(text.prompt)
    parts.append(form.read_llm(text.llm).name)
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    lengths = ",".join([str(len(part)) for part in encoded])
    return blake2b(b"".join([lengths.encode(), b":", *encoded]), digest_size=16).digest()
