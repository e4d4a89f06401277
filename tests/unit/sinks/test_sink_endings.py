"""How a sink's process ends by an error that is expected: one line, no traceback, an exit code that tells the truth."""

import subprocess
import sys
from pathlib import Path

import pytest

from meterproof.exit_codes import TRY_AGAIN, UNEXPECTED
from meterproof_sinks.audit_errors import AuditDiskError
from meterproof_sinks.audit_process import require_writable
from meterproof_sinks.disk import Disk

_WORKER = """
import asyncio, sys
from contextlib import asynccontextmanager
from pathlib import Path
from meterproof.kafka.errors import BrokerUnreachable
from meterproof_schemas.errors import InvalidRegistry
from meterproof_sinks.audit_errors import AuditDiskError, LockedAudit
from meterproof_sinks.clickhouse import ClickHouseError, ClickHouseUnavailable
from meterproof_sinks.clickhouse_sink import TwoLogs, UnknownPriceBook
from meterproof_sinks.sink_process import run_process

@asynccontextmanager
async def opened():
    async def work(status, stop):
        raise eval(sys.argv[2])
    yield work

sys.exit(run_process(opened, name="test", data=Path(sys.argv[1])))
"""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("LockedAudit('stop the other')", TRY_AGAIN),
        ("AuditDiskError('free the disk')", UNEXPECTED),
        ("ClickHouseError('Code: 60. UNKNOWN_TABLE')", UNEXPECTED),
        ("ClickHouseUnavailable('nobody answers')", TRY_AGAIN),
        ("InvalidRegistry('budget 1: limit')", UNEXPECTED),
        ("TwoLogs('of partition 0')", UNEXPECTED),
        ("UnknownPriceBook('publish it again')", TRY_AGAIN),
        ("BrokerUnreachable('kafka:9092', 'silence')", TRY_AGAIN),
    ],
)
def test_an_expected_error_is_one_line_and_the_fitting_exit_code(error: str, code: int, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _WORKER, str(tmp_path), error], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == code, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert error.partition("(")[0] in line
    assert "Traceback" not in line


def test_what_nobody_expected_is_told_with_its_place(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _WORKER, str(tmp_path), "KeyError('partition')"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == UNEXPECTED
    assert "Traceback" in ended.stderr


def test_an_audit_folder_that_cannot_be_made_is_told_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "audit"):
        with pytest.raises(AuditDiskError, match="--folder"):
            require_writable(folder, Disk())
    require_writable(tmp_path / "new" / "audit", Disk())
    assert (tmp_path / "new" / "audit").is_dir()
