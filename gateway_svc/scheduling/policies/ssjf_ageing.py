"""SSJF with ageing that is linear in waiting time.

A job's advantage grows at the same rate for all that wait, so their order never changes
and one constant key holds it: arrival + work · rate. No bound: under a steady overload the
wait of a long job still grows with the load.
"""

from __future__ import annotations

from gateway_svc.scheduling.entry import Entry
from gateway_svc.scheduling.lines import KeyedLine
from gateway_svc.scheduling.policy import LaneWork, Line, PolicyOptions, register


@register("ssjf-ageing")
class SsjfAgeing:
    """Orders by arrival plus predicted work times `ageing_s_per_token`."""

    alpha = None
    by_length = True

    def __init__(self, options: PolicyOptions) -> None:
        self._rate = options.ageing_s_per_token

    def line(self, work: LaneWork) -> Line:
        """The key is in seconds."""
        del work
        return KeyedLine(self._key)

    def _key(self, entry: Entry) -> float:
        return entry.job.arrival_s + entry.work * self._rate
