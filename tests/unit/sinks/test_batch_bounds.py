"""A batch ends at the first bound that it reaches, and only between log records."""

import pytest

from meterproof_sinks.batch_bounds import Batch, BatchBounds
from tests.log_builder import LogBuilder


@pytest.fixture(scope="module")
def log() -> LogBuilder:
    made = LogBuilder()
    for _ in range(6):
        made.batch(3)
    return made


def _fill(batch: Batch, log: LogBuilder) -> int:
    for number, (offset, record) in enumerate(log.records):
        if batch.full:
            return number
        batch.add(offset, record, now_s=5.0)
    return len(log.records)


def test_rows_bound_it(log: LogBuilder) -> None:
    assert _fill(Batch(BatchBounds(rows_max=4)), log) == 3, "the genesis, and two records of three events"


def test_bytes_bound_it(log: LogBuilder) -> None:
    size = len(log.records[0][1].value)
    assert _fill(Batch(BatchBounds(bytes_max=size)), log) == 1
    assert _fill(Batch(BatchBounds(bytes_max=size + 1)), log) == 2


def test_records_bound_it(log: LogBuilder) -> None:
    assert _fill(Batch(BatchBounds(records_max=5)), log) == 5


def test_it_ends_with_the_multiple_of_its_age_that_follows_its_first_record(log: LogBuilder) -> None:
    for first_s in (100.0, 101.5):
        batch = Batch(BatchBounds(age_max_s=2.0))
        assert batch.left_s(first_s) is None
        batch.add(*log.records[0], now_s=first_s)
        batch.add(*log.records[1], now_s=101.5)
        assert batch.left_s(101.5) == 0.5, "those of several logs end together"
        assert batch.left_s(103.0) == 0.0
    late = Batch(BatchBounds(age_max_s=2.0))
    late.add(*log.records[0], now_s=102.0)
    assert late.left_s(102.0) == 2.0


@pytest.mark.parametrize("jump_s", [86_400.0, -86_400.0])
def test_a_clock_that_jumps_ends_it_at_once(jump_s: float, log: LogBuilder) -> None:
    batch = Batch(BatchBounds(age_max_s=2.0))
    batch.add(*log.records[0], now_s=100_000.0)
    assert batch.left_s(100_000.0 + jump_s) == 0.0
    assert batch.take() == log.records[:1]
    batch.add(*log.records[1], now_s=100_000.0 + jump_s)
    assert batch.left_s(100_000.0 + jump_s) == 2.0


def test_logs_share_what_all_may_gather() -> None:
    bounds = BatchBounds(rows_max=100_000, bytes_max=1 << 26, together=True)
    assert [bounds.share_of(logs).rows_max for logs in (1, 4, 64)] == [100_000, 25_000, 10_000]
    assert [bounds.share_of(logs).bytes_max >> 20 for logs in (1, 4, 64)] == [64, 16, 8]
    assert BatchBounds(rows_max=50, together=True).share_of(4).rows_max == 50
    assert BatchBounds(rows_max=100_000).share_of(4).rows_max == 100_000


def test_taking_empties_it(log: LogBuilder) -> None:
    batch = Batch(BatchBounds(rows_max=3))
    _fill(batch, log)
    assert batch.take() == log.records[:2]
    assert not batch.full
    assert batch.left_s(1e9) is None
    assert batch.take() == []
