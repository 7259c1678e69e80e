from __future__ import annotations

from pathlib import Path

import pytest

from predictor_svc.model_dir import ModelDirError
from predictor_svc.training.seen import SEEN, save_seen, unseen
from tests.predictor_svc.toy import example, learnable


def test_prompts_that_were_learnt_from_are_left_out_under_every_llm(tmp_path: Path) -> None:
    rows = learnable(20, ("one", "two"))
    save_seen(rows[:20], tmp_path)
    assert unseen(rows, tmp_path) == rows[20:]


def test_case_and_spacing_make_no_other_prompt(tmp_path: Path) -> None:
    save_seen([example("What is  THIS?\n", (3,))], tmp_path)
    other = example("what is that?", (3,))
    assert unseen([example("what is this?", (4,)), other], tmp_path) == [other]


def test_the_file_holds_hashes_alone_the_same_in_any_order(tmp_path: Path) -> None:
    rows = learnable(20)
    save_seen(rows, tmp_path)
    first = (tmp_path / SEEN).read_bytes()
    save_seen([*rows[::-1], *rows], tmp_path)
    assert (tmp_path / SEEN).read_bytes() == first
    assert len(first) == 128 + 20 * 8  # numpy's header, and 8 bytes a prompt
    assert (tmp_path / SEEN).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("content", [None, b"", b"no array"])
def test_weights_that_do_not_say_are_refused_by_name(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / SEEN).write_bytes(content)
    with pytest.raises(ModelDirError, match=r"seen\.npy: "):
        unseen(learnable(1), tmp_path)
