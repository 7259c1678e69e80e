"""Every job that the core holds, from `submit` to its end, and where it is.

Owns the moves between waiting, parked, running and gone, and keeps what counts jobs in
step: accounts, lanes, shares, expiries and who waits for company. Knows no credits of
engines and decides nothing. Called by the core.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway_svc.scheduling.batching import Batching, Company
from gateway_svc.scheduling.entry import Entry, State
from gateway_svc.scheduling.expiries import Expiries, Expiry
from gateway_svc.scheduling.job import Job
from gateway_svc.scheduling.lane import Lane
from gateway_svc.scheduling.policy import Policy
from gateway_svc.scheduling.quota import UNLIMITED, Account, Limits, Tenant
from gateway_svc.scheduling.shares import Classes


class Book:
    """The jobs by id, with all that has to know of them.

    `parked`: how many wait that no engine here can hold. `dropped`: expired jobs that `expire`
    has not told yet.
    """

    def __init__(
        self,
        policy: Policy,
        limits: Limits,
        batching: Batching,
        tenants: Sequence[Tenant],
        prefill_work: float,
    ) -> None:
        self.entries: dict[int, Entry] = {}
        self.lanes: dict[tuple[str, int], Lane] = {}
        self.classes = Classes(limits.class_shares)
        self.expiries = Expiries(limits.queue_timeout_s)
        self.company = Company(batching)
        self.total = Account(limits, None)
        self.parked = 0
        self.dropped: dict[int, tuple[Job, Expiry]] = {}
        self._accounts = {each.name: Account(each, each.name, each.weight) for each in tenants}
        self._policy = policy
        self._prefill_work = prefill_work
        self._places = batching.places
        self._longest_tokens = limits.longest_answer_tokens
        self._slack_tokens = 0  # one batch of longest answers on the largest engine so far
        self._arrivals = 0
        self._largest = UNLIMITED  # KV tokens of the largest job that an engine here can hold

    def set_tenants(self, tenants: Iterable[Tenant]) -> None:
        """Takes other weights and limits; who is not listed any more has none of its own."""
        listed = {each.name: each for each in tenants}
        for name in self._accounts.keys() | listed.keys():
            tenant = listed.get(name, Tenant(name))
            account = self._accounts.setdefault(name, Account(tenant, name))
            account.limits, account.weight = tenant, tenant.weight

    def widen(self, max_sequences: int) -> None:
        """An engine with so many places is here: its batch counts from now on."""
        batch_tokens = min(max_sequences, self._places) * self._longest_tokens
        if batch_tokens > self._slack_tokens:
            self._slack_tokens = batch_tokens
            for lane in self.lanes.values():
                lane.widen(batch_tokens)

    def add(self, job: Job) -> None:
        """A new job waits. Raises CoreFull at a limit, ValueError for an id in use."""
        if job.job_id in self.entries or job.job_id in self.dropped:
            raise ValueError(f"job {job.job_id} is already here")
        lane = self.lanes.get((job.tenant, job.priority)) or self._open_lane(job)
        tokens = job.prompt_tokens + job.max_tokens
        self.total.admit(tokens)
        lane.account.admit(tokens)
        self._arrivals += 1
        entry = Entry(job, self._arrivals, lane, self._prefill_work)
        self.entries[job.job_id] = entry
        self._count_waiting(entry)
        lane.arrive(entry)
        self._in_line(entry)
        if entry.kv_tokens > self._largest:
            self._leave_line(entry, State.PARKED)

    def remove(self, entry: Entry) -> None:
        """A job that waits is forgotten."""
        del self.entries[entry.job_id]
        self._uncount_waiting(entry)
        if entry.state is State.PARKED:
            self.parked -= 1
            entry.lane.forget(entry)
        else:
            self._leave_line(entry, State.GONE)

    def start(self, entry: Entry) -> None:
        """A job that was taken out of its line runs."""
        lane = entry.lane
        self._uncount_waiting(entry)
        self.total.running += 1
        lane.account.running += 1
        lane.start(entry)
        self.classes.started(lane, entry.work)
        entry.passes = 0

    def end(self, entry: Entry) -> None:
        """A running job ends for good, after `entry.output_tokens`."""
        del self.entries[entry.job_id]
        self._stop(entry, returns=False)

    def interrupt(self, entries: Sequence[Entry]) -> None:
        """Running jobs will have to start again: for now they do not even wait."""
        for entry in entries:
            self._stop(entry, returns=True)

    def resume(self, entries: Sequence[Entry]) -> None:
        """Interrupted jobs wait again at their old places."""
        for entry in entries:
            self._count_waiting(entry)
            self._return_to_line(entry)

    def sweep(self, now_s: float) -> None:
        """Takes expired jobs out of the queue."""
        while (entry := self.expiries.pop(now_s)) is not None:
            self.remove(entry)
            self.dropped[entry.job_id] = (entry.job, self.expiries.why(entry, now_s))

    def park(self, largest: int) -> None:
        """Sets aside what is larger than `largest` KV tokens, and takes back what is not."""
        if largest == self._largest:
            return
        self._largest = largest
        for entry in list(self.entries.values()):
            if entry.state is State.WAITING and entry.kv_tokens > largest:
                self._leave_line(entry, State.PARKED)
            elif entry.state is State.PARKED and entry.kv_tokens <= largest:
                self.parked -= 1
                self._return_to_line(entry)

    # Inside -----------------------------------------------------------------

    def _open_lane(self, job: Job) -> Lane:
        account = self._accounts.get(job.tenant)
        if account is None:
            account = self._accounts[job.tenant] = Account(Tenant(job.tenant), job.tenant)
        lane = Lane(len(self.lanes), int(job.priority), account, self._policy, self._slack_tokens)
        self.lanes[job.tenant, job.priority] = lane
        return lane

    def _in_line(self, entry: Entry) -> None:
        self.company.wait(entry)
        if entry.lane.waiting == 1:
            self.classes.wake(entry.lane, entry.work)

    def _leave_line(self, entry: Entry, state: State) -> None:
        self.parked += state is State.PARKED
        entry.lane.withdraw(entry, state)
        self.classes.left(entry.lane)

    def _return_to_line(self, entry: Entry) -> None:
        lane = entry.lane
        running = [
            each
            for each in self.entries.values()
            if each.lane is lane and each.state is State.RUNNING
        ]
        lane.come_back(entry, running)
        self._in_line(entry)

    def _stop(self, entry: Entry, *, returns: bool) -> None:
        self.total.running -= 1
        entry.lane.account.running -= 1
        entry.lane.stop(entry, returns=returns)
        self.classes.settled(entry.lane)

    def _count_waiting(self, entry: Entry) -> None:
        tokens = entry.job.prompt_tokens + entry.max_tokens
        self.total.wait(tokens)
        entry.lane.account.wait(tokens)
        self.expiries.watch(entry, self.total.queued)

    def _uncount_waiting(self, entry: Entry) -> None:
        tokens = entry.job.prompt_tokens + entry.max_tokens
        self.total.unwait(tokens)
        entry.lane.account.unwait(tokens)
