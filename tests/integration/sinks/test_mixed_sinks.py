"""Sinks of earlier builds before, beside and after those of this one, over the same rows and the same audit folder."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from meterproof.exit_codes import CLEAN, STOPPED
from meterproof_local.broker import LocalBroker
from meterproof_sinks.audit_folder import log_folder_name
from meterproof_sinks.migrate import all_migrations, migrate
from meterproof_sinks.verification import verify_folder
from meterproof_sinks.verification_report import LogReport
from tests.integration.sinks.clickhouse_folder import RECONCILIATION, assert_adds_up, one
from tests.integration.sinks.clickhouse_server import served
from tests.integration.sinks.test_audit_worker import Deployed as DeployedLog
from tests.integration.sinks.test_audit_worker import deployed as deployed  # noqa: PLC0414 - the fixture
from tests.integration.sinks.test_audit_worker import run_until_covered
from tests.integration.sinks.test_clickhouse_worker import Deployed, wait_until
from tests.integration.stream.earlier_build import lay_out
from tests.meterproof_command import PROGRAM

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.slow]

PATIENCE_S = 240.0
LATE = "442f58e"
"""With migrations up to 14."""
BY_AGENT = "129ba31^"
"""The last that kept rows in the order of agents."""
UNSEALED = "d2cdd41"
"""From before segments were sealed."""


async def test_clickhouse_sinks_of_two_builds_write_the_same_rows(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path
) -> None:
    """Tables are migrated under the earlier one, and both carry the log at the same time."""
    earlier, too_early = lay_out(LATE, tmp_path / "late"), lay_out(BY_AGENT, tmp_path / "by_agent")
    here = await Deployed.create(broker.bootstrap, topic_prefix, tmp_path / "here", partitions=1)
    there = Deployed(here.settings, here.logs, tmp_path / "there")
    (log,) = here.logs

    async def grow() -> None:
        log.grow(6)
        await here.send()

    async def carried(*sinks: Deployed) -> None:
        await grow()
        for sink in sinks:
            wait_until(sink.is_carried, sink)
        assert_adds_up(server.engine, log)

    with served(tmp_path / "server") as server:
        migrate(server.engine, all_migrations()[:14])
        arguments = ("--url", server.url, "--rollup-interval-s", "1", "--batch-age-s", "0.05")
        with there.sink(*arguments, environment=earlier):
            await carried(there)
            migrate(server.engine)
            await carried(there)
            with here.sink(*arguments) as sink:
                for _ in range(2):
                    await carried(here, there)
                sink.kill()
            await carried(there)
        await grow()
        with there.sink(*arguments, environment=too_early) as sink:
            assert sink.wait(PATIENCE_S) != CLEAN
            assert "UNKNOWN_TABLE" in there.words()
        with here.sink(*arguments) as sink:
            await carried(here)
            sink.send_signal(signal.SIGTERM)
            assert sink.wait(PATIENCE_S) == CLEAN, here.words()
        server.engine.command("OPTIMIZE TABLE usage_rows FINAL")  # what both have written is there twice until then
        assert server.engine.rows(RECONCILIATION) == []
        assert server.engine.rows("SELECT dense FROM density") == [(1,)]
        for grain in ("minute", "hour", "day"):
            assert one(server.engine, f"SELECT sum(events) FROM usage_by_{grain}") == log.state.position


async def test_audit_sinks_of_three_builds_write_one_folder(deployed: DeployedLog, tmp_path: Path) -> None:
    """One that does not know sealed segments refuses to go on behind them, and changes nothing."""
    log, audit, data = deployed.log, tmp_path / "audit", tmp_path / "data"
    (data / "keys").mkdir(parents=True)
    (data / "keys" / "log.vkey").write_text(f"{deployed.signer.verifier.vkey}\n")
    note = audit / log_folder_name(log.origin) / "tlog" / "checkpoint"
    unsealed, late = lay_out(UNSEALED, tmp_path / "unsealed"), lay_out(LATE, tmp_path / "late")

    async def run(environment: dict[str, str], *, code: int) -> None:
        """The worker of another build, until the folder is published up to the log's end, or it ends by itself."""
        command = [*PROGRAM, "sink", "audit", "run", f"--data={data}", f"--folder={audit}"]
        command += [f"--prefix={deployed.settings.topic_prefix}", f"--bootstrap={deployed.settings.bootstrap}"]
        process = await asyncio.create_subprocess_exec(*command, env=os.environ | environment)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while process.returncode is None and not (  # noqa: ASYNC110 - another process's file
                    note.is_file() and note.read_text().splitlines()[1] == str(log.state.position)
                ):
                    await asyncio.sleep(0.05)
                if process.returncode is None:
                    process.terminate()
                assert await process.wait() == code
        finally:
            if process.returncode is None:
                process.kill()

    def verified() -> LogReport:
        report = verify_folder(audit, [deployed.signer.verifier])
        assert report.holds, report.all_faults
        return report.logs[0]

    for environment in (unsealed, None, late, None):
        log.batch(50)
        log.batch(3, after_ms=25 * 3_600_000)
        await deployed.send()
        if environment is None:
            await run_until_covered(deployed, audit, log.state.position)
        else:
            await run(environment, code=CLEAN)
        assert verified().covered == log.state.position
    before = verified()
    assert before.sealed > 0
    log.batch(1)
    await deployed.send()
    await run(unsealed, code=STOPPED)
    assert verified().events == before.events
