"""A sink that is slow is alive; one that stands is not, and ends; probes and the status file say which it is."""

import asyncio
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn, Self

import orjson
import pytest

from meterproof.health import HealthSettings
from meterproof.kafka.follower import LogFollower
from meterproof.kafka.geneses import read_geneses
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import Deployment, create_topics
from meterproof.status import read_status
from meterproof.watchdog import WorkerStalled
from meterproof_local.broker import LocalBroker
from meterproof_schemas.chain import Cursor
from meterproof_schemas.log_record import Genesis, LogRecord
from meterproof_schemas.topics import Topic
from meterproof_sinks.batch_bounds import BatchBounds
from meterproof_sinks.sink import Density
from meterproof_sinks.sink_settings import SinkSettings
from meterproof_sinks.sink_status import SinkStatus
from meterproof_sinks.worker import run_sink
from tests.builders import DEPLOYMENT, NOW_MS
from tests.log_builder import LogBuilder
from tests.meterproof_command import PROGRAM

pytestmark = pytest.mark.broker

PATIENCE_S = 180.0
SETTINGS = SinkSettings(stall_timeout_s=5, slow_after_s=1)
BOUNDS = BatchBounds(age_max_s=0.05)


class WaitingSink:
    """Takes everything, once it is let."""

    name = "waiting"

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.written = 0

    async def cursor(self, log: int) -> Cursor | None:
        return None

    async def write(self, partition: int, genesis: Genesis, records: list[tuple[int, LogRecord]]) -> None:
        await self.let.wait()
        self.written += len(records)

    async def density(self, partition: int) -> Density | None:
        return None

    async def close(self) -> None:
        pass


def never(error: BaseException) -> NoReturn:
    raise AssertionError(error)


@pytest.fixture
async def kafka(broker: LocalBroker, topic_prefix: str) -> KafkaSettings:
    """A log of five records."""
    settings = KafkaSettings(bootstrap=broker.bootstrap, topic_prefix=topic_prefix)
    deployment = Deployment("meter.example.com/test", DEPLOYMENT, 1)
    await create_topics(settings, deployment, now_ms=NOW_MS, random_bytes=os.urandom)
    (genesis,) = (await read_geneses(settings)).values()
    log = LogBuilder(genesis_value=genesis)
    for _ in range(4):
        log.batch(3)
    async with RecordProducer(settings) as producer:
        for _, record in log.records[1:]:
            await (await producer.send(settings.topic(Topic.LOG), 0, record.value))
    return settings


def probe(port: int | None, path: str) -> tuple[int, dict[str, Any]]:
    if port is None:
        return 0, {}
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as answer:
            return answer.status, orjson.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, orjson.loads(error.read())


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())


