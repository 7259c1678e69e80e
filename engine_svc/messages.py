"""What the event loop and the engine thread say to each other.

Pure, frozen values: commands go in, one `Report` a step comes out. `mailbox` carries
them, `translate` turns them from and to the wire's messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine_svc.scheduler import Batching, Capacity
from engine_svc.sequence import Ending, FailureCode, Sequence


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural log-probabilities at one position, before penalties and filters."""

    logprob: float
    top_token_ids: tuple[int, ...]
    top_logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """A sequence has ended well."""

    sequence_id: int
    ending: Ending
    prompt_tokens: int
    output_tokens: int
    prefill_ms: float
    decode_ms: float
    cached_prompt_tokens: int = 0
    """Of the prompt, tokens that were found in the KV cache."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A sequence has failed, or was refused."""

    sequence_id: int
    code: FailureCode
    message: str
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one turn of the loop has to say, in the order of the fields.

    The new tokens are columns of one length: text is made of them elsewhere.
    """

    step: int = 0
    step_ms: float = 0.0
    sequence_ids: tuple[int, ...] = ()
    """Sequences that got a token."""
    token_ids: tuple[int, ...] = ()
    """Their tokens."""
    indices: tuple[int, ...] = ()
    """Index of each token in its answer, from 0."""
    logprobs: Mapping[int, TokenLogprobs] | None = None
    """By sequence id, of those that asked for them; None where none did."""
    finished: tuple[Finished, ...] = ()
    failed: tuple[Failed, ...] = ()
    capacity: Capacity | None = None
    """Only where it has changed."""
    batch_id: int = 0
    """Highest batch that `capacity` takes into account."""
    drained: bool = False


Sink = Callable[[Report], None]


@dataclass(frozen=True, slots=True)
class Attach:
    """A stream has opened: reports go to `sink` from now on."""

    sink: Sink
    batching: Batching = Batching.CONTINUOUS
    """How the gateway wants sequences put together, as long as the stream lasts."""


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
