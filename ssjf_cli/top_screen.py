"""What `ssjf top` shows: one snapshot of the queue as tables.

Pure drawing: a snapshot in, something that rich can print out. What clients chose
(request ids) and what operators chose (tenants) is printed as it is, never as markup.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ssjf.engine.v1 import engine_pb2
from ssjf.gateway.v1 import gateway_pb2

BAR_CHARS: Final = 16
LEAST_ID_CHARS: Final = 8
LEAST_REASON_CHARS: Final = 12
RIGHT: Final = "right"
CLASS_STYLES: Final = {"urgent": "bold red", "standard": "", "batch": "dim"}


class Screen:
    """Draws snapshots of the gateway at `address`, with `rows` requests of each kind."""

    FIXED_LINES: Final = 30
    """Lines that everything but the requests takes, about."""

    def __init__(self, address: str, info: gateway_pb2.GetServerInfoResponse, rows: int) -> None:
        self._address = address
        self._model = info.model
        self._rows = rows

    def draw(self, queue: gateway_pb2.GetQueueResponse) -> RenderableType:
        """The whole screen."""
        return Group(
            self._head(queue),
            Columns([_classes(queue), _tenants(queue), _engines(queue)], padding=(0, 3)),
            Columns([_waits(queue), _predictions(queue)], padding=(0, 3)),
            self._requests("running", queue.running, queue.running_count),
            self._requests("waiting, next first", queue.waiting, queue.waiting_count),
        )

    def _head(self, queue: gateway_pb2.GetQueueResponse) -> Text:
        scheduling, counters = queue.scheduling, queue.counters
        head = Text.assemble(("ssjf ", "bold"), f"{self._address}  {self._model or 'no model'}  ")
        head.append(_order(scheduling), "bold yellow" if scheduling.fallback else "bold")
        head.append(f"  {_batching(scheduling)}\n")
        head.append(
            f"waiting {queue.waiting_count:,} ({queue.queued_tokens:,.0f} tokens, "
            f"{_wait(queue)})  running {queue.running_count:,}  "
            f"{queue.output_tokens_per_s:,.0f} tokens/s\n"
        )
        ends = ("accepted", "finished", "cancelled", "failed", "refused")
        head.append("  ".join(f"{name} {getattr(counters, name):,}" for name in ends), "dim")
        if scheduling.bound_violations:
            head.append(f"  bound violations {scheduling.bound_violations}", "bold red")
        return head

    def _requests(self, title: str, entries: Iterable[gateway_pb2.QueueEntry], count: int) -> Table:
        shown = [*entries][: self._rows]
        more = f", {len(shown)} of {count:,}" if count > len(shown) else ""
        made = _table(f"{title}{more}")
        # In a narrow terminal the request's id gives way, not what is said of it.
        made.add_column("request", min_width=LEAST_ID_CHARS)
        for name in ("tenant", "class"):
            made.add_column(name, no_wrap=True)
        for name in ("prompt", "predicted", "sent", "waited"):
            made.add_column(name, justify=RIGHT, no_wrap=True)
        made.add_column("waits for\nor engine", min_width=LEAST_REASON_CHARS)
        for entry in shown:
            made.add_row(*_cells(entry))
        return made


def _cells(entry: gateway_pb2.QueueEntry) -> Sequence[Text]:
    name = _class(entry.priority)
    prior = entry.prediction_source == gateway_pb2.PREDICTION_SOURCE_PRIOR
    cells = (
        entry.tenant or "-",
        name,
        f"{entry.prompt_tokens:,}",
        f"{entry.predicted_tokens:,.0f}{' prior' if prior else ''}",
        f"{entry.output_tokens:,}",
        _seconds(entry.waited_ms / 1e3),
        entry.engine_id or _reason(entry.wait_reason),
    )
    style = CLASS_STYLES.get(name, "")
    request = Text(entry.request_id[:36], style, no_wrap=True, overflow="ellipsis")
    return [request, *(Text(cell, style) for cell in cells)]


def _classes(queue: gateway_pb2.GetQueueResponse) -> Table:
    made = _table("by class", "class")
    for name in ("waiting", "tokens", "longest wait", "running"):
        made.add_column(name, justify=RIGHT)
    for each in queue.classes:
        made.add_row(
            _class(each.priority),
            f"{each.waiting_count:,}",
            f"{each.queued_tokens:,.0f}",
            _seconds(each.longest_wait_ms / 1e3) if each.waiting_count else "",
            f"{each.running_count:,}",
        )
    return made


def _tenants(queue: gateway_pb2.GetQueueResponse) -> Table:
    made = _table("by tenant", "tenant")
    for name in ("weight", "waiting", "running", "tokens out", "refused"):
        made.add_column(name, justify=RIGHT)
    for each in sorted(queue.tenants, key=lambda tenant: -tenant.queued_tokens)[:8]:
        made.add_row(
            Text(each.tenant or "-"),
            f"{each.weight:g}",
            f"{each.waiting_count:,}",
            f"{each.running_count:,}",
            f"{each.output_tokens:,}",
            f"{each.refused:,}",
        )
    return made


def _engines(queue: gateway_pb2.GetQueueResponse) -> Table:
    made = _table("engines", "engine")
    for name in ("running", "of", "KV used", "tokens/s"):
        made.add_column(name, justify=RIGHT)
    for each in queue.engines:
        used = 1 - each.free_kv_tokens / each.kv_tokens if each.kv_tokens else 0.0
        made.add_row(
            Text(each.engine_id),
            f"{each.running_count:,}",
            f"{each.max_sequences:,}",
            f"{used:.0%}",
            f"{each.output_tokens_per_s:,.0f}",
        )
    if not queue.engines:
        made.add_row(Text("none connected", "bold red"))
    return made


def _waits(queue: gateway_pb2.GetQueueResponse) -> Table:
    made = _table("waits by length of the answer, lately", "tokens")
    for name in ("requests", "mean wait", "p90", "", "predicted", "actual"):
        made.add_column(name, justify="left" if not name else RIGHT, no_wrap=True)
    longest = max((each.mean_wait_ms for each in queue.waits), default=0.0)
    for each in queue.waits:
        end = f"–{each.below_tokens - 1}" if each.below_tokens else " …"
        bar = "█" * round(BAR_CHARS * each.mean_wait_ms / longest) if longest else ""
        made.add_row(
            f"{each.from_tokens}{end}",
            f"{each.count:,}",
            _seconds(each.mean_wait_ms / 1e3),
            _seconds(each.p90_wait_ms / 1e3),
            Text(bar.ljust(BAR_CHARS), "cyan"),
            f"{each.mean_predicted_tokens:,.0f}",
            f"{each.mean_actual_tokens:,.0f}",
        )
    return made


def _predictions(queue: gateway_pb2.GetQueueResponse) -> Table:
    quality, counters = queue.predictions, queue.counters
    made = _table(f"predictions, last {quality.count}", "what")
    made.add_column("", justify=RIGHT)
    tau_b = f"{quality.tau_b:.2f}" if quality.HasField("tau_b") else "not yet"
    made.add_row("Kendall's tau-b", tau_b)
    for name, label in (("predicted_to_actual", "predicted : actual"), ("p90_coverage", "in p90")):
        if quality.HasField(name):  # type: ignore[arg-type]
            made.add_row(label, f"{getattr(quality, name):.2f}")
    for name in ("skipped", "late", "failed"):
        made.add_row(name, f"{getattr(counters, f'predictions_{name}'):,}")
    made.add_row("repriced", f"{counters.repriced:,}")
    return made


def _table(title: str, *first: str) -> Table:
    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for name in first:
        made.add_column(name, no_wrap=True)
    return made


def _order(scheduling: gateway_pb2.SchedulingStatus) -> str:
    if scheduling.fallback:
        return f"{scheduling.active_policy} (predictions order too badly for {scheduling.policy})"
    alpha = f" α {scheduling.alpha:g}" if scheduling.alpha else ""
    return f"{scheduling.active_policy}{alpha}"


def _batching(scheduling: gateway_pb2.SchedulingStatus) -> str:
    mode = engine_pb2.BatchingMode.Name(scheduling.batching_mode)
    name = mode.removeprefix("BATCHING_MODE_").lower()
    if scheduling.batching_mode == engine_pb2.BATCHING_MODE_DYNAMIC:
        return f"{name}, {scheduling.max_batch} within {scheduling.max_batch_wait_ms:g} ms"
    return f"{name} batching"


def _wait(queue: gateway_pb2.GetQueueResponse) -> str:
    if math.isinf(queue.predicted_wait_s):
        return "rate not known yet"
    return f"about {_seconds(queue.predicted_wait_s)}"


def _class(priority: gateway_pb2.PriorityClass.ValueType) -> str:
    return gateway_pb2.PriorityClass.Name(priority).removeprefix("PRIORITY_CLASS_").lower()


def _reason(reason: gateway_pb2.WaitReason.ValueType) -> str:
    name = gateway_pb2.WaitReason.Name(reason).removeprefix("WAIT_REASON_").lower()
    return {
        "unspecified": "",
        "no_engine": "an engine",
        "tenant_limit": "tenant's limit",
        "global_limit": "gateway's limit",
        "class": "higher class",
        "tenant_share": "fair share",
        "order": "its turn",
        "kv": "KV cache",
        "place": "a place",
        "company": "company",
    }.get(name, name)


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:,.0f} s"