async def wait_until(holds: Callable[[], bool], *tasks: asyncio.Task[None]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s
        assert not any(task.done() for task in tasks), tasks
        await asyncio.sleep(0.05)


@asynccontextmanager
async def running(
    sink: WaitingSink, kafka: KafkaSettings, folder: Path
) -> AsyncIterator[tuple[asyncio.Task[None], Callable[[], dict[str, Any]]]]:
    """The loop in this process, with its status."""
    health = HealthSettings(port=0, host="127.0.0.1")
    status = SinkStatus(sink.name, folder, settings=SETTINGS, health=health, die=never)
    status._server.start()
    stop = asyncio.Event()
    carrying = run_sink(sink, kafka, [0], status=status, stop=stop, bounds=BOUNDS, worker=SETTINGS)

    async def beat() -> None:
        while True:
            status.watchdog.beat()
            await asyncio.sleep(0.5)

    beating, task = asyncio.create_task(beat()), asyncio.create_task(carrying)
    try:
        yield task, lambda: read_status(folder, sink.name) or {}
        stop.set()
        await asyncio.wait([task])
    finally:
        beating.cancel()
        task.cancel()


async def test_a_slow_destination_is_alive_and_not_ready(kafka: KafkaSettings, tmp_path: Path) -> None:
    sink = WaitingSink()
    async with running(sink, kafka, tmp_path) as (task, status):
        await wait_until(lambda: status().get("partitions", {}).get("0", {}).get("writing_s", 0) > 11, task)
        port = status()["health_port"]
        assert (await asyncio.to_thread(probe, port, "/livez"))[0] == 200
        code, said = await asyncio.to_thread(probe, port, "/readyz")
        assert (code, said["ready"]) == (503, False)
        assert "waiting for the destination" in str(said["reasons"])
        sink.let.set()
        await wait_until(lambda: status()["ready"], task)
        assert sink.written == 5
        assert (await asyncio.to_thread(probe, port, "/readyz"))[0] == 200


async def test_a_log_that_nobody_reads_is_unhealthy_and_ends_the_worker(
    kafka: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = 0
    poll = LogFollower.poll

    async def falls_silent(follower: LogFollower, max_wait_s: float, max_records: int = 1) -> Any:
        nonlocal polls
        polls += 1
        if polls > 2:
            await asyncio.Event().wait()
        return await poll(follower, max_wait_s, max_records=1)

    monkeypatch.setattr(LogFollower, "poll", falls_silent)
    sink = WaitingSink()
    sink.let.set()
    async with running(sink, kafka, tmp_path) as (task, status):
        await wait_until(lambda: "stuck" in status() and bool(status()["stuck"]), task)
        assert (await asyncio.to_thread(probe, status()["health_port"], "/livez"))[0] == 503
        await asyncio.wait([task], timeout=PATIENCE_S)
        assert isinstance(task.exception(), WorkerStalled)
        assert "nothing was read for 5 s, though records stand" in str(task.exception())


async def test_two_workers_of_one_host_serve_probes_and_metrics_without_a_clash(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    """Also: a status that cannot be written is a warning, and SIGTERM ends both."""
    command = [*PROGRAM, "sink", "audit", "run", f"--data={tmp_path}", f"--bootstrap={kafka.bootstrap}"]
    command += [f"--prefix={kafka.topic_prefix}"]

    def start(number: int) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "METERPROOF_WORKER_INSTANCE": f"audit-{number}",
            "METERPROOF_HEALTH_PORT": "0",
            "METERPROOF_HEALTH_HOST": "127.0.0.1",
        }
        return subprocess.Popen([*command, f"--folder={tmp_path / f'audit-{number}'}"], env=environment)

    def status(number: int) -> dict[str, Any]:
        return read_status(tmp_path / "status", f"audit-{number}") or {}

    def blocked(folder: Path) -> bool:
        """Whether a file stands where the folder was; not if a worker wrote into it just then."""
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.write_text("a file where the folder should be")
        except IsADirectoryError:
            return False
        return True

    def carried(number: int) -> bool:
        return bool(status(number).get("ready")) and status(number)["partitions"]["0"]["log_offset"] == 4

    with start(0) as first, start(1) as second:
        try:
            await wait_until(lambda: carried(0) and carried(1))
            ports = {status(number)["health_port"] for number in range(2)}
            assert len(ports) == 2
            for port in ports:
                assert (await asyncio.to_thread(probe, port, "/readyz"))[0] == 200
                body = await asyncio.to_thread(metrics, port)
                assert 'meterproof_partition_position{partition="0",worker="audit"} 12.0' in body
            await wait_until(lambda: blocked(tmp_path / "status"))
            await asyncio.sleep(1)  # long enough for one that ends by it to be seen
            assert (first.poll(), second.poll()) == (None, None)
            first.terminate()
            second.terminate()
            assert (first.wait(PATIENCE_S), second.wait(PATIENCE_S)) == (0, 0)
        finally:
            first.kill()
            second.kill()


class HangingWorker:
    """An audit worker whose event loop stands for ever: its status goes into a pipe that nobody reads.

    So a write never returns, as on a disk whose server died.
    """

    def __init__(self, kafka: KafkaSettings, folder: Path, **settings: str) -> None:
        self._said = folder / "said.jsonl"
        self._status = folder / "status"
        command = [*PROGRAM, "sink", "audit", "run", f"--data={folder}", f"--bootstrap={kafka.bootstrap}"]
        with self._said.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, f"--prefix={kafka.topic_prefix}"],
                env=os.environ | settings,
                stderr=output,
            )

    async def __aenter__(self) -> Self:
        try:
            await wait_until(lambda: self.status().get("partitions", {}).get("0", {}).get("log_offset") == 4)
            await wait_until(self._lay_pipe)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def _lay_pipe(self) -> bool:
        try:
            os.mkfifo(self._status / f".audit.{self.process.pid}.json")
        except FileExistsError:  # it is being written just now
            return False
        return True

    def status(self) -> dict[str, Any]:
        return read_status(self._status, "audit") or {}

    def said(self) -> str:
        return self._said.read_text()

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, PATIENCE_S)


@pytest.mark.slow
async def test_a_worker_whose_event_loop_hangs_is_ended_from_outside_of_it(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    """To tell a status as its last word hangs too, so the interpreter's own timer has to end it."""
    async with HangingWorker(kafka, tmp_path, METERPROOF_WORKER_STALL_TIMEOUT_S="12") as worker:
        assert await worker.ended() == 1
        assert "WorkerStalled: the event loop did nothing for 12 s; the main thread stands in " in worker.said()
        assert "status.py" in worker.said()
        assert "Timeout" in worker.said()


@pytest.mark.slow
async def test_sigterm_ends_a_worker_whose_event_loop_hangs(kafka: KafkaSettings, tmp_path: Path) -> None:
    settings = {"METERPROOF_WORKER_STALL_TIMEOUT_S": "600", "METERPROOF_WORKER_STOP_DEADLINE_S": "1"}
    async with HangingWorker(kafka, tmp_path, **settings) as worker:
        worker.process.terminate()
        assert await worker.ended() == 1
        assert "asked to stop 1 s ago and still running" in worker.said()
