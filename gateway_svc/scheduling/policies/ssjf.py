"""Speculative shortest job first (Qiu et al., 2024, section 4): shortest predicted job first.

Pure: no ageing and no bound, so a long job can wait as long as shorter ones keep
coming.
"""

from __future__ import annotations

from operator import attrgetter

from gateway_svc.scheduling.lines import KeyedLine
from gateway_svc.scheduling.policy import LaneWork, Line, PolicyOptions, register


@register("ssjf")
class Ssjf:
    """Orders by predicted work."""

    alpha = None
    by_length = True

    def __init__(self, options: PolicyOptions) -> None:
        del options  # the same shape for every policy

    def line(self, work: LaneWork) -> Line:
        """The key is the predicted work, in tokens."""
        del work
        return KeyedLine(attrgetter("work"))
