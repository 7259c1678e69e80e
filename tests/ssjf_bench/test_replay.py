from __future__ import annotations

from ssjf.engine.v1 import engine_pb2, prompt_pb2
from ssjf_bench import replay, workload
from ssjf_bench.replay import Record
from ssjf_bench.workload import Prompt, Request, Workload
from tests.ssjf_bench.fake_gateway import fake_gateway

PROMPTS = (
    Prompt("one", "list", "yes"),
    Prompt("two", "list", "fail now"),
    Prompt("three", "list", "a b c"),
)
REQUESTS = workload.requests(PROMPTS, max_tokens=8, temperature=0.7, first_seed=5)


async def test_every_request_has_its_record_in_order_of_arrival() -> None:
    ended: list[Record] = []
    async with fake_gateway() as (_, address):
        records = await replay.replay(address, workload.burst(REQUESTS), ended.append)
    assert [record.request for record in records] == list(REQUESTS)
    assert sorted(map(id, ended)) == sorted(map(id, records))


async def test_an_answer_is_recorded_with_its_tokens_and_times() -> None:
    async with fake_gateway() as (_, address):
        (*_, record) = await replay.replay(address, workload.burst(REQUESTS))
    assert record.ok
    assert (record.text, record.token_ids) == ("a b c ", [0, 1, 2])
    assert (record.predicted_tokens, record.predicted_by_model) == (4, True)
    assert record.finish_reason == "FINISH_REASON_EOS"
    assert record.queued_s is not None
    assert record.started_s is not None
    assert record.end_s is not None
    times_s = [record.arrival_s, record.queued_s, record.started_s, *record.token_times_s]
    assert times_s == sorted(times_s)
    assert record.jct_s == record.end_s - record.arrival_s
    assert record.ttft_s == record.token_times_s[0] - record.arrival_s


async def test_a_failure_is_a_record_and_harms_no_other() -> None:
    async with fake_gateway() as (_, address):
        records = await replay.replay(address, workload.burst(REQUESTS))
    assert [record.outcome for record in records] == ["OK", "RESOURCE_EXHAUSTED", "OK"]
    assert records[1].error == "QUEUE_FULL queue: 3 requests wait"
    assert records[1].jct_s is None


async def test_requests_are_sent_as_the_workload_says() -> None:
    async with fake_gateway() as (fake, address):
        await replay.replay(address, workload.burst(REQUESTS))
    assert [request.request_id for request in fake.requests] == ["one", "two", "three"]
    assert [request.sampling.seed for request in fake.requests] == [5, 6, 7]
    assert {request.sampling.max_tokens for request in fake.requests} == {8}


async def test_no_request_is_sent_before_its_arrival() -> None:
    load = Workload(REQUESTS, (0.0, 0.05, 0.1))
    async with fake_gateway() as (_, address):
        records = await replay.replay(address, load)
    assert all(record.sent_s >= record.arrival_s for record in records)


def test_turns_make_a_chat_of_roles_that_the_contract_knows() -> None:
    turns = (("system", "be brief"), ("user", "hi"), ("assistant", "hello"), ("tool", "42"))
    message = replay.to_message(Request("a", "and now?", 8, 0.0, 1, turns=turns))
    assert [(each.role, each.content) for each in message.chat.messages] == [
        (prompt_pb2.CHAT_ROLE_SYSTEM, "be brief"),
        (prompt_pb2.CHAT_ROLE_USER, "hi"),
        (prompt_pb2.CHAT_ROLE_ASSISTANT, "hello"),
        (prompt_pb2.CHAT_ROLE_USER, "42"),
        (prompt_pb2.CHAT_ROLE_USER, "and now?"),
    ]


def test_a_forced_length_is_in_the_opaque_payload_and_nowhere_else() -> None:
    free, forced = (
        replay.to_message(Request("a", "say", 64, 0.0, 1, output_tokens=tokens), 50)
        for tokens in (None, 37)
    )
    payload = engine_pb2.BenchmarkPayload.FromString(forced.benchmark_payload)
    assert payload.forced_output_tokens == 37
    forced.ClearField("benchmark_payload")
    assert forced == free
    assert free.stream.delta_interval_ms == 50


async def test_replays_over_one_connection_each_have_a_start_of_their_own() -> None:
    async with fake_gateway() as (_, address), replay.connected(address) as client:
        first = client.begin(workload.burst(REQUESTS))
        await first.finished()
        second = client.begin(workload.burst(REQUESTS))
        await second.finished()
    assert second.start_s > first.start_s
    assert [record.outcome for record in second.records] == ["OK", "RESOURCE_EXHAUSTED", "OK"]
