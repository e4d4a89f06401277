"""The anchors of a source reach from a moment ago to its first record, and stay few."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproof_schemas.source_anchors import SourceAnchor, SourceAnchors
from tests.log_builder import make_log


def anchors_up_to(end: int, start: int = 0) -> SourceAnchors:
    return SourceAnchors(SourceAnchor(offset, f"{offset:064x}", offset) for offset in range(start, end))


@given(st.integers(2, 5_000))
def test_they_are_few_and_their_ages_double(end: int) -> None:
    offsets = [anchor.offset for anchor in anchors_up_to(end)]
    assert len(offsets) <= end.bit_length() + 1
    assert offsets[0] == 0
    assert offsets[-1] == end - 1
    for age in (1 << power for power in range(end.bit_length() - 1)):
        assert any(age <= end - offset <= 2 * age for offset in offsets), (age, offsets)


@given(st.integers(1, 300), st.integers(0, 300), st.integers(2, 5))
def test_a_spread_is_within_bounds_and_has_both_ends(end: int, start: int, count: int) -> None:
    held = [anchor for anchor in anchors_up_to(end) if anchor.offset >= start]
    spread = anchors_up_to(end).spread(start, count)
    assert len(spread) == min(count, len(held))
    assert len(set(spread)) == len(spread)
    assert not held or (spread[0], spread[-1]) == (held[0], held[-1])


@pytest.mark.parametrize("power", [1, 4, 1 << 40])
def test_given_back_they_are_the_same(power: int) -> None:
    anchors = anchors_up_to(100 + power, power)
    assert list(SourceAnchors(anchors)) == list(anchors)


def test_records_without_bytes_leave_none() -> None:
    log = make_log()
    expected = {
        (header.source.offset, header.source.digest, header.append_ms)
        for header in (record.header for _, record in log.records)
        if header.source is not None and header.source.digest is not None
    }
    before = list(log.state.anchors)
    assert before
    assert {tuple(anchor) for anchor in before} <= expected
    log.hole()
    assert list(log.state.anchors) == before
