"""What the total of a log says of it."""

import pytest

from meterproof_sinks.log_total import LogTotal


@pytest.mark.parametrize(
    ("positions", "dense", "surplus_rows"),
    [
        ([0], True, 0),
        ([0, 1, 2, 3], True, 0),
        ([1, 2, 3], False, -1),
        ([0, 1, 1, 2, 3], False, 1),
        ([0, 1, 1, 3], False, 0),
    ],
)
def test_a_gap_and_a_repeat_are_seen_and_told(positions: list[int], dense: bool, surplus_rows: int) -> None:
    total = LogTotal(len(positions), max(positions), sum(positions))
    assert (total.dense, total.surplus_rows) == (dense, surplus_rows)


def test_a_sum_that_wraps_round_in_the_engine_is_compared_as_such() -> None:
    positions = 2**33
    expected_sum = positions * (positions - 1) // 2
    assert expected_sum > 2**64
    assert LogTotal(positions, positions - 1, expected_sum % 2**64).dense
    assert not LogTotal(positions, positions - 1, (expected_sum + 1) % 2**64).dense
