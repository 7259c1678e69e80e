"""Published conversations to the rows that training reads.

Owns what a round is (SSJF paper's repository: consecutive messages of one side are one),
which rounds are taken, how an answer's length is counted, and the file that is written.
Called by `ssjf predictor convert`.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, groupby, islice, pairwise
from pathlib import Path
from typing import IO, Final, Literal

from tokenizers import Tokenizer

from predictor_svc.encoder import Turn
from predictor_svc.training.convert_forms import FORMS, Conversation
from predictor_svc.training.rows import DataError, is_csv

TOKENIZED_AT_ONCE: Final = 256
EMPTY_ANSWER: Final = "empty answer"
EMPTY_PROMPT: Final = "empty prompt"
NO_ROUND: Final = "no question with an answer"
OTHER_MODEL: Final = "another LLM"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to take of the conversations."""

    rounds: Literal["first", "all"] = "first"
    model: str = ""
    """Only this LLM's conversations; where none is named, the name to write. Empty for all."""
    max_turns: int = 20
    """Messages before the prompt that are written, the last ones; 0 writes none."""


@dataclass(frozen=True, slots=True)
class Round:
    """A question in its place, and the answer to it."""

    turns: tuple[Turn, ...]
    """The messages before the question, oldest first."""
    prompt: str
    answer: str


@dataclass(slots=True)
class Converted:
    """What has happened so far."""

    conversations: int = 0
    rows: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Rows, or whole conversations, left out, by reason."""


def rounds(messages: Sequence[Turn]) -> Iterator[Round]:
    """Every question with an answer; messages of one side in a row are joined by newlines."""
    joined = [
        Turn(role, "\n".join(each.content for each in group))
        for role, group in groupby(messages, key=lambda message: message.role)
    ]
    for index, (question, answer) in enumerate(pairwise(joined)):
        if question.role in ("user", "tool") and answer.role == "assistant":
            yield Round(tuple(joined[:index]), question.content, answer.content)


def convert(
    form: str,
    paths: Sequence[Path],
    out: Path,
    tokenizer_file: Path,
    wanted: Wanted,
    on_progress: Callable[[Converted], None],
) -> Converted:
    """Writes `out` (.jsonl or .jsonl.gz), a row a round; whole, or not at all.

    A row's `response_length` is the answer's tokens under `tokenizer_file` (a tokenizer.json),
    special tokens not counted. Raises DataError naming file and entry for what is malformed.
    """
    tokenizer = _load_tokenizer(tokenizer_file)
    done = Converted()
    conversations = chain.from_iterable(FORMS[form](path) for path in paths)
    with written_whole(out) as file:
        found = _rounds_of(conversations, wanted, done)
        while group := list(islice(found, TOKENIZED_AT_ONCE)):
            for row in _rows(form, group, tokenizer, wanted, done):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                done.rows += 1
            on_progress(done)
    return done


_Found = tuple[Conversation, int, Round]


def _rounds_of(
    conversations: Iterable[Conversation], wanted: Wanted, done: Converted
) -> Iterator[_Found]:
    """The rounds to write, each with its conversation and number in it, from 1."""
    for conversation in conversations:
        done.conversations += 1
        if wanted.model and conversation.model not in ("", wanted.model):
            done.skipped[OTHER_MODEL] += 1
            continue
        number = 0
        for number, each in enumerate(rounds(conversation.messages), start=1):
            if not each.prompt.strip():
                done.skipped[EMPTY_PROMPT] += 1
            elif not each.answer.strip():
                done.skipped[EMPTY_ANSWER] += 1
            else:
                yield conversation, number, each
            if wanted.rounds == "first":
                break
        if number == 0:
            done.skipped[NO_ROUND] += 1


def _rows(
    form: str, found: Sequence[_Found], tokenizer: Tokenizer, wanted: Wanted, done: Converted
) -> Iterator[dict[str, object]]:
    answers = [each.answer for _, _, each in found]
    encodings = tokenizer.encode_batch_fast(answers, add_special_tokens=False)
    for (conversation, number, each), encoding in zip(found, encodings, strict=True):
        if not (length := len(encoding.ids)):
            done.skipped[EMPTY_ANSWER] += 1  # nothing but what the tokenizer strips
            continue
        turns = each.turns[-wanted.max_turns :] if wanted.max_turns else ()
        yield {
            "prompt_id": _prompt_id(conversation, number),
            "conversation_id": "" if conversation.is_single else conversation.name,
            "source": form,
            "model_name": conversation.model or wanted.model,
            "prompt_content": each.prompt,
            "turns": [{"role": turn.role, "content": turn.content} for turn in turns],
            "response_length": length,
        }


def _prompt_id(conversation: Conversation, number: int) -> str:
    return conversation.name if conversation.is_single else f"{conversation.name}/{number}"


def _load_tokenizer(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower one
        raise DataError(f"no tokenizer: {error}", path) from error
    # A tokenizer.json can say that inputs are cut or filled up: lengths would be of that.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@contextmanager
def written_whole(out: Path) -> Iterator[IO[str]]:
    """Opens a file beside `out` that takes its name once all is written."""
    if is_csv(out):
        raise DataError("rows are written as .jsonl or .jsonl.gz", out)
    part = out.with_name(f"{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        opened = gzip.open if out.suffix == ".gz" else open
        with opened(part, "wt", encoding="utf-8") as file:
            yield file
        part.replace(out)
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror}", out) from error
    finally:
        part.unlink(missing_ok=True)
