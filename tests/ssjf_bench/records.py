"""Records made by hand, for tests of what is computed from them."""

from __future__ import annotations

from ssjf_bench.replay import OK, Record
from ssjf_bench.workload import Request


def request(name: str = "a") -> Request:
    return Request(name, f"say {name}", max_tokens=16, temperature=0.0, seed=1)


def finished(
    name: str,
    *,
    arrival_s: float = 0.0,
    started_s: float | None = None,
    tokens_s: tuple[float, ...] = (1.0,),
    predicted: float = 8.0,
    by_model: bool = True,
    text: str = "yes",
) -> Record:
    """A finished request whose tokens came at `tokens_s`; it ends with the last one."""
    return Record(
        request=request(name),
        arrival_s=arrival_s,
        sent_s=arrival_s,
        queued_s=arrival_s,
        started_s=arrival_s if started_s is None else started_s,
        end_s=tokens_s[-1],
        token_times_s=list(tokens_s),
        token_ids=list(range(len(tokens_s))),
        text=text,
        predicted_tokens=predicted,
        predicted_by_model=by_model,
        finish_reason="FINISH_REASON_EOS",
        outcome=OK,
    )


def failed(name: str, *, end_s: float = 1.0) -> Record:
    return Record(request(name), 0.0, end_s=end_s, outcome="UNAVAILABLE", error="NO_ENGINE none")
