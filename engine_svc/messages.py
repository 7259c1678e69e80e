"""What the serving side and the engine loop say to each other.

Pure, frozen values without text: commands go in, one `Report` a step comes out, its
tokens in columns. `mailbox` carries them between threads, `loop_process` between
processes; `answers` makes text of the tokens, `translate` the wire's messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine_svc.batching_mode import BatchingMode
from engine_svc.scheduler import Capacity
from engine_svc.sequence import Ending, FailureCode, Sequence


@dataclass(frozen=True, slots=True)
class Ready:
    """What an engine loop that is ready to run says of itself."""

    architecture: str
    """Family of the model, such as `llama`."""
    vocabulary_size: int
    eos_token_ids: tuple[int, ...]
    parameters: int
    dtype: str
    """Type of weights and KV cache, such as `bfloat16`."""
    device: str
    max_sequences: int
    max_context_tokens: int
    """Prompt plus answer of one sequence."""
    kv_tokens: int
    """Tokens that the KV cache holds over all sequences."""
    kv_block_tokens: int


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural log-probabilities at one position, before penalties and filters."""

    logprob: float
    top_token_ids: tuple[int, ...]
    top_logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FirstToken:
    """What became of a sequence up to its first token."""

    sequence_id: int
    cached_prompt_tokens: int = 0
    """Tokens of the prompt that were found in the KV cache."""
    prefill_ms: float = 0.0
    """From its first step to its first token."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A sequence has ended well; its last token is in the same report."""

    sequence_id: int
    ending: Ending
    prompt_tokens: int
    output_tokens: int
    prefill_ms: float
    decode_ms: float
    cached_prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """A sequence has failed, or was refused."""

    sequence_id: int
    code: FailureCode
    message: str
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one turn of the loop has to say.

    The new tokens are columns of equal length, a row a token; a sequence has at most one.
    All numbers are Python's own, so that a report can cross between processes.
    """

    step: int = 0
    step_ms: float = 0.0
    sequence_ids: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    indices: tuple[int, ...] = ()
    """Index of each token in its answer, from 0."""
    logprobs: Mapping[int, TokenLogprobs] | None = None
    """By sequence id, of the rows whose sequence asked for them; None where none did."""
    first: tuple[FirstToken, ...] = ()
    """Sequences whose first token is among the rows."""
    finished: tuple[Finished, ...] = ()
    failed: tuple[Failed, ...] = ()
    capacity: Capacity | None = None
    """Only where it has changed."""
    batch_id: int = 0
    """Highest batch that `capacity` takes into account."""
    drained: bool = False
    prompt_tokens: int = 0
    """Tokens of prompts that the step has read."""
    preempted: int = 0
    """Sequences that gave their KV cache up and will be computed again."""
    out_of_memory: int = 0
    """Times that the step ran out of memory and was run again in parts."""


Sink = Callable[[Report], None]


@dataclass(frozen=True, slots=True)
class Attach:
    """A stream has opened: reports go to `sink` from now on."""

    sink: Sink
    batching_mode: BatchingMode = BatchingMode.CONTINUOUS


@dataclass(frozen=True, slots=True)
class Detach:
    """The stream has ended: free everything, report to nobody."""


@dataclass(frozen=True, slots=True)
class Start:
    """Sequences to start, and those of the same batch that were refused at the edge."""

    batch_id: int
    sequences: tuple[Sequence, ...]
    refused: tuple[Failed, ...] = ()


@dataclass(frozen=True, slots=True)
class Cancel:
    """Sequences to stop."""

    sequence_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Drain:
    """Offer no more capacity, and report `drained` once nothing runs."""

    for_good: bool = False
    """Also for streams that open later: the process is going to stop."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the loop, whatever runs."""


Command = Attach | Detach | Start | Cancel | Drain | Stop
