"""What must hold in the core at any time; callable in production and in tests.

Reads, changes nothing. Called by `SchedulingCore.check`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from gateway_svc.scheduling.book import Book
from gateway_svc.scheduling.credits import EngineCredits
from gateway_svc.scheduling.entry import Entry, State
from gateway_svc.scheduling.expiries import Expiries
from gateway_svc.scheduling.lane import Lane

ROUNDING = 1e-6


class BrokenInvariant(Exception):
    """The core contradicts itself: a bug."""


def check(book: Book, engines: Mapping[str, EngineCredits]) -> None:
    """Raises BrokenInvariant for the first that does not hold."""
    entries, total = book.entries.values(), book.total
    states = Counter(entry.state for entry in entries)
    waiting = states[State.WAITING] + states[State.PARKED]
    counted = (total.queued, total.running, book.parked)
    if counted != (waiting, states[State.RUNNING], states[State.PARKED]) or states[State.GONE]:
        raise BrokenInvariant("the counts are not those of the jobs")
    for entry in entries:
        _check_entry(entry, engines, book.expiries)
    for lane in book.lanes.values():
        _check_lane(lane, [entry for entry in entries if entry.lane is lane])


def _check_entry(entry: Entry, engines: Mapping[str, EngineCredits], expiries: Expiries) -> None:
    if entry.state is State.RUNNING:
        engine = engines.get(entry.engine_id)
        if engine is None or engine.running.get(entry.job_id) is not entry:
            raise BrokenInvariant(f"job {entry.job_id} runs on an engine that does not have it")
    elif not expiries.watches(entry):
        raise BrokenInvariant(f"job {entry.job_id} waits and would never expire")


def _check_lane(lane: Lane, entries: list[Entry]) -> None:
    waiting = {entry.job_id for entry in entries if entry.state is State.WAITING}
    listed = [entry.job_id for entry in lane.line.in_order(0.0)]
    if len(listed) != lane.waiting or set(listed) != waiting:
        raise BrokenInvariant(f"lane {lane.account.tenant!r}: its line is not what waits there")
    work = sum(entry.work for entry in entries if entry.state is State.WAITING)
    if abs(work - lane.work.waiting) > ROUNDING * max(1.0, work):
        raise BrokenInvariant(f"lane {lane.account.tenant!r}: its waiting work is another")
    if lane.bound is not None:
        for entry in entries:
            if entry.state is State.WAITING and lane.bound.breached(entry):
                raise BrokenInvariant(f"job {entry.job_id} was overtaken beyond its bound")
