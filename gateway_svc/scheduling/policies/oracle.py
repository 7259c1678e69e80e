"""Shortest job first with the true lengths: the ceiling, for benchmarks only."""

from __future__ import annotations

from gateway_svc.scheduling.entry import Entry
from gateway_svc.scheduling.lines import KeyedLine
from gateway_svc.scheduling.policy import LaneWork, Line, PolicyOptions, register


@register("oracle")
class Oracle:
    """Orders by true work; a job whose length was not given keeps its prediction.

    Raises ValueError where the options carry no lengths.
    """

    alpha = None
    by_length = True

    def __init__(self, options: PolicyOptions) -> None:
        if options.oracle_lengths is None:
            raise ValueError("policy oracle needs the true lengths (--oracle-lengths)")
        self._lengths = options.oracle_lengths

    def line(self, work: LaneWork) -> Line:
        """The key is the true work, in tokens."""
        del work
        return KeyedLine(self._key)

    def _key(self, entry: Entry) -> float:
        tokens = self._lengths.get(entry.job.request_id)
        return entry.work if tokens is None else entry.prefill_work + tokens
