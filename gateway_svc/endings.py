"""How requests end that do not finish: what their clients are told.

Owns the translation of expiries and of engines' failures into errors, and whose doing a
cancellation was. Called by the dispatcher.
"""

from __future__ import annotations

import math

from gateway_svc.scheduling.expiries import Expiry
from gateway_svc.scheduling.job import Job
from ssjf.engine.v1 import engine_pb2
from ssjf.wire import errors


def at_deadline(job: Job, now_s: float) -> bool:
    """Whether a cancellation at `now_s` is the deadline's.

    At the deadline the client's own timer cancels the call, mostly before ours fires: grpc
    rounds what is left up, by 1 % at most, and the request was on its way for a while.
    """
    early_s = 0.05 + 0.01 * (job.deadline_s - job.arrival_s)
    return math.isfinite(job.deadline_s) and now_s >= job.deadline_s - early_s


def expired(job: Job, expiry: Expiry) -> errors.SsjfError:
    """What the client of a job is told that was dropped from the queue."""
    if expiry is Expiry.DEADLINE:
        return errors.DeadlinePassed(f"the deadline of {job.request_id} passed in the queue")
    return errors.QueueTimeout("the request waited too long in the queue", retry_after_s=1.0)


def failed(failure: engine_pb2.SequenceError) -> errors.SsjfError:
    """What a client is told of its engine's failure: the kind, nothing of the inside."""
    match failure.code:
        case engine_pb2.SEQUENCE_ERROR_CODE_KV_EXHAUSTED:
            return errors.KvExhausted("the engine ran out of KV cache", retry_after_s=1.0)
        case engine_pb2.SEQUENCE_ERROR_CODE_NUMERIC:
            return errors.NumericFault("the model produced no finite probabilities")
        case _:
            return errors.Internal("the engine failed on this request")
