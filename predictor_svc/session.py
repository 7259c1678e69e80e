"""The ONNX Runtime session, on the execution provider that was asked for.

Owns the choice of provider and its check after creation: ONNX Runtime falls back to the
CPU without a word, this never does. Groups a batch by length and runs each group, on CUDA
through `device`. Knows token ids and outputs, nothing of prompts or grpc. Everything that
touches one session happens in one thread, `loaded`'s; `run` releases the GIL.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from predictor_svc.batcher import BUCKETS_TOKENS, group_by_length
from predictor_svc.device import BATCH_BUCKETS, DeviceForward
from predictor_svc.network import Network, network_of, pad

Provider = Literal["auto", "cpu", "cuda"]
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
NO_CPU = "session.disable_cpu_ep_fallback"
RUN_COST_TOKENS = {CPU: 0, CUDA: 4096}
"""What a run of its own costs, in tokens of padding: nothing beside the work on a CPU."""


class SessionError(Exception):
    """No session on the provider that was asked for, or a graph that cannot be loaded."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a graph is run."""

    provider: Provider = "auto"
    threads: int = 0
    """Inside an operator on the CPU; 0 takes one a core."""
    max_batch: int = 32
    """Largest batch to prepare for on CUDA."""
    cuda_graphs: bool = True
    """Whether each prepared shape is captured and replayed on CUDA."""
    device_lock: threading.Lock = field(default_factory=threading.Lock)
    """Held during every run; shared by all sessions of a process, because CUDA forbids
    most calls in every thread while one thread captures."""


class Forward(Protocol):
    """One way to run a group of rows."""

    def __call__(self, ids: Sequence[Sequence[int]], tokens: int) -> NDArray[np.floating]:
        """(n, width) outputs of n rows, padded to `tokens`."""


