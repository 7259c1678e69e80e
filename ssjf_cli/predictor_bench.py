"""`ssjf bench predictor`: the real predictor under load, then its network alone.

Owns the cases and their order, and that all of them run the same graph on the same
provider. The clients and the timing are `ssjf_bench`'s. Called by `bench`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import torch
from tokenizers import Tokenizer

from predictor_svc.encoder import PromptText, load_encoder
from predictor_svc.loaded import choose_precision
from predictor_svc.model_dir import (
    ModelDir,
    ModelDirError,
    default_model_dir,
    open_model_dir,
)
from predictor_svc.session import CPU, CUDA
from predictor_svc.training.backbone import BackboneMissing
from predictor_svc.training.weights import load_trained, revision, shipped_folder
from ssjf.predictor.v1 import predictor_pb2, predictor_pb2_grpc
from ssjf.wire import channel
from ssjf_bench import forward, predictor_load, predictor_prompts
from ssjf_bench.forward import Forward, ForwardError
from ssjf_bench.latency import Latency
from ssjf_bench.predictor_load import Load, LoadError, LoadResult
from ssjf_bench.predictor_prompts import Prompts
from ssjf_cli.stack import Stack, StackOptions

PROMPT_TOKENS = 128
SEED = 20261122
SATURATED_CALLS = 64
BATCH = 32
MAX_CLIENTS = 8
INFO_TIMEOUT_S = 10.0
# Each case has prompts of its own: none was seen before.
CASE_PROMPTS = 1_000_000_000


class BenchError(Exception):
    """What runs is not what was asked for."""


FAILURES = (BenchError, LoadError, ForwardError, ModelDirError, ValueError)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What is measured, and for how long."""

    model_dir: Path | None
    """Exported model; None takes the environment's."""
    weights: Path | None
    """The weights it was exported from; None takes those shipped."""
    provider: str
    """auto, cpu or cuda."""
    address: str | None
    """Predictors that run already, as `channel.connect_balanced` takes them; None starts them."""
    predictors: int
    """How many processes to start."""
    seconds: float
    """For each case."""
    clients: int | None
    """Client processes when saturated; None takes half of the cores."""


@dataclass(frozen=True, slots=True)
class Served:
    """The predictors under load."""

    address: str
    """As `channel.connect_balanced` takes it."""
    provider: str
    """ONNX Runtime's name of it, as the service itself says."""
    pids: tuple[int, ...]
    """Empty where they were not started here."""


def measure(options: BenchOptions, say: Say) -> dict[str, Any]:
    """All cases, as plain data.

    Where the backbone is not installed, eager PyTorch is left out, and `left_out` says so.
    Raises one of FAILURES, or StackError where the service does not start or ends.
    """
    model = open_model_dir(options.model_dir or default_model_dir())
    weights = options.weights or shipped_folder()
    network, left_out = _network(weights)
    exported_from = revision(weights)
    if exported_from != model.manifest.revision:
        raise BenchError(
            f"{model.folder} holds revision {model.manifest.revision}, {weights} "
            f"{exported_from}: name the weights that it was exported from (--weights)"
        )
    tokens = min(PROMPT_TOKENS, model.manifest.config.input.max_tokens)
    prompts = _prompts(model, tokens)
    say("starting the predictor" + "s" * (options.predictors > 1))
    with _predictor(options, model) as served:
        results = [*_load_cases(served, prompts, options, say)]
    precision = choose_precision("auto", served.provider, model.manifest)
    alone = {"onnxruntime": forward.bare_onnxruntime(model.graph(precision), served.provider)}
    if network is not None:
        alone["pytorch_eager"] = _eager(network, served.provider)
    results += _alone_cases(alone, tokens, options.seconds, say)
    return {
        "provider": served.provider,
        "precision": precision,
        "pytorch_precision": "fp16" if served.provider == CUDA else "fp32",
        "revision": model.manifest.revision,
        "prompt_tokens": tokens,
        "predictors": len(channel.listed(served.address)),
        "seconds_a_case": options.seconds,
        "results": results,
        "left_out": left_out,
    }


def _network(weights: Path) -> tuple[torch.nn.Module | None, list[str]]:
    """What was exported, in PyTorch, adapters merged; or None and why it is left out."""
    try:
        model = load_trained(weights).model
    except BackboneMissing as error:
        return None, [f"pytorch_eager: {error}"]
    model.backbone.merge()
    return model, []


def _prompts(model: ModelDir, tokens: int) -> Prompts:
    encoder = load_encoder(model.tokenizer, model.manifest.config.input)
    words = predictor_prompts.whole_words(Tokenizer.from_file(str(model.tokenizer)))
    return predictor_prompts.make(
        words, tokens, lambda text: len(encoder.encode([PromptText(text)])[0]), SEED
    )


