"""The measured capacity: requests a second that a full engine finishes, at a mode and batch.

Owns which requests make the burst that fills the engine, and what is read off it. Load in a
live run is a share of this, never of a model. Called by `ssjf bench live`, which replays
the burst under first come, first served and keeps the figure with the records.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from gateway_svc.scheduling.batching import Mode
from ssjf_bench.live_plan import Engine
from ssjf_bench.replay import Record
from ssjf_bench.workload import Request

BATCHES = 6
"""Full batches that a burst amounts to."""
LEAST_REQUESTS = 24
"""Where batches are small."""


class CapacityError(Exception):
    """The capacity could not be measured; the message says why."""


def burst(
    requests: Sequence[Request], engine: Engine, seed: int, lengths: Mapping[str, int]
) -> tuple[Request, ...]:
    """Requests that fill the engine for a while, of the same lengths as all of them.

    Every n-th by length, so that their mean is that of all, in random order; in whole
    batches. `lengths` are output tokens by request id.
    """
    batches = max(BATCHES, -(-LEAST_REQUESTS // engine.max_batch))
    count = batches * engine.max_batch
    by_length = sorted(requests, key=lambda request: lengths[request.request_id])
    # The middle of each of `count` equal parts; some come again where there are fewer.
    taken = [by_length[int((part + 0.5) * len(by_length) / count)] for part in range(count)]
    random.Random(seed).shuffle(taken)  # noqa: S311 (a workload, not a secret)
    return tuple(
        replace(request, request_id=f"capacity-{number}") for number, request in enumerate(taken)
    )


def requests_per_s(records: Sequence[Record], engine: Engine, mean_tokens: float) -> float:
    """What the engine finished a second while it was full. Raises CapacityError.

    Continuous batching: the tokens between the first start and the last, when requests wait
    and every place is taken, over the time and `mean_tokens`, the mean answer of the whole
    workload. Else whole batches, from the first start to the last end.
    """
    failed = [record for record in records if not record.ok]
    if failed:
        why = f"{failed[0].outcome} {failed[0].error}".strip()
        raise CapacityError(f"{len(failed)} of {len(records)} requests failed: {why}")
    starts_s = [record.started_s for record in records if record.started_s is not None]
    first_s, last_s = min(starts_s), max(starts_s)
    if engine.mode != Mode.CONTINUOUS.value:
        end_s = max(record.end_s for record in records if record.end_s is not None)
        return len(records) / (end_s - first_s)
    times_s = np.concatenate([record.token_times_s for record in records])
    tokens = int(np.count_nonzero((times_s >= first_s) & (times_s <= last_s)))
    if last_s <= first_s or tokens == 0:
        raise CapacityError("the engine took the whole burst at once: its batch is not bounded")
    return tokens / (last_s - first_s) / mean_tokens
