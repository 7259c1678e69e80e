"""The answers under way on one stream: makes text of the loop's reports.

A step's tokens are looked up together; only a token that is no text by itself, and an
answer with stop strings, are looked at one by one. A stop string that is met ends its
answer here: what the loop still says of it is dropped. Knows neither gRPC nor the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from engine_svc.detokenizer import Detokenizer
from engine_svc.messages import Finished, FirstToken, Report, Start
from engine_svc.params import SamplingParams
from engine_svc.sequence import Ending, FinishReason
from engine_svc.sequence import Sequence as EngineSequence
from engine_svc.stop_strings import StopStrings
from engine_svc.token_texts import TokenTexts


@dataclass(frozen=True, slots=True)
class Answered:
    """A report with its text."""

    report: Report
    """What concerns answers under way, with the ends by stop strings among its ends."""
    texts: Sequence[str]
    """Text that is certain with the token of each row."""
    stopped: tuple[int, ...] = ()
    """Sequences that a stop string has ended and that the loop still runs."""


@dataclass(slots=True)
class _Answer:
    """One answer under way."""

    prompt_tokens: int
    params: SamplingParams
    forced: bool
    detokenizer: Detokenizer
    stops: StopStrings | None
    first: FirstToken
    first_token_s: float = 0.0

    @property
    def is_watched(self) -> bool:
        """Whether each of its tokens must be looked at."""
        return self.stops is not None or self.detokenizer.needs_every_token

    def feed(self, token_id: int, index: int) -> tuple[str, str | None]:
        """Text that is certain after this token, and the stop string that ends the answer."""
        text = self.detokenizer.feed(token_id)
        if self.stops is None:
            return text, None
        may_stop = not self.forced and index + 1 >= self.params.min_tokens
        return self.stops.feed(text, may_stop=may_stop)

    def flush(self) -> str:
        """What is held back, at the end of the answer."""
        held = "" if self.stops is None else self.stops.flush()
        return held + self.detokenizer.flush()


class Answers:
    """All answers under way; `read` turns each report into text."""

    def __init__(self, texts: TokenTexts, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._texts = texts
        self._clock = clock
        self._answers: dict[int, _Answer | None] = {}
        self._watched: set[int] = set()

    @property
    def live(self) -> Collection[int]:
        """Sequences whose end has not been read yet."""
        return self._answers.keys()

    def start(self, command: Start) -> None:
        """Takes the sequences that the loop is going to hear of."""
        for sequence in command.sequences:
            answer = self._begin(sequence)
            self._answers[sequence.sequence_id] = answer
            if answer.is_watched:
                self._watched.add(sequence.sequence_id)
        # Of these only the refusal comes.
        self._answers.update({failed.sequence_id: None for failed in command.refused})

    def forget(self, sequence_ids: Iterable[int]) -> int:
        """Drops answers, of which nothing more is to be said. Returns how many there were."""
        before = len(self._answers)
        for sequence_id in sequence_ids:
            self._answers.pop(sequence_id, None)
            self._watched.discard(sequence_id)
        return before - len(self._answers)

    def read(self, report: Report) -> Answered:
        """The report with its text. What it says of sequences not under way is left out."""
        report = self._of_live(report)
        for first in report.first:
            self._answer(first.sequence_id).first = first
            self._answer(first.sequence_id).first_token_s = self._clock()
        texts = list(map(self._texts.whole.__getitem__, report.token_ids))
        stops: dict[int, str] = {}
        if self._watched or report.finished or None in texts:
            stops = self._read_rows(report, texts)
        still_running: tuple[int, ...] = ()
        if stops:
            report, still_running = self._end_by_stops(report, stops)
        self.forget(finished.sequence_id for finished in report.finished)
        self.forget(failed.sequence_id for failed in report.failed)
        return Answered(report, cast("list[str]", texts), still_running)

    def _begin(self, sequence: EngineSequence) -> _Answer:
        params = sequence.params
        return _Answer(
            prompt_tokens=len(sequence.prompt),
            params=params,
            forced=sequence.forced_tokens is not None,
            detokenizer=self._texts.detokenizer(),
            stops=StopStrings(params.stop) if params.stop else None,
            first=FirstToken(sequence.sequence_id),
        )

    def _answer(self, sequence_id: int) -> _Answer:
        answer = self._answers[sequence_id]
        if answer is None:
            raise RuntimeError(f"sequence {sequence_id} was refused and yet runs")
        return answer

    def _of_live(self, report: Report) -> Report:
        """The report without what it says of sequences that are cancelled or stopped."""
        live = self._answers.keys()
        ended = {end.sequence_id for ends in (report.finished, report.failed) for end in ends}
        if live >= {*report.sequence_ids, *ended}:
            return report
        rows = [row for row, each in enumerate(report.sequence_ids) if each in live]
        return replace(
            report,
            sequence_ids=tuple(report.sequence_ids[row] for row in rows),
            token_ids=tuple(report.token_ids[row] for row in rows),
            indices=tuple(report.indices[row] for row in rows),
            first=tuple(each for each in report.first if each.sequence_id in live),
            finished=tuple(each for each in report.finished if each.sequence_id in live),
            failed=tuple(each for each in report.failed if each.sequence_id in live),
        )

    def _read_rows(self, report: Report, texts: list[str | None]) -> dict[int, str]:
        """Fills in the texts that depend on what came before; returns the stop strings met."""
        stops: dict[int, str] = {}
        endings = {finished.sequence_id: finished.ending for finished in report.finished}
        for row, sequence_id in enumerate(report.sequence_ids):
            ending = endings.get(sequence_id)
            if texts[row] is not None and ending is None and sequence_id not in self._watched:
                continue
            token_id, index = report.token_ids[row], report.indices[row]
            texts[row], stop = self._read_row(sequence_id, token_id, index, ending)
            if stop is not None:
                stops[sequence_id] = stop
        return stops

    def _read_row(
        self, sequence_id: int, token_id: int, index: int, ending: Ending | None
    ) -> tuple[str, str | None]:
        answer = self._answer(sequence_id)
        if ending is not None and ending.stop_token_id is not None:
            # The token that ends the answer is counted and sent; it is no text.
            return answer.flush(), None
        text, stop = answer.feed(token_id, index)
        if ending is not None and stop is None:
            text += answer.flush()
        if answer.is_watched:
            self._watched.add(sequence_id)
        else:
            self._watched.discard(sequence_id)
        return text, stop

    def _end_by_stops(
        self, report: Report, stops: dict[int, str]
    ) -> tuple[Report, tuple[int, ...]]:
        """The report with the ends by stop strings, and those that the loop does not know of."""
        finished = {each.sequence_id: each for each in report.finished}
        still_running = tuple(stops.keys() - finished.keys())
        indices = dict(zip(report.sequence_ids, report.indices, strict=True))
        for sequence_id, stop in stops.items():
            ending = Ending(FinishReason.STOP, stop_string=stop)
            known = finished.get(sequence_id)
            finished[sequence_id] = (
                replace(known, ending=ending)
                if known is not None
                else self._finished(sequence_id, ending, indices[sequence_id] + 1)
            )
        return replace(report, finished=tuple(finished.values())), still_running

    def _finished(self, sequence_id: int, ending: Ending, output_tokens: int) -> Finished:
        answer = self._answer(sequence_id)
        return Finished(
            sequence_id=sequence_id,
            ending=ending,
            prompt_tokens=answer.prompt_tokens,
            output_tokens=output_tokens,
            prefill_ms=answer.first.prefill_ms,
            decode_ms=(self._clock() - answer.first_token_s) * 1e3,
            cached_prompt_tokens=answer.first.cached_prompt_tokens,
        )
