"""All three services on CUDA."""

from __future__ import annotations

import pytest

from ssjf.predictor.v1 import predictor_pb2, predictor_pb2_grpc
from ssjf.wire import channel
from ssjf_cli.stack import Stack, StackOptions
from tests.conftest import StartStack
from tests.stack.generation import connected, request

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpu_stack(start_stack: StartStack) -> Stack:
    return start_stack(
        StackOptions(
            engine={"device": "cuda"}, predictor={"provider": "cuda"}, gateway={"policy": "ssjf"}
        )
    )


async def test_the_predictors_session_uses_the_cuda_provider(gpu_stack: Stack) -> None:
    async with channel.connect(gpu_stack.predictor_address) as connection:
        stub = predictor_pb2_grpc.PredictorServiceStub(connection)
        info = await stub.GetPredictorInfo(predictor_pb2.GetPredictorInfoRequest())
    assert info.execution_provider == "CUDAExecutionProvider"


async def test_the_engine_runs_on_cuda(gpu_stack: Stack) -> None:
    async with connected(gpu_stack.gateway_address) as client:
        (engine,) = (await client.info()).engines
    assert engine.model.device.startswith("cuda")


async def test_requests_are_answered_together(gpu_stack: Stack) -> None:
    messages = [request(f"Describe the number {n}.", max_tokens=32) for n in range(32)]
    async with connected(gpu_stack.gateway_address) as client:
        answers = await client.generate_all(messages)
        assert {answer.kinds[-1] for answer in answers} == {"finished"}
        await client.until_idle()


async def test_a_greedy_answer_repeats(gpu_stack: Stack) -> None:
    async with connected(gpu_stack.gateway_address) as client:
        first = await client.generate(request("Count from one to five.", max_tokens=16))
        again = await client.generate(request("Count from one to five.", max_tokens=16))
    assert first.text.strip()
    assert again.token_ids == first.token_ids