@contextmanager
def _predictor(options: BenchOptions, model: ModelDir) -> Iterator[Served]:
    """The services, checked to be on the provider and of the revision that are asked for."""
    if options.address is not None:
        channel.balanced_target(options.address)  # raises what is wrong with it
        listed = channel.listed(options.address)
        providers = [_provider(options, model, each) for each in listed]
        yield Served(options.address, providers[0], ())
        return
    flags = {"model_dir": str(model.folder.resolve()), "provider": options.provider}
    stack = StackOptions(engine=None, gateway=None, predictor=flags)
    with ExitStack() as exits:
        started = [exits.enter_context(Stack(stack)) for _ in range(options.predictors)]
        addresses = [each.predictor_address for each in started]
        providers = [_provider(options, model, address) for address in addresses]
        pids = tuple(each.process("predictor").pid for each in started)
        yield Served(",".join(addresses), providers[0], pids)
        for each in started:
            each.check()


def _provider(options: BenchOptions, model: ModelDir, address: str) -> str:
    try:
        with channel.connect_blocking(address) as connection:
            info = predictor_pb2_grpc.PredictorServiceStub(connection).GetPredictorInfo(
                predictor_pb2.GetPredictorInfoRequest(), timeout=INFO_TIMEOUT_S
            )
    except grpc.RpcError as error:
        raise BenchError(f"no predictor answers at {address}: {error.code().name}") from None
    wanted = {"cpu": CPU, "cuda": CUDA}.get(options.provider, info.execution_provider)
    if info.execution_provider != wanted:
        raise BenchError(f"asked for {wanted}, the predictor is on {info.execution_provider}")
    if info.revision != model.manifest.revision:
        raise BenchError(
            f"the predictor serves revision {info.revision}, {model.folder} holds "
            f"{model.manifest.revision}"
        )
    return info.execution_provider


def _load_cases(
    served: Served, prompts: Prompts, options: BenchOptions, say: Say
) -> Iterator[dict[str, Any]]:
    clients = options.clients or min(MAX_CLIENTS, max(1, (os.cpu_count() or 1) // 2))
    seconds, pids = options.seconds, served.pids
    cases = {
        "predict_low_load": Load(1, 1, 1, seconds, server_pids=pids),
        "predict_seen_before": Load(1, 1, 1, seconds, repeat=True, server_pids=pids),
        "predict_saturated": Load(1, SATURATED_CALLS, clients, seconds, server_pids=pids),
        "predict_saturated_32_a_call": Load(
            BATCH, SATURATED_CALLS // 4, clients, seconds, server_pids=pids
        ),
    }
    for number, (case, load) in enumerate(cases.items()):
        say(case)
        first = number * CASE_PROMPTS
        yield _row(case, load, predictor_load.run(served.address, prompts, load, first))


def _row(case: str, load: Load, result: LoadResult) -> dict[str, Any]:
    return {
        "case": case,
        "prompts_a_call": load.prompts_a_call,
        "concurrency": load.concurrency,
        **asdict(result.latency),
        "prompts_per_s": result.prompts_per_s,
        "client_cores": result.client_cores,
        "server_cores": result.server_cores,
    }


def _alone_cases(
    runtimes: dict[str, Forward], tokens: int, seconds: float, say: Say
) -> Iterator[dict[str, Any]]:
    for name, run in runtimes.items():
        for batch in (1, BATCH):
            case = f"{name}_b{batch}"
            say(case)
            yield _alone_row(case, batch, forward.measure(run, batch, tokens, seconds))


def _alone_row(case: str, batch: int, found: Latency) -> dict[str, Any]:
    return {
        "case": case,
        "prompts_a_call": batch,
        "concurrency": 1,
        **asdict(found),
        "prompts_per_s": batch * 1000 / found.mean_ms,
    }


def _eager(model: torch.nn.Module, provider: str) -> Forward:
    """The network in PyTorch, in the precision that is served there."""
    cuda = provider == CUDA
    if cuda and not torch.cuda.is_available():
        raise BenchError("PyTorch sees no GPU: there is no eager run to compare with")
    device = torch.device("cuda" if cuda else "cpu")
    model = model.eval().to(device, torch.float16 if cuda else torch.float32)

    def run(ids: forward.Ids, mask: forward.Ids) -> Any:
        with torch.inference_mode():
            inputs = [torch.from_numpy(each).to(device) for each in (ids, mask)]
            return model(*inputs).float().cpu().numpy()

    return run
