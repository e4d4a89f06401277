"""Merges of a folder stand back for its writes and queries."""

import os
import sys
from pathlib import Path

import pytest

from meterproof_sinks.clickhouse_opening import ClickHouseOpening
from meterproof_sinks.clickhouse_settings import ClickHouseSettings
from meterproof_sinks.merge_priority import MERGES_NICE, merge_threads


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux only")
async def test_a_worker_lets_merges_wait(tmp_path: Path) -> None:
    opening = ClickHouseOpening(ClickHouseSettings(), tmp_path)
    await opening.reach()
    try:
        threads = merge_threads()
        assert threads
        assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {MERGES_NICE}
        assert os.getpriority(os.PRIO_PROCESS, os.getpid()) < MERGES_NICE
    finally:
        opening.close()
