"""How sequences are put together into batches, as the engine's own type.

Pure. The gateway chooses one for its stream, the scheduler keeps to it.
"""

from __future__ import annotations

import enum


class BatchingMode(enum.Enum):
    """The three modes of the SSJF paper (section 4)."""

    NONE = enum.auto()
    """One sequence at a time."""
    DYNAMIC = enum.auto()
    """A batch runs to completion together: its places stay taken until its last one ends."""
    CONTINUOUS = enum.auto()
    """Sequences join at any step, ended ones leave at once."""
