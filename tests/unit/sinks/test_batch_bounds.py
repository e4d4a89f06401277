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


def test_age_counts_from_its_first_record(log: LogBuilder) -> None:
    batch = Batch(BatchBounds(age_max_s=2.0))
    assert batch.left_s(100.0) is None
    batch.add(*log.records[0], now_s=100.0)
    batch.add(*log.records[1], now_s=101.5)
    assert batch.left_s(101.5) == 0.5
    assert batch.left_s(103.0) == 0.0


def test_taking_empties_it(log: LogBuilder) -> None:
    batch = Batch(BatchBounds(rows_max=3))
    _fill(batch, log)
    assert batch.take() == log.records[:2]
    assert not batch.full
    assert batch.left_s(1e9) is None
    assert batch.take() == []
