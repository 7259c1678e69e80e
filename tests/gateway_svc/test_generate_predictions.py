"""Predictions that are late, wrong or missing: no request fails for them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ssjf.gateway.v1 import gateway_pb2
from ssjf.wire import errors
from tests.gateway_svc.conftest import Rig, Start, ends, until
from tests.gateway_svc.fakes import FakeEngine, FakePredictor
from tests.gateway_svc.nonsense import serving_nonsense

PRIOR = 77.0
NOWHERE = "127.0.0.1:1"  # a privileged port on which nothing listens


async def answer_under_the_prior(rig: Rig) -> gateway_pb2.Queued:
    """A request that must be queued under the prior and be answered all the same."""
    answer = await rig.generate("count to 3").end()
    assert answer.token_ids == [0, 1, 2]
    queued = answer.events[0].queued
    assert queued.prediction_source == gateway_pb2.PREDICTION_SOURCE_PRIOR
    assert queued.predicted_tokens == PRIOR
    assert answer.finished.length_prediction.source == gateway_pb2.PREDICTION_SOURCE_PRIOR
    return queued


async def test_a_late_prediction_moves_the_waiting_request(start: Start) -> None:
    engine, predictor = FakeEngine(places=1, by_hand=True), FakePredictor()
    rig = await start(engine, predictor=predictor, prediction_budget_ms=5, prior_tokens=PRIOR)
    predictor.works.clear()
    first = await rig.queued("count to 1", request_id="first")
    await first.has("started")
    answers = [await rig.queued(f"count to {n}", request_id=f"r{n}") for n in (60, 20)]
    assert {answer.events[0].queued.prediction_source for answer in answers} == {
        gateway_pb2.PREDICTION_SOURCE_PRIOR
    }
    assert [entry.request_id for entry in (await rig.queue()).waiting] == ["r60", "r20"]
    assert (await rig.info()).predictor.degraded
    predictor.works.set()
    await until(lambda: rig.dispatcher.ledger.repriced == 2)
    shown = (await rig.queue()).waiting
    assert [(entry.request_id, entry.predicted_tokens) for entry in shown] == [
        ("r20", 20.0),
        ("r60", 60.0),
    ]
    assert shown[0].prediction_source == gateway_pb2.PREDICTION_SOURCE_MODEL
    engine.by_hand = False
    await ends([first, *answers])
    assert engine.started == ["first", "r20", "r60"]
    prediction = answers[0].finished.length_prediction
    assert prediction == gateway_pb2.LengthPrediction(
        predicted_tokens=60.0, actual_tokens=60, source=gateway_pb2.PREDICTION_SOURCE_MODEL
    )
    assert rig.counts() == {"accepted": 3, "finished": 3, "predictions_late": 3, "repriced": 2}


async def test_a_late_prediction_of_a_running_request_is_told_at_its_end(start: Start) -> None:
    engine, predictor = FakeEngine(by_hand=True), FakePredictor()
    rig = await start(engine, predictor=predictor, prediction_budget_ms=5, prior_tokens=PRIOR)
    predictor.works.clear()
    answer = await rig.queued("count to 3")
    await answer.has("started")
    predictor.works.set()
    live = rig.dispatcher.live(engine.only)
    await until(lambda: live.from_model)
    engine.by_hand = False
    await answer.end()
    assert answer.finished.length_prediction == gateway_pb2.LengthPrediction(
        predicted_tokens=3.0, actual_tokens=3, source=gateway_pb2.PREDICTION_SOURCE_MODEL
    )
    assert rig.counts() == {"accepted": 1, "finished": 1, "predictions_late": 1}


async def test_a_late_prediction_that_fails_leaves_the_prior_and_is_counted(start: Start) -> None:
    engine, predictor = FakeEngine(by_hand=True), FakePredictor()
    rig = await start(engine, predictor=predictor, prediction_budget_ms=5, prior_tokens=PRIOR)
    predictor.works.clear()
    predictor.error = errors.Internal("broken")
    answer = await rig.queued("count to 3")
    predictor.works.set()
    await until(lambda: rig.dispatcher.ledger.predictions_failed)
    engine.by_hand = False
    await answer.end()
    assert rig.counts() == {
        "accepted": 1,
        "finished": 1,
        "predictions_late": 1,
        "predictions_failed": 1,
    }


async def test_a_prediction_that_never_comes_is_given_up(start: Start) -> None:
    engine, predictor = FakeEngine(by_hand=True), FakePredictor()
    rig = await start(engine, predictor=predictor, prediction_budget_ms=5, prediction_timeout_s=0.1)
    predictor.works.clear()
    answer = await rig.queued("count to 3")
    await until(lambda: rig.dispatcher.ledger.predictions_failed)
    await until(lambda: predictor.open == 0)
    engine.by_hand = False
    await answer.end()
    assert rig.counts()["finished"] == 1


async def test_a_request_that_ends_takes_its_question_with_it(start: Start) -> None:
    predictor = FakePredictor()
    rig = await start(FakeEngine(), predictor=predictor, prediction_budget_ms=5)
    predictor.works.clear()
    await rig.generate("count to 3").end()
    assert len(predictor.asked) == 1
    await until(lambda: predictor.open == 0)
    assert rig.counts() == {"accepted": 1, "finished": 1, "predictions_late": 1}


@pytest.mark.parametrize(
    "predict",
    [
        lambda _: math.nan,
        lambda _: math.inf,
        lambda _: -math.inf,
        lambda _: 1e9,
        lambda _: 0.0,
        lambda _: -3.0,
    ],
    ids=["nan", "inf", "-inf", "1e9", "zero", "negative"],
)
async def test_a_prediction_that_makes_no_sense_is_counted_and_the_prior_stands(
    start: Start, predict: Any
) -> None:
    rig = await start(FakeEngine(), predictor=FakePredictor(predict=predict), prior_tokens=PRIOR)
    await answer_under_the_prior(rig)
    assert (await rig.info()).predictor.degraded
    assert rig.counts() == {"accepted": 1, "finished": 1, "predictions_failed": 1}


@pytest.mark.parametrize("count", [0, 2])
async def test_a_wrong_number_of_predictions_is_a_failure(start: Start, count: int) -> None:
    rig = await start(FakeEngine(), predictor=FakePredictor(answers=count), prior_tokens=PRIOR)
    await answer_under_the_prior(rig)
    assert rig.counts() == {"accepted": 1, "finished": 1, "predictions_failed": 1}


async def test_a_predictor_that_refuses_is_a_failure(start: Start) -> None:
    predictor = FakePredictor(error=errors.Overloaded("batch", "full", 1.0))
    rig = await start(FakeEngine(), predictor=predictor, prior_tokens=PRIOR)
    await answer_under_the_prior(rig)
    assert rig.counts() == {"accepted": 1, "finished": 1, "predictions_failed": 1}


async def test_a_predictor_that_answers_nonsense_is_a_failure(start: Start) -> None:
    async with serving_nonsense("/ssjf.predictor.v1.PredictorService/Predict") as address:
        rig = await start(FakeEngine(), predictor=address, prior_tokens=PRIOR)
        await answer_under_the_prior(rig)
        assert rig.counts() == {"accepted": 1, "finished": 1, "predictions_failed": 1}


async def test_a_predictor_that_is_not_there_is_a_failure(start: Start) -> None:
    rig = await start(FakeEngine(), predictor=NOWHERE, prior_tokens=PRIOR)
    await answer_under_the_prior(rig)
    assert (await rig.info()).predictor.degraded
    assert rig.counts() == {"accepted": 1, "finished": 1, "predictions_failed": 1}


async def test_without_a_predictor_the_prior_stands_and_nothing_is_counted(start: Start) -> None:
    rig = await start(FakeEngine(), prior_tokens=PRIOR)
    await answer_under_the_prior(rig)
    assert (await rig.info()).predictor == gateway_pb2.PredictorStatus(degraded=True)
    assert rig.counts() == {"accepted": 1, "finished": 1}


async def test_a_predictor_that_answers_again_is_no_longer_degraded(start: Start) -> None:
    predictor = FakePredictor(error=errors.Internal("broken"))
    rig = await start(FakeEngine(), predictor=predictor)
    await rig.generate("count to 1").end()
    assert (await rig.info()).predictor.degraded
    predictor.error = None
    await rig.generate("count to 1").end()
    assert not (await rig.info()).predictor.degraded


async def test_the_prior_learns_from_what_came_true(start: Start) -> None:
    rig = await start(FakeEngine(), prior_tokens=100.0)
    first = await rig.generate("count to 10").end()
    second = await rig.generate("count to 10").end()
    foretold = [answer.events[0].queued.predicted_tokens for answer in (first, second)]
    assert foretold == [100.0, 90.0]
