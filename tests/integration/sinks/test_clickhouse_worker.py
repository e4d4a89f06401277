"""`meterproof sink clickhouse` and `meterproof query` as processes, on a real broker and a real folder."""

import asyncio
import csv
import io
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meterproof.kafka.price_books import publish_price_book
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import Deployment, create_topics
from meterproof.status import read_status
from meterproof_local.broker import LocalBroker
from meterproof_schemas.event import parse_event
from meterproof_schemas.topics import Topic
from meterproof_sinks.migrate import migrate
from tests.builders import DEPLOYMENT
from tests.integration.sinks.clickhouse_folder import assert_holds_exactly, migrated, one, opened
from tests.integration.sinks.clickhouse_server import PASSWORD, served
from tests.meterproof_command import PROGRAM, run_meterproof
from tests.rated_log import BOOKS, RatedLog, costs

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse]

_PATIENCE_S = 240.0


class Deployed:
    """A deployment's topics on the shared broker, the logs that stand on them, and commands over its data folder."""

    def __init__(self, settings: KafkaSettings, logs: list[RatedLog], data: Path) -> None:
        self.settings, self.logs, self.data = settings, logs, data
        self._sent = [1] * len(logs)

    @classmethod
    async def create(cls, bootstrap: str, prefix: str, data: Path, partitions: int = 2) -> "Deployed":
        settings = KafkaSettings(bootstrap=bootstrap, topic_prefix=prefix)
        await create_topics(
            settings,
            Deployment("meter.example.com/test", DEPLOYMENT, partitions),
            now_ms=1_767_225_600_000,
            random_bytes=os.urandom,
        )
        for book in BOOKS.values():
            await publish_price_book(settings, book)
        logs = []
        for partition in range(partitions):
            async with PartitionReader(settings, settings.topic(Topic.LOG), partition) as reader:
                genesis = await reader.at(0)
            assert genesis is not None
            logs.append(
                RatedLog(partition=partition, partitions=partitions, genesis_value=genesis.value, seed=30 + partition)
            )
        return cls(settings, logs, data)

    async def send(self) -> None:
        """Send what the logs grew by, and an echo behind it."""
        topic = self.settings.topic(Topic.LOG)
        async with RecordProducer(self.settings) as producer:
            for log in self.logs:
                for offset, record in log.records[self._sent[log.partition] :]:
                    delivery = await (await producer.send(topic, log.partition, record.value))
                    assert delivery.offset == offset
                self._sent[log.partition] = len(log.records)
                await (await producer.send(topic, log.partition, log.records[0][1].value))
                log.log_offset += 1

    @contextmanager
    def sink(self, *arguments: str, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """`meterproof sink clickhouse run` as long as the block; killed at its end if it still runs."""
        command = [*PROGRAM, "sink", "clickhouse", "run", "--data", str(self.data), "--prefix"]
        command += [self.settings.topic_prefix, "--bootstrap", self.settings.bootstrap, *arguments]
        self.data.mkdir(exist_ok=True)
        with (
            (self.data / "stderr.log").open("ab") as stderr,
            subprocess.Popen(command, stderr=stderr, env=os.environ | (environment or {})) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    def query(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_meterproof("query", *arguments, data=self.data)

    def status(self) -> dict[str, Any]:
        return read_status(self.data / "status", "clickhouse") or {"partitions": {}}

    def is_carried(self) -> bool:
        parts = self.status()["partitions"]
        return all(parts.get(str(log.partition), {}).get("log_offset") == log.records[-1][0] for log in self.logs)

    def words(self) -> str:
        return (self.data / "stderr.log").read_text("utf-8")


def wait_until(condition: Callable[[], bool], deployed: Deployed) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"{deployed.status()}\n{deployed.words()}"
        time.sleep(0.05)


@pytest.fixture
async def deployed(broker: LocalBroker, topic_prefix: str, tmp_path: Path) -> Deployed:
    """With the tables there: what a worker makes of an empty folder is for the first test."""
    migrated(tmp_path / "data" / "clickhouse")
    return await Deployed.create(broker.bootstrap, topic_prefix, tmp_path / "data")


async def test_a_worker_carries_the_log_and_answers_queries_about_it(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path
) -> None:
    deployed = await Deployed.create(broker.bootstrap, topic_prefix, tmp_path / "data")
    for log in deployed.logs:
        log.grow(10)
    await deployed.send()
    spend = sum((sum(costs(log.records), Decimal(0)) for log in deployed.logs), Decimal(0))
    size = sum(log.state.position for log in deployed.logs)
    sql = "SELECT count() AS events, sum(cost) AS spend, any(currency = 'x') AS \"a, b\" FROM usage"
    rolled_up = "SELECT sum(events) AS events FROM usage_by_hour"
    with deployed.sink("--rollup-interval-s", "1") as process:
        wait_until(deployed.is_carried, deployed)
        expected = json.dumps({"events": size}, separators=(",", ":"))
        wait_until(lambda: deployed.query(rolled_up, "--format", "json").stdout.strip() == expected, deployed)
        assert (deployed.data / "clickhouse" / "endpoint.json").exists()
        answers = {form: deployed.query(sql, "--format", form) for form in ("json", "csv", "table")}
        wait_until(lambda: all(part["dense"] is True for part in deployed.status()["partitions"].values()), deployed)
        assert {part["surplus_rows"] for part in deployed.status()["partitions"].values()} == {0}
        for log in deployed.logs:  # live: what is sent while it runs arrives
            log.grow(3)
        await deployed.send()
        wait_until(deployed.is_carried, deployed)
        process.send_signal(signal.SIGTERM)
        assert process.wait(_PATIENCE_S) == 0, deployed.words()
    assert {form: answer.returncode for form, answer in answers.items()} == {"json": 0, "csv": 0, "table": 0}
    assert json.loads(answers["json"].stdout) == {"events": size, "spend": format(spend.normalize(), "f"), "a, b": 0}
    head, row = csv.reader(io.StringIO(answers["csv"].stdout))
    assert head == ["events", "spend", "a, b"]
    assert (int(row[0]), Decimal(row[1])) == (size, spend)
    assert format(spend.normalize(), "f") in answers["table"].stdout
    status = deployed.status()
    assert status["state"] == "stopped"
    assert all(part["foreign"] >= 1 for part in status["partitions"].values()), "echoes are skipped and counted"
    # Nobody runs now: the folder is opened for the time of the query.
    assert not (deployed.data / "clickhouse" / "endpoint.json").exists()
    alone = deployed.query("SELECT count() AS events FROM usage", "--format", "json")
    assert json.loads(alone.stdout) == {"events": sum(log.state.position for log in deployed.logs)}
    with opened(deployed.data / "clickhouse") as clickhouse:
        for log in deployed.logs:
            assert assert_holds_exactly(clickhouse, log) == log.state.position
        size = sum(log.state.position for log in deployed.logs)
        for grain in ("minute", "hour", "day"):
            assert one(clickhouse, f"SELECT sum(events) FROM usage_by_{grain}") == size, "finished when it stopped"


@pytest.mark.slow
async def test_kills_at_any_moment_lose_and_double_nothing(deployed: Deployed) -> None:
    draw = random.Random(6)
    for _ in range(4):
        for log in deployed.logs:
            log.grow(25)
        await deployed.send()
        with deployed.sink("--batch-rows", "50", "--batch-age-s", "0.05") as process:
            before = {part: own["log_offset"] for part, own in deployed.status()["partitions"].items()}

            def has_moved(before: dict[str, int] = before) -> bool:
                parts = deployed.status()["partitions"]
                return any(own["log_offset"] > before.get(part, -1) for part, own in parts.items() if own["batches"])

            wait_until(has_moved, deployed)
            await asyncio.sleep(draw.random() / 5)
            process.kill()
            assert process.wait() == -signal.SIGKILL
        with opened(deployed.data / "clickhouse") as clickhouse:
            for log in deployed.logs:
                if clickhouse.rows("SELECT 1 FROM sink_progress WHERE log = {l:String}", {"l": log.origin}):
                    assert_holds_exactly(clickhouse, log)
    with deployed.sink() as process:
        wait_until(deployed.is_carried, deployed)
        process.send_signal(signal.SIGTERM)
        assert process.wait(_PATIENCE_S) == 0, deployed.words()
    with opened(deployed.data / "clickhouse") as clickhouse:
        for log in deployed.logs:
            assert assert_holds_exactly(clickhouse, log) == log.state.position
        assert clickhouse.rows("SELECT count(), min(dense) FROM density") == [(2, 1)]


async def test_a_server_that_is_away_is_waited_for_at_the_start_and_later(deployed: Deployed, tmp_path: Path) -> None:
    with served(tmp_path / "server") as server:
        server.password = PASSWORD
        os_environ = {"METERPROOF_CLICKHOUSE_PASSWORD": PASSWORD}
        migrate(server.engine)
        for log in deployed.logs:
            log.grow(5)
        await deployed.send()
        server.down()
        with deployed.sink("--url", server.url, "--batch-rows", "100", environment=os_environ) as process:
            wait_until(lambda: deployed.status().get("state") == "waiting", deployed)
            assert deployed.status()["ready"] is False
            assert process.poll() is None, "it stays alive"
            server.up()
            wait_until(deployed.is_carried, deployed)
            wait_until(lambda: one(server.engine, "SELECT uniqExact(version) FROM price_books") == len(BOOKS), deployed)
            server.down()
            for log in deployed.logs:
                log.grow(20)
            await deployed.send()
            wait_until(lambda: deployed.status()["state"] == "waiting", deployed)
            wait_until(lambda: all(own["attempts"] > 1 for own in deployed.status()["partitions"].values()), deployed)
            wait_until(lambda: all((own["lag"] or 0) > 1 for own in deployed.status()["partitions"].values()), deployed)
            assert process.poll() is None, "it stays alive"
            assert all("127.0.0.1" in own["away"] for own in deployed.status()["partitions"].values())
            server.up()
            wait_until(deployed.is_carried, deployed)
            wait_until(lambda: deployed.status()["state"] == "running", deployed)
            for log in deployed.logs:
                assert assert_holds_exactly(server.engine, log) == log.state.position
            server.password = "changed by an operator"
            for log in deployed.logs:
                log.grow(2)
            await deployed.send()
            wait_until(lambda: deployed.status()["state"] == "waiting", deployed)
            process.send_signal(signal.SIGTERM)
            assert process.wait(_PATIENCE_S) == 0, "asked to stop, it does not wait any longer"


async def test_a_running_pipeline_is_reconciled_with_its_log_and_repaired(deployed: Deployed) -> None:
    for log in deployed.logs:
        log._made = 10_000 * log.partition  # ids that no other log has
        log.grow(8)
    await deployed.send()

    def reconcile(*arguments: str) -> dict[str, Any]:
        command = [*PROGRAM, "reconcile", "--data", str(deployed.data), "--json", "--no-audit", *arguments]
        command += ["--bootstrap", deployed.settings.bootstrap, "--prefix", deployed.settings.topic_prefix]
        answer = subprocess.run(command, check=False, capture_output=True, text=True)
        assert answer.returncode in {0, 1}, answer.stderr
        found: dict[str, Any] = json.loads(answer.stdout)
        assert answer.returncode == (0 if found["differences"] == 0 else 1)
        return found

    with deployed.sink("--rollup-interval-s", "0.2") as process:
        wait_until(deployed.is_carried, deployed)
        for log in deployed.logs:  # while it is compared, more arrives
            log.grow(8)
        await deployed.send()
        found = reconcile()
        assert (found["named"], found["differences"]) == ([], 0)
        assert found["compared"]["log"] == found["compared"]["rows"] > 0
        assert found["skipped"] == ["audit folder: not asked for"]
        wait_until(deployed.is_carried, deployed)
        found = reconcile("--repair")
        size = sum(log.state.position for log in deployed.logs)
        assert (found["differences"], found["compared"]["log"], found["compared"]["day"]) == (0, size, size)
        process.send_signal(signal.SIGTERM)
        assert process.wait(_PATIENCE_S) == 0
    with opened(deployed.data / "clickhouse") as clickhouse:
        clickhouse.command("ALTER TABLE usage_rows DELETE WHERE position = 4 SETTINGS mutations_sync = 2")
    found = reconcile()
    by_kind = found["by_kind"]
    # In a minute with most, it is missed there, too.
    peaks = [difference for difference in found["named"] if "groups of kind peak" in difference["detail"]]
    lost = [[line for _, record in log.records for line in record.lines][4] for log in deployed.logs]
    days = {parse_event(line).time[:10] for line in lost}
    due = 3 * len(lost) + 2 * len(days)
    assert by_kind.pop("rollups") - len(peaks) == due, (
        "three roll-ups by log; sessions and runs by day; no call has a trace or failed"
    )
    assert by_kind == {"log": 2, "rows": 2}


async def test_another_log_under_the_same_rows_stops_the_worker(
    deployed: Deployed, broker: LocalBroker, topic_prefix: str
) -> None:
    for log in deployed.logs:
        log.grow(2)
    await deployed.send()
    with deployed.sink() as process:
        wait_until(deployed.is_carried, deployed)
        process.send_signal(signal.SIGTERM)
        assert process.wait(_PATIENCE_S) == 0
    recreated = await Deployed.create(broker.bootstrap, f"{topic_prefix}again.", deployed.data)
    for log in recreated.logs:
        log.grow(4)
    await recreated.send()
    with recreated.sink() as process:
        assert process.wait(_PATIENCE_S) == 78, deployed.words()
    assert "log_diverged" in deployed.words()
    assert deployed.status()["state"] == "failed"
    with opened(deployed.data / "clickhouse") as clickhouse:
        for log in deployed.logs:
            assert assert_holds_exactly(clickhouse, log) == log.state.position


async def test_one_partition_alone_can_be_carried(deployed: Deployed) -> None:
    for log in deployed.logs:
        log.grow(2)
    await deployed.send()
    with deployed.sink("--partitions", "1") as process:
        size = deployed.logs[1].state.position
        wait_until(lambda: deployed.status()["partitions"].get("1", {}).get("position") == size, deployed)
        process.send_signal(signal.SIGTERM)
        assert process.wait(_PATIENCE_S) == 0
    assert set(deployed.status()["partitions"]) == {"1"}


async def test_a_worker_that_cannot_start_says_why(broker: LocalBroker, topic_prefix: str, tmp_path: Path) -> None:
    absent = Deployed(KafkaSettings(bootstrap=broker.bootstrap, topic_prefix=topic_prefix), [], tmp_path / "data")
    with absent.sink() as process:
        assert process.wait(_PATIENCE_S) == 1
    assert "meterproof topics create" in absent.words()
    with absent.sink("--partitions", "one") as process:
        assert process.wait(_PATIENCE_S) == 2


def test_what_a_query_cannot_do_is_told_in_one_line(tmp_path: Path) -> None:
    nobody = Deployed(KafkaSettings(), [], tmp_path / "data")
    answer = nobody.query("SELECT 1")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "there is no ClickHouse in" in answer.stderr
    with opened(nobody.data / "clickhouse"):
        answer = nobody.query("SELECT 1")
        assert answer.returncode == 1
        assert answer.stderr.startswith("meterproof query: "), "one line, and nothing of the engine's before it"
        assert f"is open in another process (process {os.getpid()})" in answer.stderr
    assert nobody.query("SELECT 1").returncode == 0
    for wrong in ("DROP TABLE usage", "SELECT nonsense", "SELECT 1 INTO OUTFILE '/x'"):
        answer = nobody.query(wrong)
        assert (answer.returncode, answer.stdout) == (1, ""), wrong
        assert answer.stderr.startswith("meterproof query: ")
        assert "Traceback" not in answer.stderr
    assert nobody.query().returncode == 2
    assert nobody.query("SELECT 1", "--url", "ftp://x").returncode == 1
    assert nobody.query("SELECT 1", "--url", "http://127.0.0.1:9").returncode == 1


def test_a_table_shows_names_without_obeying_them(tmp_path: Path) -> None:
    nobody = Deployed(KafkaSettings(), [], tmp_path / "data")
    with opened(nobody.data / "clickhouse"):
        pass
    answer = nobody.query("SELECT '\\x1b[31mred\\x07' AS `[bold]name`, toDecimal128('0.000000000001', 12) AS money")
    assert answer.returncode == 0
    assert "\x1b[31m" not in answer.stdout
    assert "\\x1b[31mred\\x07" in answer.stdout
    assert "[bold]name" in answer.stdout
    assert "0.000000000001" in answer.stdout
