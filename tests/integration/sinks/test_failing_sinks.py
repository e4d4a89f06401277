"""One sink that fails, whichever way, delays no other."""

import asyncio
from pathlib import Path

import pytest

from meterproof.kafka.settings import KafkaSettings
from meterproof.status import StatusFile
from meterproof_schemas.chain import Cursor
from meterproof_schemas.log_record import Genesis, LogRecord
from meterproof_sinks.audit_sink import AuditSink
from meterproof_sinks.sink import Density, SinkUnavailable
from meterproof_sinks.worker import run_sink
from tests.integration.sinks.test_sink_health import BOUNDS, kafka, wait_until

__all__ = ["kafka"]

pytestmark = pytest.mark.broker

_LAST_OFFSET = 4
"""Of the log that the fixture makes."""


class _Failing:
    """Fails at its first write."""

    name = "failing"

    def __init__(self, how: str) -> None:
        self.how = how
        self.failed = asyncio.Event()

    async def cursor(self, log: int) -> Cursor | None:
        return None

    async def write(self, partition: int, genesis: Genesis, records: list[tuple[int, LogRecord]]) -> None:
        self.failed.set()
        if self.how == "is away":
            raise SinkUnavailable("no answer")
        if self.how == "ends":
            raise OSError("no such device")
        await asyncio.Event().wait()

    async def density(self, partition: int) -> Density | None:
        return None

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("how", ["hangs", "is away", "ends"])
async def test_a_sink_that_fails_keeps_no_other_from_carrying_the_log(
    kafka: KafkaSettings, tmp_path: Path, how: str
) -> None:
    failing, audit = _Failing(how), AuditSink(tmp_path / "audit")
    stop_failing, stop = asyncio.Event(), asyncio.Event()
    status = StatusFile(tmp_path, failing.name)
    failed = asyncio.create_task(run_sink(failing, kafka, status=status, stop=stop_failing, bounds=BOUNDS))
    if how == "ends":
        with pytest.raises(OSError, match="no such device"):
            await failed
    else:
        await wait_until(failing.failed.is_set, failed)
    carried = asyncio.create_task(
        run_sink(audit, kafka, status=StatusFile(tmp_path, audit.name), stop=stop, bounds=BOUNDS)
    )
    try:
        await wait_until(lambda: _carried(audit) == [_LAST_OFFSET], carried)
        assert failed.done() == (how == "ends")
    finally:
        stop_failing.set()
        stop.set()
        failed.cancel()
        await asyncio.gather(failed, carried, return_exceptions=True)
        await audit.close()


def _carried(audit: AuditSink) -> list[int]:
    """The last log offset of each log that is durable."""
    return [log.cursor.log_offset for log in audit.logs().values() if log.cursor is not None]
