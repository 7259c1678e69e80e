"""First come, first served: the baseline."""

from __future__ import annotations

from gateway_svc.scheduling.entry import Entry
from gateway_svc.scheduling.lines import KeyedLine
from gateway_svc.scheduling.policy import LaneWork, Line, PolicyOptions, register


@register("fcfs")
class Fcfs:
    """Orders by arrival at the queue."""

    alpha = None
    by_length = False

    def __init__(self, options: PolicyOptions) -> None:
        del options  # the same shape for every policy

    def line(self, work: LaneWork) -> Line:
        """Every key is the same: ties go by arrival."""
        del work
        return KeyedLine(_no_key)


def _no_key(entry: Entry) -> float:
    del entry
    return 0.0
