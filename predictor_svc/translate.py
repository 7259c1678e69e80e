"""Requests to validated queries, predictions to messages.

Owns every rule that a request can break; all of them are listed at once. Knows the
stubs on one side and the plain types of `predictions` on the other. Called by `service`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from predictor_svc.encoder import PromptText, Turn
from predictor_svc.predictions import LengthPrediction, Query
from ssjf.predictor.v1 import predictor_pb2
from ssjf.wire.errors import InvalidRequest, Violation

MAX_PROMPT_BYTES = 1024 * 1024
MAX_TURNS = 1024
MAX_MODEL_BYTES = 256
_ROLES = {
    predictor_pb2.TURN_ROLE_SYSTEM: "system",
    predictor_pb2.TURN_ROLE_USER: "user",
    predictor_pb2.TURN_ROLE_ASSISTANT: "assistant",
}


def parse(request: predictor_pb2.PredictRequest, max_items: int) -> list[Query]:
    """The request's queries. Raises InvalidRequest with every violation."""
    if violations := list(_violations(request, max_items)):
        raise InvalidRequest(violations)
    return [_query(item) for item in request.items]


def response_message(
    predictions: Sequence[LengthPrediction], revision: str
) -> predictor_pb2.PredictResponse:
    """Predictions as the contract has them."""
    return predictor_pb2.PredictResponse(
        predictions=[_prediction(each) for each in predictions], revision=revision
    )


def _prediction(prediction: LengthPrediction) -> predictor_pb2.Prediction:
    message = predictor_pb2.Prediction(
        expected_tokens=prediction.expected_tokens, rank_score=prediction.rank_score
    )
    add = message.quantiles.add
    for probability, tokens in prediction.quantiles:
        add(probability=probability, tokens=tokens)
    if (found := prediction.length_class) is not None:
        message.length_class.index = found.index
        message.length_class.count = found.count
        if found.probability is not None:
            message.length_class.probability = found.probability
    return message


def _query(item: predictor_pb2.PredictItem) -> Query:
    turns = tuple([Turn(_ROLES[turn.role], turn.content) for turn in item.turns])
    max_tokens = item.max_tokens if item.HasField("max_tokens") else None
    return Query(PromptText(item.prompt, turns, item.model), max_tokens)


def _violations(request: predictor_pb2.PredictRequest, max_items: int) -> Iterator[Violation]:
    if not request.items:
        yield Violation("items", "at least one is needed")
    if len(request.items) > max_items:
        yield Violation("items", f"{len(request.items)} items; at most {max_items} a call")
        return
    for index, item in enumerate(request.items):
        yield from _item_violations(f"items[{index}]", item)


def _item_violations(path: str, item: predictor_pb2.PredictItem) -> Iterator[Violation]:
    if not item.prompt:
        yield Violation(f"{path}.prompt", "must not be empty")
    size = item.ByteSize()  # never less than its texts: most items need no closer look
    if size > MAX_PROMPT_BYTES:
        texts = (item.prompt, *(turn.content for turn in item.turns))
        size = sum(len(text.encode()) for text in texts)
    if size > MAX_PROMPT_BYTES:
        yield Violation(
            f"{path}.prompt", f"{size} bytes with its turns; at most {MAX_PROMPT_BYTES}"
        )
    if len(item.turns) > MAX_TURNS:
        yield Violation(f"{path}.turns", f"{len(item.turns)} turns; at most {MAX_TURNS}")
    for number, turn in enumerate(item.turns[:MAX_TURNS]):
        if turn.role not in _ROLES:
            yield Violation(
                f"{path}.turns[{number}].role", "must be one of system, user, assistant"
            )
    if len(item.model.encode()) > MAX_MODEL_BYTES:
        yield Violation(f"{path}.model", f"at most {MAX_MODEL_BYTES} bytes")
    if item.HasField("max_tokens") and item.max_tokens == 0:
        yield Violation(f"{path}.max_tokens", "at least 1")
