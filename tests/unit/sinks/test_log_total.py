"""What the total of a log says of it."""

import pytest

from meterproof_sinks.log_total import LogTotal, _hash, fits


def _steps(positions: list[int]) -> int:
    """As the engine adds them up: signed, modulo 2**64."""
    total = sum(_hash(position + 1) - _hash(position) for position in positions) % 2**64
    return total - 2**64 if total >= 2**63 else total


@pytest.mark.parametrize(
    ("number", "hashed"),
    [(0, 4761183170873013810), (1, 10577349846663553072), (10_000_000, 6295453085814556199)],
)
def test_the_hash_is_the_engine_s(number: int, hashed: int) -> None:
    assert _hash(number) == hashed


@pytest.mark.parametrize(
    ("positions", "dense"),
    [
        ([0], True),
        ([0, 1, 2, 3], True),
        ([3, 1, 0, 2], True),
        ([1, 2, 3], False),
        ([0, 1, 1, 3], False),
        ([0, 0, 3, 3], False),  # 1 and 2 are missing: count and sum are right
        ([0, 0, 3, 4, 4, 5, 5, 7], False),  # 1, 2 and 6 are missing: count, sum and sum of squares are right
        ([*range(2**10), 2**40], False),
    ],
)
def test_what_is_missing_and_repeated_does_not_balance(positions: list[int], dense: bool) -> None:
    assert fits(len(positions), _steps(positions)) is dense


def test_rows_more_and_fewer_than_positions_are_told() -> None:
    assert LogTotal(5, 3, dense=False).surplus_rows == 1
    assert LogTotal(3, 3, dense=False).surplus_rows == -1
    assert LogTotal(4, 3, dense=True).surplus_rows == 0
