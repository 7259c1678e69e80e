"""The good path of Generate, over real gRPC."""

from __future__ import annotations

import re

import pytest

from ssjf.engine.v1 import prompt_pb2, sampling_pb2
from ssjf.gateway.v1 import gateway_pb2
from tests.gateway_svc.conftest import Start, ends, until
from tests.gateway_svc.fakes import FakeEngine, FakePredictor, tokens_of


async def test_a_stream_is_queued_started_deltas_finished(start: Start) -> None:
    rig = await start(FakeEngine(), predictor=FakePredictor())
    answer = await rig.generate("count to 5").end()
    assert re.fullmatch(r"queued started (delta )*finished", " ".join(answer.kinds))
    assert answer.token_ids == [0, 1, 2, 3, 4]
    assert answer.text == "0 1 2 3 4 "
    assert [delta.first_index for delta in answer.deltas] == [
        sum(len(delta.token_ids) for delta in answer.deltas[:index])
        for index in range(len(answer.deltas))
    ]
    assert rig.counts() == {"accepted": 1, "finished": 1}


async def test_queued_tells_what_the_request_is_queued_under(start: Start) -> None:
    rig = await start(FakeEngine(), predictor=FakePredictor())
    queued = await rig.generate("count to 5", request_id="mine").has("queued")
    assert queued == gateway_pb2.Queued(
        request_id="mine",
        prompt_tokens=3,
        predicted_tokens=5.0,
        prediction_source=gateway_pb2.PREDICTION_SOURCE_MODEL,
        queue_length=1,
        priority=gateway_pb2.PRIORITY_CLASS_STANDARD,
    )


async def test_started_names_the_engine(start: Start) -> None:
    rig = await start(FakeEngine(name="engine-7"))
    started = await rig.generate("count to 5").has("started")
    assert started.engine_id == "engine-7"
    assert started.queue_wait_ms >= 0


async def test_finished_tells_what_came_true(start: Start) -> None:
    rig = await start(FakeEngine(), predictor=FakePredictor(predict=lambda _: 30.0))
    finished = (await rig.generate("count to 5").end()).finished
    assert finished.reason == sampling_pb2.FINISH_REASON_EOS
    assert finished.stop_token_id == 2
    assert not finished.HasField("stop_string")
    assert finished.usage == gateway_pb2.Usage(prompt_tokens=3, output_tokens=5)
    assert finished.length_prediction == gateway_pb2.LengthPrediction(
        predicted_tokens=30.0, actual_tokens=5, source=gateway_pb2.PREDICTION_SOURCE_MODEL
    )
    timings = finished.timings
    assert (timings.prefill_ms, timings.decode_ms) == (3.0, 4.0)
    assert 0 <= timings.queue_wait_ms <= timings.ttft_ms <= timings.total_ms


async def test_an_answer_without_a_token_finishes(start: Start) -> None:
    rig = await start(FakeEngine())
    answer = await rig.generate("count to 0").end()
    assert answer.kinds == ["queued", "started", "finished"]
    assert answer.finished.timings.ttft_ms == 0


async def test_a_request_without_an_id_is_given_one(start: Start) -> None:
    rig = await start(FakeEngine())
    drawn = {(await rig.generate("count to 1").has("queued")).request_id for _ in range(3)}
    assert len(drawn) == 3


async def test_the_engine_is_sent_the_tokens_and_every_default_filled(start: Start) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine, default_max_tokens=64)
    answer = await rig.queued("count to 5", temperature=0.0, seed=9, request_id="mine")
    await until(lambda: engine.running)
    sequence = engine.running[engine.only].sequence
    assert sequence.request_id == "mine"
    assert list(sequence.prompt_token_ids) == [9999, 9999, 5]
    filled = {
        field.name: value
        for field, value in sequence.sampling.ListFields()
        if field.name not in ("top_p", "temperature")
    }
    assert sequence.sampling.HasField("temperature")
    assert sequence.sampling.temperature == 0.0
    assert (filled["max_tokens"], filled["seed"], filled["repetition_penalty"]) == (64, 9, 1.0)
    answer.call.cancel()


