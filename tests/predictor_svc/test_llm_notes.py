from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from predictor_svc import llm_notes
from predictor_svc.encoder import InputForm
from predictor_svc.llm_notes import LlmNotes

FORM = InputForm(max_tokens=40, llms=("gemma-3-4b", "gemma-3-12b"), families=("gemma-3",))


def noted(notes: LlmNotes, *llms: str, form: InputForm = FORM) -> list[Any]:
    """(LLM, what it is read as, level) of each line."""
    with capture_logs() as logs:
        notes.note(llms, form)
    return [(each["llm"], each["read_as"], each["log_level"]) for each in logs]


def counted(how: str) -> float:
    return REGISTRY.get_sample_value("ssjf_predictor_llm_names_total", {"how": how}) or 0.0


def test_an_unknown_name_is_said_once() -> None:
    notes = LlmNotes()
    assert noted(notes, "gemma-3-27b", "gemma-3-27b", "gemma-3-4b") == [
        ("gemma-3-27b", "gemma-3", "info")
    ]
    assert noted(notes, "gemma-3-27b") == []


def test_a_name_that_stands_for_nothing_is_a_warning() -> None:
    assert noted(LlmNotes(), "gpt-2") == [("gpt-2", "any LLM", "warning")]


def test_a_new_model_that_reads_a_name_otherwise_is_said_again() -> None:
    notes = LlmNotes()
    noted(notes, "gemma-3-27b")
    newer = InputForm(max_tokens=40, llms=("gemma-3-12b",))
    assert noted(notes, "gemma-3-27b", form=newer) == [("gemma-3-27b", "gemma-3-12b", "info")]


def test_a_model_that_reads_no_name_has_nothing_to_say() -> None:
    assert noted(LlmNotes(), "gpt-2", form=InputForm(max_tokens=40)) == []


def test_what_is_logged_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_notes, "MOST_NAMES", 2)
    assert len(noted(LlmNotes(), *[f"other{n}" for n in range(5)])) == 2


def test_prompts_are_counted_by_how_their_llm_was_read() -> None:
    before = [counted(how) for how in ("own", "alias", "family", "any")]
    names = ("gemma-3-4b", "gemma-3-4b", "x/gemma-3-4b", "gemma-3-27b", "", "gpt-2", "gpt-3")
    noted(LlmNotes(), *names)
    after = [counted(how) for how in ("own", "alias", "family", "any")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [2, 1, 1, 3]
