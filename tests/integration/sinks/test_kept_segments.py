"""ClickHouse beside an audit folder of sealed segments: made again from them; what was given up is told as such."""

import shutil
from pathlib import Path

import pytest

from meterproof_sinks.audit_folder import log_folder_name
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.audit_retention import RetentionRequest
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.rebuilding import NotTheSame, given_books, rebuild
from meterproof_sinks.reconciliation import reconcile
from meterproof_sinks.reconciliation_report import Reconciliation
from meterproof_sinks.segment_manifest import read_manifests
from meterproof_sinks.segment_writer import SegmentLimits
from tests.audit_upkeep import give_up_all
from tests.integration.sinks.clickhouse_folder import assert_holds_exactly, one, opened
from tests.log_builder import signed_pair
from tests.rated_log import BOOKS, RatedLog

pytestmark = pytest.mark.clickhouse


async def compared(clickhouse: ClickHouse, audit: Path) -> Reconciliation:
    found = await reconcile(clickhouse, audit, None, given_books=BOOKS)
    assert found.differences == []
    return found


async def test_rows_are_made_again_from_sealed_segments_and_not_from_given_up_ones(tmp_path: Path) -> None:
    log = RatedLog(seed=91)
    log.grow(12)
    audit = tmp_path / "audit"
    folder = audit / log_folder_name(log.origin)
    writer = AuditLog(folder, log.origin, 0, limits=SegmentLimits(bytes_max=20_000))
    writer.append(log.records)
    writer.take_checkpoints(signed_pair(log))
    while writer.seal_next():
        pass
    writer.close()
    manifests = read_manifests(folder)
    assert len(manifests) > 2
    with opened(tmp_path / "clickhouse") as clickhouse:
        await rebuild(clickhouse, audit, given_books(BOOKS))
        assert_holds_exactly(clickhouse, log)
        assert (await compared(clickhouse, audit)).compared["audit"] == log.state.position

        give_up_all(audit, RetentionRequest(manifests[0].end.clock_ms + 1, "ops", "policy", 0), ())
        found = await compared(clickhouse, audit)
        assert "audit" not in found.compared
        assert not found.holds, "the rows were compared with nothing"
        assert any(f"below {manifests[0].end.size} were given up" in told for told in found.skipped)
        # The rows that are there are of this log, and nothing is missing behind them
        again = await rebuild(clickhouse, audit, given_books(BOOKS))
        assert again.events == {log.origin: 0}
        assert one(clickhouse, "SELECT dense FROM density") == 1
    shutil.rmtree(tmp_path / "clickhouse")
    with opened(tmp_path / "clickhouse") as clickhouse:
        with pytest.raises(NotTheSame, match="were given up"):
            await rebuild(clickhouse, audit, given_books(BOOKS))
        assert one(clickhouse, "SELECT count() FROM usage") == 0
