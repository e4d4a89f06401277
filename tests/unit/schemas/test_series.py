"""Series: repeats repeat, forks show, gaps are reported until they are filled."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproof_schemas.batch import BatchHeader
from meterproof_schemas.series import SeriesIndex

HORIZON_MS = 1_000


def header(sequence: int, *, root: str = "a", producer: str = "gateway", instance: str = "0") -> BatchHeader:
    return BatchHeader(
        v=1,
        audience="test",
        topic="usage.batches",
        partition=0,
        producer=producer,
        instance=instance * 32,
        sequence=sequence,
        previous="0" * 64 if sequence else None,
        count=1,
        root=root * 64,
        sent_at="2026-01-01T00:00:00.000Z",
    )


KEY = ("gateway", "0" * 32)


def series_of(*sequences: int) -> SeriesIndex:
    series = SeriesIndex(HORIZON_MS)
    for sequence in sequences:
        series.add(header(sequence), 0)
    return series


@pytest.mark.parametrize(
    ("sequences", "missing"),
    [
        ((0, 1, 2), []),
        ((0, 2), [1]),
        ((0, 2, 1), []),
        ((0, 5, 2), [1, 3, 4]),
        ((0, 5, 4, 3, 2, 1), []),
        ((0, 0, 1, 1), []),
        ((3,), [2]),
        ((3, 4), [2]),
        ((3, 2), []),
        ((3, 5), [2, 4]),
        ((1, 0), []),
        ((0, 1, 0), []),
    ],
)
def test_gaps_are_missing_until_filled(sequences: tuple[int, ...], missing: list[int]) -> None:
    assert series_of(*sequences).gaps() == ({KEY: missing} if missing else {})


@given(st.permutations(range(12)))
def test_once_all_came_nothing_is_missing_in_whatever_order(sequences: list[int]) -> None:
    series = series_of(*sequences)
    assert series.gaps() == {}
    assert len(series.roots()) == 12


@given(st.lists(st.integers(0, 30), min_size=1))
def test_what_is_missing_was_never_added_and_lies_below_the_highest(sequences: list[int]) -> None:
    series = series_of(*sequences)
    missing = set(series.gaps().get(KEY, []))
    assert not missing & set(sequences)
    expected = set(range(min(sequences), max(sequences))) - set(sequences)
    # Below the first number that came, only its direct neighbour is known to be missing.
    assert missing >= {number for number in expected if number > sequences[0]}
    assert missing <= expected | {sequences[0] - 1}


def test_a_huge_gap_does_not_fill_memory() -> None:
    assert len(series_of(0, 2**62).gaps()[KEY]) == 1_000


def test_fork_is_another_root_under_one_number_of_one_series() -> None:
    series = series_of(0, 1)
    assert not series.forks(header(1))
    assert series.forks(header(1, root="b"))
    assert not series.forks(header(2, root="b"))
    assert not series.forks(header(1, root="b", instance="1"))
    assert not series.forks(header(1, root="b", producer="other"))


def test_the_first_root_stands() -> None:
    series = series_of(0)
    series.add(header(0, root="b"), 0)
    assert series.forks(header(0, root="b"))


def test_series_are_kept_for_the_horizon() -> None:
    series = SeriesIndex(HORIZON_MS)
    series.add(header(0), 0)
    series.add(header(2), 500)
    series.evict(HORIZON_MS)
    assert series.forks(header(0, root="b"))
    series.evict(HORIZON_MS + 1)
    assert not series.forks(header(0, root="b"))
    assert series.forks(header(2, root="b"))
    assert series.gaps() == {KEY: [1]}
    series.evict(500 + HORIZON_MS + 1)
    assert (series.roots(), series.gaps()) == ({}, {})


def test_a_series_that_began_before_a_trimmed_log_has_no_gap_before_its_first_number() -> None:
    series = SeriesIndex(HORIZON_MS, begun=True)
    for sequence in (7, 9):
        series.add(header(sequence), 0)
    assert series.gaps() == {KEY: [8]}
    series.add(header(8), 0)
    assert series.gaps() == {}
    assert series.forks(header(7, root="b"))