class Session:
    """Runs the proxy model on token ids."""

    def __init__(self, graph: Path, options: SessionOptions, max_tokens: int) -> None:
        """Loads `graph`, which reads at most `max_tokens` of a prompt.

        Raises SessionError where the provider is not to be had; only "auto" takes another,
        and says so in `fell_back`.
        """
        wanted = wanted_provider(options.provider)
        session, captures, whole = _create(graph, options, wanted)
        self.provider: str = session.get_providers()[0]
        """Execution provider in use."""
        self.fell_back: bool = self.provider != wanted
        """Whether "auto" had to do without a CUDA that ONNX Runtime was built for."""
        if self.fell_back and options.provider != "auto":
            raise SessionError(
                f"asked for {wanted}, ONNX Runtime chose {self.provider}: CUDA needs the package "
                "onnxruntime-gpu, a driver and CUDA libraries that fit it; or set provider=cpu"
            )
        self.captures: bool = captures and not self.fell_back
        """Whether CUDA graphs are captured and replayed."""
        self.partly_on_cpu: bool = not whole and not self.fell_back
        """Whether CUDA lacks some of the graph's operators, which run on the CPU, slowly: fp32
        attention of decoders is such a one."""
        self._options = options
        self._max_tokens = max_tokens
        self._network = _network(graph, session)
        self._forward: Forward = HostForward(self._network)

    @property
    def width(self) -> int:
        """Numbers that the network gives for a prompt."""
        return self._network.width

    def warm_up(self) -> None:
        """Runs every bucket: a shape's first run allocates, picks kernels and, on CUDA,
        captures. The lock is free between two shapes. Raises SessionError."""
        lengths = sorted({min(each, self._max_tokens) for each in (*BUCKETS_TOKENS, 1 << 30)})
        try:
            if self.provider == CUDA:
                self._forward = self._prepared(lengths)
            else:
                for length in lengths:
                    self.run([[0] * length])
        except Exception as error:  # as in `_session`
            raise SessionError(f"the model cannot be run: {first_line(error)}") from error

    def run(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """(n, width) outputs of n prompts, in their order; run in groups of similar length."""
        outputs = np.empty((len(ids), self.width), dtype=np.float32)
        cost = RUN_COST_TOKENS.get(self.provider, 0)
        for group in group_by_length([len(row) for row in ids], cost):
            rows = [ids[row] for row in group.rows]
            with self._options.device_lock:
                values = self._forward(rows, min(group.padded_tokens, self._max_tokens))
            outputs[list(group.rows)] = values
        return outputs

    def close(self) -> None:
        """Frees what the session holds; nothing can be run any more."""
        with self._options.device_lock:  # CUDA must free nothing while another session captures
            del self._network, self._forward

    def _prepared(self, lengths: list[int]) -> DeviceForward:
        device = DeviceForward(self._network, "cuda", captures=self.captures)
        most = self._options.max_batch
        batches = [*(each for each in BATCH_BUCKETS if each < most), most]
        # Large shapes first: what they allocate serves the smaller ones.
        for length in reversed(lengths):
            for batch in reversed(batches):
                with self._options.device_lock:
                    device.prepare(batch, length)
        return device


class HostForward:
    """Runs on host arrays; ONNX Runtime copies where it has to."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def __call__(self, ids: Sequence[Sequence[int]], tokens: int) -> NDArray[np.floating]:
        """See `Forward`."""
        return self._network.run_host(*pad(ids, tokens, self._network.input_type))


def wanted_provider(provider: Provider) -> str:
    """The provider's full name. Raises SessionError where the installed build lacks it."""
    has_cuda = CUDA in onnxruntime.get_available_providers()
    if provider == "cuda" and not has_cuda:
        raise SessionError(
            "provider=cuda, but this ONNX Runtime has no CUDA: install the extra `gpu` "
            "(onnxruntime-gpu) in place of `cpu`"
        )
    if provider == "cpu" or not has_cuda:
        return CPU
    # CUDA's libraries lie in PyTorch's or NVIDIA's packages, where the loader does not look.
    onnxruntime.preload_dlls()
    return CUDA


def _create(graph: Path, options: SessionOptions, wanted: str) -> tuple[Any, bool, bool]:
    """A session, whether it captures CUDA graphs, and whether all of it is where it was wanted.

    Not every graph can be captured, and not every one that cannot is partly on the CPU.
    """
    if wanted != CUDA:
        return _session(graph, options, [CPU]), False, True
    if options.cuda_graphs:
        try:
            return _session(graph, options, _on_cuda(captures=True)), True, True
        except SessionError:
            pass  # nodes that CUDA lacks; a broken graph fails again below
    session = _session(graph, options, _on_cuda(captures=False))
    return session, False, _all_on_cuda(graph, options)


def _all_on_cuda(graph: Path, options: SessionOptions) -> bool:
    try:
        _session(graph, options, _on_cuda(captures=False)[:1], {NO_CPU: "1"})
    except SessionError:
        return False
    return True


def _on_cuda(captures: bool) -> list[Any]:
    flags = {
        "enable_cuda_graph": str(int(captures)),
        # The engine may share the GPU: allocate what is used, not powers of two.
        "arena_extend_strategy": "kSameAsRequested",
    }
    return [(CUDA, flags), CPU]


def _session(
    graph: Path,
    options: SessionOptions,
    providers: list[Any],
    entries: Mapping[str, str] | None = None,
) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    # Idle workers would spin on cores that an engine on the same machine needs.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.log_severity_level = 3
    for name, value in (entries or {}).items():
        settings.add_session_config_entry(name, value)
    try:
        return onnxruntime.InferenceSession(graph, settings, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        raise SessionError(f"{graph}: {first_line(error)}") from error


def _network(graph: Path, session: Any) -> Network:
    try:
        return network_of(session)
    except ValueError as error:
        raise SessionError(f"{graph}: {error}") from error


def first_line(error: Exception) -> str:
    """What an exception of a library says, on one line."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
