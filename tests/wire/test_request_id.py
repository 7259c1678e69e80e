from __future__ import annotations

import pytest

from ssjf.wire import request_id


@pytest.mark.parametrize("good", ["a", "A-z_0.9:x", "x" * 128])
def test_ids_of_safe_characters_are_valid(good: str) -> None:
    assert request_id.is_valid(good)


@pytest.mark.parametrize("bad", ["", "x" * 129, "a b", "a\n", "\x1b[31m", "é", "a/b"])
def test_other_ids_are_not(bad: str) -> None:
    assert not request_id.is_valid(bad)


def test_drawn_ids_are_valid_and_differ() -> None:
    drawn = {request_id.draw() for _ in range(100)}
    assert len(drawn) == 100
    assert all(request_id.is_valid(one) for one in drawn)
