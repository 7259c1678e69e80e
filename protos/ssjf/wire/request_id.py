"""The request id of the call being handled, for logs and error details.

Set by the boundary interceptor for every call; a service that knows a better one
(the client's own) sets that. Context-local, so concurrent calls keep apart.
"""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar
from typing import Final

MAX_CHARS: Final = 128
_PATTERN: Final = re.compile(rf"[A-Za-z0-9._:-]{{1,{MAX_CHARS}}}")

current: ContextVar[str] = ContextVar("request_id", default="")


def is_valid(request_id: str) -> bool:
    """Whether a client's id is 1 to 128 characters of letters, digits and ``._:-``."""
    return _PATTERN.fullmatch(request_id) is not None


def draw() -> str:
    """A fresh id."""
    return uuid.uuid4().hex
