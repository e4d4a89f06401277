"""The broker's clock jumps by days, forwards and backwards: segments end, nothing is lost, and no age is negative."""

from pathlib import Path

import pytest

from meterproof_sinks.audit_folder import records, segments_of
from meterproof_sinks.segment_writer import SegmentLimits
from tests.log_builder import LogBuilder
from tests.unit.sinks.test_audit_log import write

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@pytest.mark.parametrize(
    ("jumps_ms", "segments"),
    [
        ([0, DAY_MS, 0, 0], 2),
        ([0, -DAY_MS, 0, 0], 1),
        ([0, DAY_MS, -DAY_MS, 0, 2 * DAY_MS, 0], 3),
        ([0, -400 * DAY_MS, 400 * DAY_MS + HOUR_MS, 0], 2),
    ],
)
def test_segments_of_a_log_whose_clock_jumps(jumps_ms: list[int], segments: int, tmp_path: Path) -> None:
    """Their age is the ingest clock's, which stands still while the broker's is behind it."""
    limits = SegmentLimits(bytes_max=1 << 30, age_ms=HOUR_MS)
    log = LogBuilder()
    for after_ms in jumps_ms:
        log.batch(2, after_ms=after_ms)
        write(tmp_path / "in many", log, limits=limits)
    write(tmp_path / "in one", log, limits=limits)
    for folder in (tmp_path / "in many", tmp_path / "in one"):
        assert len(segments_of(folder)) == segments
        assert [(offset, record.value) for offset, record in records(folder)] == [
            (offset, record.value) for offset, record in log.records
        ]
