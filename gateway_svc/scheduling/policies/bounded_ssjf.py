"""SSJF within a bound: shortest predicted job first, unless one has been overtaken enough.

A job is due when its lane has started alpha times the predicted work that was ahead of it,
which is when it would have started first come, first served, times alpha. The lane's clock
is work, so no rate has to be estimated and a stalled engine makes nothing due. The core
adds the bound itself, in actual tokens.
"""

from __future__ import annotations

from math import isinf
from operator import attrgetter
from typing import Final

from gateway_svc.scheduling.entry import Entry
from gateway_svc.scheduling.lines import DueLine, KeyedLine
from gateway_svc.scheduling.policy import LaneWork, Line, PolicyOptions, register

DEFAULT_ALPHA: Final = 1.3


@register("bounded-ssjf")
class BoundedSsjf:
    """Orders by predicted work, those first that are due."""

    by_length = True

    def __init__(self, options: PolicyOptions) -> None:
        alpha = DEFAULT_ALPHA if options.alpha is None else options.alpha
        self.alpha: float | None = None if isinf(alpha) else alpha

    def line(self, work: LaneWork) -> Line:
        """The key is the predicted work; the clock is what the lane has started, in tokens."""
        if self.alpha is None:
            return KeyedLine(attrgetter("work"))
        extra = self.alpha - 1.0

        def due(entry: Entry) -> float:
            # `waiting` has the entry itself already
            ahead = work.waiting - entry.work
            return work.started + ahead + extra * (ahead + work.running)

        return DueLine(attrgetter("work"), due, lambda: work.started)
