"""The native table of identities does what its definition does, whatever comes and goes."""

import random
import sys
from collections.abc import Sequence
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproof_schemas import identity_table, python_identity_table
from tests.native_part import native_part

SEED = b"0123456789abcdef"


def native() -> ModuleType:
    return native_part("meterproof_schemas._identity_table")


@pytest.fixture(params=["python", "native"])
def tables(request: pytest.FixtureRequest) -> ModuleType:
    return python_identity_table if request.param == "python" else native()


def identities(numbers: Sequence[int]) -> bytes:
    return b"".join([number.to_bytes(16) for number in numbers])


def entries(numbers: Sequence[int]) -> bytes:
    return b"".join([number.to_bytes(32) for number in numbers])


def test_what_is_used_is_native_where_it_can_be() -> None:
    assert identity_table.IdentityTable is native().IdentityTable


def test_repeats_are_what_is_held_and_what_came_before_with_the_same_entry(tables: ModuleType) -> None:
    table = tables.IdentityTable(SEED)
    assert table.repeats(b"", b"") == []
    assert table.repeats(identities([1, 2, 1, 3, 2, 1]), entries([5, 6, 5, 7, 6, 5])) == [2, 4, 5]
    assert table.repeats(identities([1, 2, 1]), entries([5, 6, 7])) is None
    table.add(identities([1, 2]), entries([5, 6]))
    assert table.repeats(identities([3, 1, 4]), entries([9, 5, 9])) == [1]
    assert table.repeats(identities([3, 1, 4]), entries([9, 6, 9])) is None
    assert [table.get(identities([number])) for number in range(4)] == [None, entries([5]), entries([6]), None]
    assert table.held() == (identities([1, 2]), entries([5, 6]))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 500)), max_size=8), st.binary(min_size=16, max_size=16))
def test_both_hold_the_same_whatever_comes_and_goes(steps: list[tuple[int, int]], seed: bytes) -> None:
    """So many come, then so many of the oldest go, past several sizes of what is kept."""
    tables = [module.IdentityTable(seed) for module in (python_identity_table, native())]
    next_number = oldest = 0
    for come, leave in steps:
        numbers = range(next_number, next_number + come)
        next_number += come
        go = min(leave, next_number - oldest)
        oldest += go
        for table in tables:
            table.add(identities(numbers), entries(numbers))
            table.forget(go)
            assert len(table) == next_number - oldest
        assert (
            tables[0].held()
            == tables[1].held()
            == (
                identities(range(oldest, next_number)),
                entries(range(oldest, next_number)),
            )
        )
        asked = [*range(max(0, oldest - 40), next_number + 40), *range(oldest, oldest + 20)]
        found = [table.repeats(identities(asked), entries(asked)) for table in tables]
        assert found[0] == found[1]
        assert len(found[0]) >= next_number - oldest
        assert all(
            table.get(identities([number])) == (entries([number]) if oldest <= number < next_number else None)
            for table in tables
            for number in asked
        )
        wrong = entries(asked[:-1]) + entries([next_number + 1_000])
        assert tables[0].repeats(identities(asked), wrong) == tables[1].repeats(identities(asked), wrong)


def test_many_identities_come_and_go_for_long() -> None:
    """A window of them moves on, so that the ring turns and everything is forgotten once."""
    table, drawn, window = native().IdentityTable(SEED), random.Random(1), 3_000
    made = [drawn.randbytes(16) for _ in range(30_000)]
    for begin in range(0, len(made), 100):
        new = made[begin : begin + 100]
        assert table.repeats(b"".join(new), b"".join([one * 2 for one in new])) == []
        table.add(b"".join(new), b"".join([one * 2 for one in new]))
        if begin >= window:
            table.forget(100)
            assert table.get(made[begin - window]) is None
        assert table.get(made[max(0, begin - window + 100)]) == made[max(0, begin - window + 100)] * 2
    assert len(table) == window
    assert table.held()[0] == b"".join(made[-window:])


def test_halves_and_too_many_are_errors_after_which_nothing_changed(tables: ModuleType) -> None:
    table = tables.IdentityTable(SEED)
    table.add(identities([1]), entries([1]))
    for wrong in ((bytes(15), bytes(32)), (bytes(16), bytes(31)), (bytes(32), bytes(32)), (b"", bytes(32))):
        for ask in (table.add, table.repeats):
            with pytest.raises(ValueError, match="an entry"):
                ask(*wrong)
    for count in (-1, 2):
        with pytest.raises(ValueError, match="cannot be forgotten of 1"):
            table.forget(count)
    assert table.get(b"") is None
    assert table.held() == (identities([1]), entries([1]))
    for seed in (b"", SEED[1:], SEED + b"0"):
        with pytest.raises(ValueError, match="a seed of 16 bytes"):
            tables.IdentityTable(seed)


def test_in_c_wrong_types_are_errors_and_nothing_is_kept() -> None:
    table, one, two = native().IdentityTable(SEED), identities([1, 2]), entries([1, 1])
    before = sys.getrefcount(one), sys.getrefcount(two)
    for wrong in ((), (one,), (one, None), (bytearray(one), two), (one.decode(), two), (one, two, two)):
        for ask in (table.add, table.repeats):
            with pytest.raises(TypeError):
                ask(*wrong)
    for wrong_one in (None, "1", 5):
        with pytest.raises(TypeError):
            table.get(wrong_one)
    with pytest.raises(TypeError):
        table.forget("1")
    table.add(one, two)
    with pytest.raises(ValueError, match="once"):
        table.__init__(SEED)
    for _ in range(10):
        table.repeats(one, two)
        table.get(one[:16])
    del wrong
    assert (sys.getrefcount(one), sys.getrefcount(two)) == before
    with pytest.raises(ValueError, match="so many lines"):
        table.repeats(bytes(16 * 65_535), bytes(32 * 65_535))
