from __future__ import annotations

import pytest

from ssjf_bench import live_limits
from ssjf_bench.live_limits import LimitsError


def test_a_full_batch_reserves_the_longest_prompts_each_with_its_limit() -> None:
    assert live_limits.kv_tokens_wanted([10, 500, 20, 300], max_tokens=100, places=2) == 1000
    assert live_limits.kv_tokens_wanted([10], max_tokens=100, places=2) == 210


def test_prompts_that_leave_no_room_for_the_longest_answer_are_refused() -> None:
    live_limits.check_context([10, 924], max_tokens=100, context_tokens=1024)
    with pytest.raises(LimitsError, match=r"1 of 2 requests .* longest prompt has 925"):
        live_limits.check_context([10, 925], max_tokens=100, context_tokens=1024)


def test_a_gateway_that_is_not_there_is_a_line() -> None:
    with pytest.raises(LimitsError, match=r"gateway 127.0.0.1:1: UNAVAILABLE"):
        live_limits.served("127.0.0.1:1")
