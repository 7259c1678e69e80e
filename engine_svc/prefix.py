"""Names for the content of KV blocks, so that equal prompt beginnings are read once.

The keys and values of a block depend on all tokens up to its end: its name is a hash
over the name of the block before it and its own tokens, from a root that differs by
salt, so that one tenant never finds (nor learns of) another's. Pure; called by the
scheduler.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from typing import Final

NAME_BYTES: Final = 16
"""128 bits: nobody finds two contents of one name."""


def block_names(tokens: Sequence[int], block_tokens: int, salt: str) -> Iterator[bytes]:
    """The names of the full blocks of `tokens` (each below 2**32), from the first on."""
    packed = array("I", tokens).tobytes()
    size = array("I").itemsize * block_tokens
    name = _hash(salt.encode())
    for start in range(0, len(packed) - size + 1, size):
        name = _hash(name + packed[start : start + size])
        yield name


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=NAME_BYTES).digest()