async def test_a_conversation_is_tokenised_and_its_turns_are_predicted_from(
    start: Start,
) -> None:
    engine, predictor = FakeEngine(by_hand=True), FakePredictor()
    rig = await start(engine, predictor=predictor)
    chat = prompt_pb2.Chat(
        messages=[
            prompt_pb2.ChatMessage(role=prompt_pb2.CHAT_ROLE_SYSTEM, content="be brief"),
            prompt_pb2.ChatMessage(role=prompt_pb2.CHAT_ROLE_USER, content="count to 3"),
        ]
    )
    answer = rig.generate(chat=chat)
    await until(lambda: engine.running)
    assert list(engine.running[engine.only].sequence.prompt_token_ids) == tokens_of("a b c d 3")
    (item,) = predictor.asked
    assert (item.prompt, item.model, item.max_tokens) == ("count to 3", "tiny", 1024)
    assert [turn.content for turn in item.turns] == ["be brief"]
    answer.call.cancel()


async def test_token_ids_are_taken_as_they_are_and_queued_under_the_prior(start: Start) -> None:
    engine, predictor = FakeEngine(), FakePredictor()
    rig = await start(engine, predictor=predictor, prior_tokens=33.0)
    answer = await rig.generate(token_ids=prompt_pb2.TokenIds(ids=[4, 3])).end()
    assert answer.token_ids == [0, 1, 2]
    queued = answer.events[0].queued
    assert queued.predicted_tokens == 33.0
    assert queued.prediction_source == gateway_pb2.PREDICTION_SOURCE_PRIOR
    assert predictor.asked == []


async def test_shorter_predicted_requests_overtake_in_the_queue(start: Start) -> None:
    engine = FakeEngine(places=1)
    rig = await start(engine, predictor=FakePredictor())
    engine.by_hand = True
    first = await rig.queued("count to 2", request_id="first")
    await first.has("started")
    waiting = [
        await rig.queued(f"count to {tokens}", request_id=f"r{tokens}") for tokens in (30, 10, 20)
    ]
    assert [answer.events[0].queued.queue_length for answer in waiting] == [1, 2, 3]
    shown = await rig.queue()
    assert [entry.request_id for entry in shown.waiting] == ["r10", "r20", "r30"]
    assert [entry.request_id for entry in shown.running] == ["first"]
    assert (shown.waiting_count, shown.running_count) == (3, 1)
    engine.by_hand = False
    await ends([first, *waiting])
    assert engine.started == ["first", "r10", "r20", "r30"]
    assert rig.counts() == {"accepted": 4, "finished": 4}


async def test_under_fcfs_nobody_overtakes(start: Start) -> None:
    engine = FakeEngine(places=1)
    rig = await start(engine, predictor=FakePredictor(), policy="fcfs")
    engine.by_hand = True
    answers = [await rig.queued(f"count to {n}", request_id=f"r{n}") for n in (9, 30, 10)]
    engine.by_hand = False
    await ends(answers)
    assert engine.started == ["r9", "r30", "r10"]


async def test_an_urgent_request_goes_before_shorter_ones(start: Start) -> None:
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine, predictor=FakePredictor())
    answers = [await rig.queued("count to 1", request_id="first")]
    await answers[0].has("started")
    answers += [
        await rig.queued("count to 2", request_id="short"),
        await rig.queued(
            "count to 90", request_id="urgent", priority=gateway_pb2.PRIORITY_CLASS_URGENT
        ),
    ]
    shown = await rig.queue()
    assert [entry.priority for entry in shown.waiting] == [
        gateway_pb2.PRIORITY_CLASS_URGENT,
        gateway_pb2.PRIORITY_CLASS_STANDARD,
    ]
    engine.by_hand = False
    await ends(answers)
    assert engine.started == ["first", "urgent", "short"]


