from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from predictor_svc.encoder import Encoder, InputForm, PromptText, load_encoder
from predictor_svc.training.backbone import packaged_folder
from predictor_svc.training.model import LLM_POSITION
from predictor_svc.training.options import TrainOptions
from predictor_svc.training.tokenized import Batch, TokenRows, shuffled_batches, tokenize
from tests.predictor_svc.toy import CPU, letters_tokenizer

LLMS = ("alpha", "beta", "gamma")
PROMPTS = 30


def tokens(llms: Sequence[str] = LLMS, *, named: bool = True) -> TokenRows:
    """`PROMPTS` prompts of different lengths under each LLM."""
    form = InputForm(max_tokens=64, llms=tuple(llms) if named else ())
    texts = [
        PromptText("word " * (number + 1), llm=llm) for number in range(PROMPTS) for llm in llms
    ]
    return tokenize(load_encoder(packaged_folder() / "tokenizer.json", form), texts, CPU)


def options(**changed: object) -> TrainOptions:
    return TrainOptions.model_validate({"batch_size": 4, "llm": "head"} | changed)


def epoch(rows: TokenRows, used: TrainOptions, seed: int = 0) -> list[Batch]:
    return list(shuffled_batches(rows, used, random.Random(seed)))


def prompt_of(row: int) -> int:
    return row // len(LLMS)


@pytest.mark.parametrize(("rows_a_prompt", "batch_size"), [(1, 4), (1, 7), (2, 4), (3, 4), (9, 2)])
def test_an_epoch_has_every_row_once(rows_a_prompt: int, batch_size: int) -> None:
    used = options(rows_a_prompt=rows_a_prompt, batch_size=batch_size)
    batches = epoch(tokens(), used)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(90))
    assert len(batches) == tokens().batch_count(used)
    assert all(len(batch.encoded) <= batch_size for batch in batches)


def test_an_epoch_can_take_some_rows_of_each_prompt_drawn_anew() -> None:
    used = options(rows_an_epoch=2)
    draw = random.Random(0)
    first, second = (
        [row for batch in shuffled_batches(tokens(), used, draw) for row in batch.rows]
        for _ in range(2)
    )
    assert set(Counter(map(prompt_of, first)).values()) == {2}
    assert len(set(first)) == 2 * PROMPTS
    assert set(first) != set(second)
    assert tokens().batch_count(used) == 15


def test_rows_of_one_prompt_share_its_tokens() -> None:
    for batch in epoch(tokens(), options(rows_a_prompt=3)):
        assert len(batch.encoded) * 3 == len(batch.rows) == len(batch.owners)
        owners = [prompt_of(batch.encoded[owner]) for owner in batch.owners]
        assert owners == [prompt_of(row) for row in batch.rows]


def test_alone_every_row_has_its_own_tokens() -> None:
    for batch in epoch(tokens(), options()):
        assert batch.encoded == batch.rows
        assert batch.owners == list(range(len(batch.rows)))


def test_the_order_is_that_of_the_seed() -> None:
    assert epoch(tokens(), options()) == epoch(tokens(), options())
    assert epoch(tokens(), options()) != epoch(tokens(), options(), seed=1)


def test_batches_are_of_similar_length_yet_in_random_order() -> None:
    rows = tokens()
    means = []
    for batch in epoch(rows, options(batch_size=15)):
        lengths = rows.lengths[batch.rows]
        assert lengths.max() - lengths.min() <= 5
        means.append(lengths.mean())
    assert means != sorted(means)


def test_tensors_hold_the_rows_padded_and_masked() -> None:
    rows = tokens()
    batch = Batch([0, 31, 8], [0, 31, 8], [0, 1, 2], [False] * 3)
    ids, mask, llms = rows.tensors(batch)
    assert ids.dtype == mask.dtype == torch.int64
    assert mask.sum(dim=1).tolist() == rows.lengths[[0, 31, 8]].tolist() == [4, 14, 6]
    assert not ids[mask == 0].any()
    assert ids.shape == (3, 16)
    assert ids[:, :2].tolist() == [[101, 2], [101, 3], [101, 4]]
    assert llms.tolist() == [2, 3, 4]


def test_a_hidden_llm_gets_the_unknown_token() -> None:
    rows = tokens()
    batch = Batch([0, 4, 8], [0, 4, 8], [0, 1, 2], [True, False, True])
    ids, _, llms = rows.tensors(batch)
    assert llms.tolist() == [rows.unknown_llm_token, 3, rows.unknown_llm_token]
    assert ids[:, LLM_POSITION].tolist() == llms.tolist()
    assert rows.ids[0, LLM_POSITION] == 2  # the stored rows stay as they are


def test_a_hidden_llm_among_rows_that_share_tokens_is_hidden_from_the_head() -> None:
    rows = tokens()
    batch = Batch([0, 1, 2], [0], [0, 0, 0], [False, True, False])
    ids, mask, llms = rows.tensors(batch)
    assert llms.tolist() == [2, rows.unknown_llm_token, 4]
    assert ids.shape[0] == mask.shape[0] == 1


def test_as_many_llms_are_hidden_as_asked_for() -> None:
    used = options(llm_dropout=0.25, batch_size=16)
    hidden = [
        each for seed in range(20) for batch in epoch(tokens(), used, seed) for each in batch.hidden
    ]
    assert len(hidden) == 1800
    assert 0.2 < sum(hidden) / len(hidden) < 0.3
    assert not any(each for batch in epoch(tokens(), options()) for each in batch.hidden)


def test_rows_are_of_one_prompt_where_all_but_the_llm_is_equal() -> None:
    assert sorted(tokens().groups) == [(n, n + 1, n + 2) for n in range(0, 90, 3)]
    assert sorted(tokens(named=False).groups) == sorted(tokens().groups)


def test_a_larger_vocabulary_keeps_its_ids() -> None:
    form = InputForm(layout="chat", marks="role", max_tokens=64, llms=LLMS)
    chat = Encoder(letters_tokenizer(unused=40_000), form)
    rows = tokenize(chat, [PromptText("hi", llm=llm) for llm in LLMS], CPU)
    assert rows.ids.dtype == torch.int32
    assert tokens().ids.dtype == torch.int16
    ids, _, llms = rows.tensors(Batch([0, 1, 2], [0], [0, 0, 0], [False, True, False]))
    assert ids.max() > 40_000
    assert llms.tolist() == [1, rows.unknown_llm_token, 3]
    assert rows.groups == ((0, 1, 2),)
