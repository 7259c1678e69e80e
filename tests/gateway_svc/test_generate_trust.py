"""When predictions are asked for, and when they are believed."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from gateway_svc.scheduling import policy
from ssjf.gateway.v1 import gateway_pb2
from tests.gateway_svc.conftest import Rig, Start, ends, until
from tests.gateway_svc.fakes import FakeEngine, FakePredictor, backwards, foretell


def series(name: str) -> float | None:
    return REGISTRY.get_sample_value(name)


async def finish(rig: Rig, count: int) -> None:
    """So many requests, of different lengths."""
    await ends([rig.generate(f"count to {1 + n % 40}") for n in range(count)])


# Asked for only where it matters ----------------------------------------------


async def test_a_request_that_starts_at_once_does_not_wait_for_its_prediction(
    start: Start,
) -> None:
    predictor = FakePredictor()
    rig = await start(FakeEngine(), predictor=predictor, skip_idle_predictions=True)
    predictor.works.clear()
    answer = await rig.generate("count to 3").end()
    queued = answer.events[0].queued
    assert queued.prediction_source == gateway_pb2.PREDICTION_SOURCE_PRIOR
    assert not (await rig.info()).predictor.degraded
    assert rig.counts() == {"accepted": 1, "finished": 1, "predictions_skipped": 1}


async def test_a_skipped_prediction_is_still_compared_with_what_came_true(start: Start) -> None:
    engine, predictor = FakeEngine(by_hand=True), FakePredictor()
    rig = await start(engine, predictor=predictor, skip_idle_predictions=True)
    predictor.works.clear()
    answer = await rig.queued("count to 3")
    predictor.works.set()
    await until(lambda: rig.dispatcher.live(engine.only).from_model)
    engine.by_hand = False
    prediction = (await answer.end()).finished.length_prediction
    assert prediction.source == gateway_pb2.PREDICTION_SOURCE_MODEL
    assert (await rig.info()).predictor.quality.count == 1


async def test_a_request_that_has_to_wait_is_predicted(start: Start) -> None:
    engine, predictor = FakeEngine(places=1, by_hand=True), FakePredictor()
    rig = await start(engine, predictor=predictor, skip_idle_predictions=True)
    first = await rig.queued("count to 3")
    second = await rig.queued("count to 7")
    assert second.events[0].queued.predicted_tokens == 7.0
    assert second.events[0].queued.prediction_source == gateway_pb2.PREDICTION_SOURCE_MODEL
    engine.by_hand = False
    await ends([first, second])


async def test_requests_that_come_at_once_do_not_all_count_on_the_same_place(
    start: Start,
) -> None:
    engine, predictor = FakeEngine(places=1, by_hand=True), FakePredictor()
    rig = await start(engine, predictor=predictor, skip_idle_predictions=True)
    engine.tokenizer_works.clear()
    answers = [rig.generate(f"count to {n}", request_id=f"r{n}") for n in (9, 5, 2)]
    await until(lambda: engine.tokenizing == 3)
    engine.tokenizer_works.set()
    for answer in answers:
        await answer.has("queued")
    assert rig.counts().get("predictions_skipped", 0) <= 1
    engine.by_hand = False
    await ends(answers)


# Believed as long as they are right -------------------------------------------


async def test_predictions_are_compared_with_what_came_true(start: Start) -> None:
    predictor = FakePredictor(p90=lambda tokens: 2 * tokens)
    rig = await start(FakeEngine(places=8), predictor=predictor)
    await finish(rig, 60)
    quality = (await rig.info()).predictor.quality
    assert (quality.count, quality.tau_b) == (60, 1.0)
    assert (quality.predicted_to_actual, quality.p90_coverage) == (1.0, 1.0)
    assert series("ssjf_gateway_prediction_tau_b") == 1.0
    assert series("ssjf_gateway_prediction_p90_coverage") == 1.0
    assert (await rig.queue()).predictions == quality


async def test_answers_that_were_cut_off_do_not_count(start: Start) -> None:
    rig = await start(FakeEngine(cuts_off=True), predictor=FakePredictor())
    await finish(rig, 3)
    assert (await rig.info()).predictor.quality.count == 0


async def test_predictions_that_order_badly_lose_the_order_to_known_quantities(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    engine, predictor = FakeEngine(places=8), FakePredictor(predict=backwards)
    rig = await start(
        engine, predictor=predictor, policy="default", fallback_tau_b=0.2, quality_window=40
    )
    scheduling = (await rig.info()).scheduling
    assert (scheduling.active_policy, scheduling.fallback) == (scheduling.policy, False)
    assert scheduling.policy == policy.DEFAULT
    await finish(rig, 60)
    scheduling = (await rig.info()).scheduling
    assert (scheduling.policy, scheduling.active_policy) == (policy.DEFAULT, "hrrn")
    assert scheduling.fallback
    assert series("ssjf_gateway_policy_fallback") == 1.0
    logged = capfd.readouterr()
    assert "predictions order too badly" in logged.out + logged.err
    predictor.predict = foretell
    await finish(rig, 60)
    scheduling = (await rig.info()).scheduling
    assert (scheduling.active_policy, scheduling.fallback) == (policy.DEFAULT, False)
    assert series("ssjf_gateway_policy_fallback") == 0.0


async def test_what_waits_is_ordered_anew_when_predictions_lose_the_order(start: Start) -> None:
    engine, predictor = FakeEngine(places=1, by_hand=True), FakePredictor(predict=backwards)
    rig = await start(engine, predictor=predictor, fallback_tau_b=0.2)
    first = await rig.queued("count to 1", request_id="first")
    waiting = [
        await rig.queued(f"{words}count to {n}", request_id=f"r{n}")
        for words, n in (("", 20), ("many words to read before we ", 30))
    ]
    assert [e.request_id for e in (await rig.queue()).waiting] == ["r30", "r20"]
    ordering = rig.gateway.parts.experience.ordering
    ordering.trust.lost = True
    ordering.policy.switch(to_fallback=True, now_s=0.0)
    rig.dispatcher.check()
    assert [e.request_id for e in (await rig.queue()).waiting] == ["r20", "r30"]
    engine.by_hand = False
    await ends([first, *waiting])
    assert engine.started == ["first", "r20", "r30"]


async def test_a_policy_without_predictions_has_nothing_to_fall_back_from(start: Start) -> None:
    predictor = FakePredictor(predict=backwards)
    rig = await start(FakeEngine(places=8), predictor=predictor, policy="fcfs")
    await finish(rig, 60)
    scheduling = (await rig.info()).scheduling
    assert (scheduling.active_policy, scheduling.fallback) == ("fcfs", False)
    assert (await rig.info()).predictor.quality.tau_b == -1.0


async def test_a_batch_that_runs_as_a_whole_is_made_of_predicted_requests(start: Start) -> None:
    engine, predictor = FakeEngine(places=2), FakePredictor()
    rig = await start(
        engine,
        predictor=predictor,
        skip_idle_predictions=True,
        batching="dynamic",
        max_batch_wait_ms=5,
    )
    answer = await rig.generate("count to 3").end()
    assert answer.events[0].queued.prediction_source == gateway_pb2.PREDICTION_SOURCE_MODEL
