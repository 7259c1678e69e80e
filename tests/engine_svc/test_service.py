"""The Serve stream's grammar and the unary calls, over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
import pytest

from engine_svc import stream as stream_module
from engine_svc.tokenizer import Tokenizer
from ssjf.engine.v1 import engine_pb2, prompt_pb2, sampling_pb2
from ssjf.wire.errors import decode
from ssjf.wire.schema import SCHEMA_REVISION

from .conftest import Serving
from .gateway_side import Gateway, hello, sequence

Serve = Callable[..., Awaitable[Serving]]


async def refusal(gateway: Gateway) -> Any:
    """What the engine ends the stream with."""
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await gateway.until_the_end()
    return decode(ended.value)


async def test_a_sequence_gets_tokens_without_gap_then_finished_then_capacity(
    serve: Serve,
) -> None:
    async with (await serve()).connect() as gateway:
        await gateway.send_batch(1, [sequence(1, max_tokens=5, ignore_eos=True)])
        finished = await gateway.until_finished()
        await gateway.until_idle()
        assert len(gateway.tokens(1)) == 5
        assert (finished.reason, finished.output_tokens, finished.prompt_tokens) == (
            sampling_pb2.FINISH_REASON_LENGTH,
            5,
            3,
        )
        kinds = gateway.kinds()
        assert kinds[:3] == ["welcome", "capacity", "step"]
        assert kinds[-2:] == ["step", "capacity"]


async def test_welcome_says_what_is_served(serve: Serve) -> None:
    async with (await serve(max_sequences=3, kv_tokens=640)).connect() as gateway:
        welcome = gateway.welcome
        assert (welcome.epoch, welcome.schema_revision) == (1, SCHEMA_REVISION)
        assert welcome.engine_id
        assert not welcome.benchmark
        assert set(welcome.batching_modes) == {1, 2, 3}
        assert welcome.limits == engine_pb2.EngineLimits(
            max_sequences=3, max_context_tokens=512, kv_tokens=640, kv_block_tokens=16
        )
        model = welcome.model
        assert (model.architecture, model.vocabulary_size) == ("llama", 49_152)
        assert (model.dtype, model.device) == ("float32", "cpu")
        assert list(model.eos_token_ids) == [2]
        assert model.has_chat_template
        assert gateway.capacity == engine_pb2.Capacity(free_sequences=3, free_kv_tokens=640)


async def test_cancelling_gives_everything_back_and_the_rest_goes_on(serve: Serve) -> None:
    async with (await serve()).connect() as gateway:
        endless = sequence(1, max_tokens=500, ignore_eos=True)
        await gateway.send_batch(1, [endless, sequence(2, max_tokens=40, ignore_eos=True)])
        await gateway.until("step")
        await gateway.send(cancel=engine_pb2.Cancel(sequence_ids=[1, 99]))
        await gateway.until_idle()
        assert len(gateway.tokens(1)) < 500
        assert len(gateway.tokens(2)) == 40
        assert gateway.capacity.free_kv_tokens == gateway.welcome.limits.kv_tokens


async def test_a_refused_sequence_gets_an_error_and_the_others_their_tokens(serve: Serve) -> None:
    async with (await serve()).connect() as gateway:
        await gateway.send_batch(1, [sequence(1, [60_000]), sequence(2)])
        error = await gateway.until_failed()
        assert error.sequence_id == 1
        assert error.code == engine_pb2.SEQUENCE_ERROR_CODE_INVALID
        await gateway.until_finished()
        assert gateway.tokens(2)


async def test_text_is_what_the_tokens_say(serve: Serve, tokenizer: Tokenizer) -> None:
    async with (await serve()).connect() as gateway:
        await gateway.send_batch(1, [sequence(1, max_tokens=40, ignore_eos=True)])
        await gateway.until_idle()
        assert gateway.text(1) == tokenizer.decode(gateway.tokens(1))


async def test_a_stop_string_ends_the_answer_at_once_and_frees_its_place(serve: Serve) -> None:
    async with (await serve()).connect() as gateway:
        await gateway.send_batch(1, [sequence(1, max_tokens=40, ignore_eos=True)])
        await gateway.until_idle()
        whole = gateway.text(1)
        stop = whole[10:13]
        again = sequence(2, max_tokens=500, ignore_eos=True, stop=[stop])
        await gateway.send_batch(2, [again, sequence(3, max_tokens=80, ignore_eos=True)])
        finished = await gateway.until_finished()
        assert (finished.sequence_id, finished.stop_string) == (2, stop)
        assert finished.reason == sampling_pb2.FINISH_REASON_STOP
        assert gateway.text(2) == whole[: whole.index(stop)]
        assert finished.output_tokens == len(gateway.tokens(2))
        await gateway.until_idle()
        assert finished.output_tokens == len(gateway.tokens(2))
        assert len(gateway.tokens(3)) == 80
        assert gateway.capacity.free_kv_tokens == gateway.welcome.limits.kv_tokens


async def test_a_forced_length_is_met_with_benchmark(serve: Serve) -> None:
    payload = engine_pb2.BenchmarkPayload(forced_output_tokens=33).SerializeToString()
    async with (await serve(benchmark=True)).connect() as gateway:
        assert gateway.welcome.benchmark
        await gateway.send_batch(1, [sequence(1, payload=payload, max_tokens=100)])
        assert (await gateway.until_finished()).output_tokens == 33


async def test_a_forced_length_is_refused_without_benchmark(serve: Serve) -> None:
    payload = engine_pb2.BenchmarkPayload(forced_output_tokens=33).SerializeToString()
    async with (await serve()).connect() as gateway:
        await gateway.send_batch(1, [sequence(1, payload=payload, max_tokens=100)])
        error = await gateway.until_failed()
        assert "benchmark" in error.message


async def test_drain_finishes_what_runs_says_drained_and_ends_the_stream(serve: Serve) -> None:
    async with (await serve()).connect() as gateway:
        await gateway.send_batch(1, [sequence(1, max_tokens=30, ignore_eos=True)])
        await gateway.until("step")
        await gateway.send(drain=engine_pb2.Drain())
        await gateway.until("drained")
        assert len(gateway.tokens(1)) == 30
        assert gateway.capacity.free_sequences == 0
        with pytest.raises(EOFError):
            await gateway.read()


async def test_a_batch_after_drain_breaks_the_grammar(serve: Serve) -> None:
    async with (await serve()).connect() as gateway:
        await gateway.send_batch(1, [sequence(1, max_tokens=400, ignore_eos=True)])
        await gateway.send(drain=engine_pb2.Drain())
        await gateway.send_batch(2, [sequence(2)])
        found = await refusal(gateway)
        assert (found.code, found.violations[0].field) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "batch",
        )


@pytest.mark.parametrize(
    "first",
    [{"heartbeat": engine_pb2.Heartbeat()}, {"batch": engine_pb2.ScheduledBatch()}, {}],
    ids=["heartbeat", "batch", "nothing"],
)
async def test_anything_before_hello_breaks_the_grammar(
    serve: Serve, first: dict[str, Any]
) -> None:
    gateway = (await serve()).connect()
    gateway.open()
    await gateway.send(**first)
    assert (await refusal(gateway)).code is grpc.StatusCode.INVALID_ARGUMENT
    await gateway.close()


async def test_a_stream_that_ends_before_hello_is_refused(serve: Serve) -> None:
    gateway = (await serve()).connect()
    gateway.open()
    await gateway.call.done_writing()
    assert (await refusal(gateway)).code is grpc.StatusCode.INVALID_ARGUMENT
    await gateway.close()


@pytest.mark.parametrize(
    "message",
    [
        {"hello": hello()},
        {},
        {"batch": engine_pb2.ScheduledBatch(batch_id=0)},
        {
            "batch": engine_pb2.ScheduledBatch(
                batch_id=1, sequences=[sequence(1, max_tokens=400), sequence(1)]
            )
        },
    ],
    ids=["second hello", "nothing", "batch id does not rise", "sequence id twice"],
)
async def test_what_breaks_the_grammar_later_ends_the_stream(
    serve: Serve, message: dict[str, Any]
) -> None:
    serving = await serve()
    async with serving.connect() as gateway:
        await gateway.send(**message)
        assert (await refusal(gateway)).code is grpc.StatusCode.INVALID_ARGUMENT
    async with serving.connect() as gateway:
        assert gateway.capacity.running_sequences == 0


async def test_a_sequence_id_that_still_runs_is_refused(serve: Serve) -> None:
    async with (await serve()).connect() as gateway:
        await gateway.send_batch(1, [sequence(1, max_tokens=500, ignore_eos=True)])
        await gateway.send_batch(2, [sequence(1)])
        assert "sequence_id" in (await refusal(gateway)).violations[0].field


async def test_another_schema_revision_is_refused(serve: Serve) -> None:
    gateway = (await serve()).connect()
    gateway.open()
    await gateway.send(hello=hello(schema_revision=SCHEMA_REVISION + 1))
    found = await refusal(gateway)
    assert (found.code, found.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "INCOMPATIBLE_PEER",
    )
    await gateway.close()


async def test_a_stream_without_a_batching_mode_is_refused(serve: Serve) -> None:
    gateway = (await serve()).connect()
    gateway.open()
    await gateway.send(hello=hello(batching_mode=engine_pb2.BATCHING_MODE_UNSPECIFIED))
    assert (await refusal(gateway)).reason == "INCOMPATIBLE_PEER"
    await gateway.close()


async def test_a_second_gateway_is_refused_and_the_first_unharmed(serve: Serve) -> None:
    serving = await serve()
    async with serving.connect() as first:
        await first.send_batch(1, [sequence(1, max_tokens=30, ignore_eos=True)])
        second = serving.connect()
        second.open()
        await second.send(hello=hello())
        found = await refusal(second)
        assert (found.code, found.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_SERVING")
        await second.close()
        await first.until_idle()
        assert len(first.tokens(1)) == 30


async def test_a_peer_that_never_says_hello_takes_no_place_and_is_sent_away(serve: Serve) -> None:
    serving = await serve()
    silent = serving.connect()
    silent.open()
    await silent.call.wait_for_connection()
    async with serving.connect() as gateway:
        assert gateway.capacity.free_sequences == 8
        found = await refusal(silent)
        assert found.code is grpc.StatusCode.INVALID_ARGUMENT
        assert [v.description for v in found.violations] == ["no hello came"]
    await silent.close()


async def test_what_a_stream_leaves_running_is_freed_for_the_next(serve: Serve) -> None:
    serving = await serve()
    async with serving.connect() as gateway:
        running = [sequence(i, max_tokens=500, ignore_eos=True) for i in range(3)]
        await gateway.send_batch(1, running)
        await gateway.until("step")
    second = await _connected(serving)
    assert second.capacity.free_sequences == 8
    assert second.capacity.free_kv_tokens == second.welcome.limits.kv_tokens
    await second.send_batch(1, [sequence(1)])
    await second.until_idle()
    # Tokens of the first stream's sequence 1 would be a gap or a repetition here.
    assert len(second.tokens(1)) == 8
    await second.close()


async def _connected(serving: Serving) -> Gateway:
    """A gateway that tries again until the engine has noticed that the first is gone."""
    while True:
        gateway = serving.connect()
        try:
            return await gateway.__aenter__()
        except grpc.aio.AioRpcError as error:
            await gateway.close()
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise
            await asyncio.sleep(0.02)


async def test_heartbeats_come_while_nothing_runs(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "HEARTBEAT_INTERVAL_S", 0.05)
    async with (await serve()).connect() as gateway:
        counts = [(await gateway.until("heartbeat")).heartbeat.count for _ in range(3)]
        assert counts == [1, 2, 3]


async def test_a_silent_gateway_loses_its_stream_and_its_work(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "SILENCE_LIMIT_S", 0.5)
    serving = await serve()
    async with serving.connect() as gateway:
        await gateway.send_batch(1, [sequence(1, max_tokens=500, ignore_eos=True)])
        with pytest.raises(EOFError):
            await gateway.until_the_end()
    async with serving.connect() as second:
        assert second.capacity.running_sequences == 0


async def test_heartbeats_of_the_gateway_keep_the_stream_open(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "SILENCE_LIMIT_S", 0.6)
    async with (await serve()).connect() as gateway:
        for count in range(1, 8):
            await asyncio.sleep(0.15)
            await gateway.send(heartbeat=engine_pb2.Heartbeat(count=count))
        await gateway.send_batch(1, [sequence(1)])
        await gateway.until_finished()


async def test_draining_the_service_ends_the_open_stream_and_refuses_new_ones(
    serve: Serve,
) -> None:
    serving = await serve()
    async with serving.connect() as gateway:
        await gateway.send_batch(1, [sequence(1, max_tokens=30, ignore_eos=True)])
        await gateway.until("step")
        draining = asyncio.ensure_future(serving.service.drain())
        await gateway.until("drained")
        assert len(gateway.tokens(1)) == 30
        await draining
    late = serving.connect()
    late.open()
    with suppress(grpc.aio.AioRpcError):  # the refusal may have come already
        await late.send(hello=hello())
    found = await refusal(late)
    assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    await late.close()


async def test_tokenize_applies_the_chat_template(serve: Serve, tokenizer: Tokenizer) -> None:
    gateway = (await serve()).connect()
    prompt = await gateway.stub.Tokenize(engine_pb2.TokenizeRequest(prompt="Hi"))
    message = prompt_pb2.ChatMessage(role=prompt_pb2.CHAT_ROLE_USER, content="Hi")
    chat = await gateway.stub.Tokenize(
        engine_pb2.TokenizeRequest(chat=prompt_pb2.Chat(messages=[message]))
    )
    assert list(prompt.token_ids) == list(chat.token_ids) == tokenizer.encode_prompt("Hi")
    await gateway.close()


async def test_tokenize_says_what_is_wrong(serve: Serve) -> None:
    gateway = (await serve()).connect()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await gateway.stub.Tokenize(engine_pb2.TokenizeRequest(prompt=""))
    found = decode(refused.value)
    assert (found.code, found.violations[0].field) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "prompt",
    )
    await gateway.close()


async def test_get_model_info_says_what_welcome_says(serve: Serve) -> None:
    async with (await serve(model_name="tiny")).connect() as gateway:
        info = await gateway.stub.GetModelInfo(engine_pb2.GetModelInfoRequest())
        assert (info.model, info.limits) == (gateway.welcome.model, gateway.welcome.limits)
        assert info.model.name == "tiny"
        assert info.model.parameters == 2 * 49_152 * 32 + 32 + 2 * (
            2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32
        )
