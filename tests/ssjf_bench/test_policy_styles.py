from __future__ import annotations

from gateway_svc.scheduling import policy
from ssjf_bench.policy_styles import STYLES, styles


def test_every_policy_has_a_look_of_its_own() -> None:
    names = set(policy.names())
    assert names <= STYLES.keys()
    looks = [STYLES[name] for name in names]
    for part in ("colour", "line", "marker"):
        assert len({getattr(look, part) for look in looks}) == len(looks), part


def test_policies_come_in_the_order_of_legends_and_others_after_them() -> None:
    assert list(styles(["oracle", "mine", "ssjf", "fcfs"])) == ["fcfs", "ssjf", "oracle", "mine"]


def test_a_second_setting_of_a_policy_looks_different() -> None:
    found = styles(["tail-ssjf tail 1.1", "tail-ssjf", "tail-ssjf tail 2.0"])
    assert found["tail-ssjf"] == STYLES["tail-ssjf"]
    assert len(set(found.values())) == 3


def test_one_setting_alone_looks_like_its_policy() -> None:
    assert styles(["bounded-ssjf alpha 1.6"]) == {"bounded-ssjf alpha 1.6": STYLES["bounded-ssjf"]}
