"""The bytes in which commands and reports cross between two processes.

A frame is four bytes of length and a value in Python's own `marshal` form: both sides
are the same interpreter, one started by the other. Only the types listed here cross, and
reading one makes nothing but these: it is no pickle. Used by `loop_process` and `loop_child`.
"""

from __future__ import annotations

import enum
import marshal
import struct
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final

from engine_svc.batching_mode import BatchingMode
from engine_svc.messages import (
    Cancel,
    Detach,
    Drain,
    Failed,
    Finished,
    FirstToken,
    Ready,
    Report,
    Start,
    Stop,
    TokenLogprobs,
)
from engine_svc.params import SamplingParams
from engine_svc.scheduler import Capacity
from engine_svc.sequence import Ending, FailureCode, FinishReason, Sequence

_LENGTH: Final = struct.Struct("<I")
# The newer forms look for objects that occur twice, which takes longer than sending them.
_MARSHAL_VERSION: Final = 2

_ENUMS: Final[tuple[type[enum.Enum], ...]] = (BatchingMode, FailureCode, FinishReason)
_CLASSES: Final[tuple[type[Any], ...]] = (
    *(Report, FirstToken, Finished, Failed, Ending, TokenLogprobs, Capacity, Ready),
    *(Start, Sequence, SamplingParams, Cancel, Detach, Drain, Stop),
)
_TYPES: Final = (*_ENUMS, *_CLASSES)
_CODES: Final = {each: code for code, each in enumerate(_TYPES)}
_FIELDS: Final[dict[type[Any], tuple[str, ...]]] = {
    **dict.fromkeys(_ENUMS, ("value",)),
    **{each: tuple(field.name for field in fields(each)) for each in _CLASSES},
    # A sequence that has not started; the rest comes about in the loop.
    Sequence: (
        *("sequence_id", "prompt", "params", "request_id", "forced_tokens"),
        *("cache_salt", "kv_reservation_tokens"),
    ),
}


def frame(*values: Any) -> bytes:
    """A frame that holds these values. Tuples are all of one kind of value."""
    body = marshal.dumps(tuple(map(_plain, values)), _MARSHAL_VERSION)
    return _LENGTH.pack(len(body)) + body


def _values(body: bytes) -> tuple[Any, ...]:
    return tuple(map(_made, marshal.loads(body)))  # noqa: S302 (written by our own process)


def _plain(value: Any) -> Any:
    """The value in what marshal knows; lists stand for objects, their type's code first.

    One object is [code, its fields]; a tuple of them is [~code, a column a field], which takes
    a few calls however many they are: a step can start or end all of its sequences at once.
    """
    kind = type(value)
    if kind is tuple:
        # A column of numbers or strings goes as it is.
        return _columns(value) if value and type(value[0]) in _CODES else value
    if kind in _CODES:
        return [_CODES[kind], *[_plain(getattr(value, name)) for name in _FIELDS[kind]]]
    if kind is dict:
        return {key: _plain(entry) for key, entry in value.items()}
    return value


def _columns(values: tuple[Any, ...]) -> list[Any]:
    kind = type(values[0])
    return [
        ~_CODES[kind],
        *[_plain(tuple(map(attrgetter(name), values))) for name in _FIELDS[kind]],
    ]


def _made(value: Any) -> Any:
    """The opposite of `_plain`."""
    kind = type(value)
    if kind is list:
        code, *parts = value
        made = map(_made, parts)
        return _TYPES[code](*made) if code >= 0 else tuple(map(_TYPES[~code], *made))
    if kind is dict:
        return {key: _made(entry) for key, entry in value.items()}
    return value


class FrameReader:
    """Cuts what comes out of a pipe into frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[tuple[Any, ...]]:
        """The values of each frame that is complete with this."""
        self._bytes += data
        found = []
        start = 0
        while len(self._bytes) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._bytes, start)
            end = start + _LENGTH.size + length
            if end > len(self._bytes):
                break
            found.append(_values(bytes(self._bytes[start + _LENGTH.size : end])))
            start = end
        del self._bytes[:start]
        return found
