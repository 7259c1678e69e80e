from __future__ import annotations

from engine_svc.prefix import block_names


def names(tokens: list[int], salt: str = "") -> list[bytes]:
    return list(block_names(tokens, 4, salt))


def test_only_full_blocks_have_names() -> None:
    assert [len(names(list(range(n)))) for n in (0, 3, 4, 11)] == [0, 0, 1, 2]


def test_equal_beginnings_have_equal_names_up_to_where_they_differ() -> None:
    one, other = names([1, 2, 3, 4, 5, 6, 7, 8]), names([1, 2, 3, 4, 5, 6, 7, 9])
    assert one[0] == other[0]
    assert one[1] != other[1]


def test_a_name_depends_on_all_that_is_before_its_block() -> None:
    assert names([1, 2, 3, 4, 5, 6, 7, 8])[1] != names([0, 2, 3, 4, 5, 6, 7, 8])[1]


def test_another_salt_gives_other_names() -> None:
    tokens = list(range(12))
    assert not set(names(tokens, "one")) & set(names(tokens, "two"))


def test_token_ids_are_told_apart_beyond_a_byte() -> None:
    assert names([1, 0, 0, 0]) != names([256, 0, 0, 0]) != names([65_536, 0, 0, 0])