async def test_get_queue_shows_at_most_what_was_asked_for_and_counts_all(start: Start) -> None:
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine)
    answers = [await rig.queued("count to 3") for _ in range(4)]
    engine.step()
    await answers[0].has("delta")
    shown = await rig.queue(max_entries=2)
    assert (len(shown.waiting), shown.waiting_count) == (2, 3)
    assert (shown.running[0].engine_id, shown.running[0].output_tokens) == ("fake", 1)
    assert len((await rig.queue(max_entries=0)).waiting) == 0
    engine.by_hand = False
    await ends(answers)


async def test_two_engines_share_the_queue(start: Start) -> None:
    engines = [FakeEngine(name="a", places=1), FakeEngine(name="b", places=1)]
    rig = await start(*engines, predictor=FakePredictor())
    for engine in engines:
        engine.by_hand = True
    answers = [await rig.queued(f"count to {n}", request_id=f"r{n}") for n in (8, 7, 30, 20)]
    await until(lambda: all(engine.running for engine in engines))
    for engine in engines:
        engine.by_hand = False
    await ends(answers)
    started = [engine.started for engine in engines]
    assert {each[0] for each in started} == {"r8", "r7"}
    assert sorted(engines[0].started + engines[1].started) == ["r20", "r30", "r7", "r8"]
    assert {answer.events[1].started.engine_id for answer in answers} == {"a", "b"}


async def test_what_a_slow_client_missed_comes_as_one_delta(start: Start) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine)
    answer = await rig.queued("count to 50")
    await until(lambda: engine.running)
    live = rig.dispatcher.live(engine.only)
    for index in range(50):  # without a turn of the loop in between: the handler cannot run
        rig.dispatcher.step(
            rig.gateway.fleet.links[0], engine.output([(engine.only, index, index)])
        )
    assert live.output_tokens == 50
    engine.finish(engine.only)
    engine.report()
    await answer.end()
    assert answer.kinds == ["queued", "started", "delta", "finished"]
    assert answer.token_ids == list(range(50))


async def test_no_more_is_sent_than_the_kv_cache_holds(start: Start) -> None:
    engine = FakeEngine(by_hand=True, kv_tokens=250)
    rig = await start(engine)
    answers = [await rig.queued("count to 9", max_tokens=97) for _ in range(3)]
    await until(lambda: len(engine.running) == 2)
    shown = await rig.queue()
    assert (shown.running_count, shown.waiting_count) == (2, 1)
    engine.by_hand = False
    await ends(answers)
    assert rig.counts() == {"accepted": 3, "finished": 3}


async def test_server_info_tells_what_is_served_and_how(start: Start) -> None:
    rig = await start(FakeEngine(), predictor=FakePredictor(), max_queued=9)
    await rig.generate("count to 1").end()
    info = await rig.info()
    assert (info.model, info.policy, info.benchmark) == ("tiny", gateway_pb2.POLICY_SSJF, False)
    assert [engine.engine_id for engine in info.engines] == ["fake"]
    assert info.engines[0].capacity.free_sequences == 4
    assert (info.predictor.degraded, info.predictor.revision) == (False, "r1")
    assert info.limits.max_queued_requests == 9
    assert info.limits.max_context_tokens == 2_000


@pytest.mark.parametrize("benchmark", [False, True])
async def test_the_benchmark_payload_is_copied_unread_in_benchmarks_only(
    start: Start, benchmark: bool
) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine, benchmark=benchmark)
    answer = rig.generate("count to 1", benchmark_payload=b"\x08\x07")
    if not benchmark:
        assert [v.field for v in (await answer.failure()).violations] == ["benchmark_payload"]
        return
    await until(lambda: engine.running)
    assert engine.running[engine.only].sequence.benchmark_payload == b"\x08\x07"
    engine.by_hand = False
    await answer.end()


async def test_the_oracle_goes_by_the_lengths_of_its_file(
    start: Start, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lengths = tmp_path_factory.mktemp("oracle") / "lengths.json"
    lengths.write_text('{"a": 90, "b": 3, "c": 40}')
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine, policy="oracle", benchmark=True, oracle_lengths=lengths)
    answers = [await rig.queued("count to 1", request_id=name) for name in ("first", *"abc")]
    engine.by_hand = False
    await ends(answers)
    assert engine.started == ["first", "b", "c", "a"]
