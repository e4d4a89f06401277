"""The audit worker on a real broker: log and checkpoints in, a folder that verifies out, whatever interrupts it."""

import asyncio
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from meterproof.exit_codes import TRY_AGAIN
from meterproof.kafka.geneses import read_geneses
from meterproof.kafka.price_books import publish_price_book
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import Deployment, create_topics
from meterproof.status import StatusFile, read_status
from meterproof_local.broker import LocalBroker
from meterproof_proofs.checkpoint import Checkpoint, sign_checkpoint
from meterproof_proofs.note import Signer
from meterproof_schemas.checkpoint_record import (
    CheckpointHeader,
    CheckpointRecord,
    checkpoint_key,
    encode_checkpoint_record,
)
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.event import entry_of
from meterproof_schemas.price_book import encode_price_book
from meterproof_schemas.topics import Topic
from meterproof_sinks.audit_checkpoints import follow_checkpoints
from meterproof_sinks.audit_folder import log_folder_name, read_records, records, segments_of
from meterproof_sinks.audit_sink import AuditSink
from meterproof_sinks.disk import Disk
from meterproof_sinks.erased import erased_line
from meterproof_sinks.price_book_folder import follow_price_books, kept_price_books
from meterproof_sinks.segment_writer import SegmentLimits
from meterproof_sinks.sink_process import run_together
from meterproof_sinks.verification import verify_folder
from meterproof_sinks.verification_inputs import Producers
from meterproof_sinks.worker import run_sink
from tests.audit_upkeep import erase_lines
from tests.builders import DEPLOYMENT, NOW_MS
from tests.log_builder import LogBuilder
from tests.meterproof_command import PROGRAM, run_meterproof
from tests.rated_log import BOOKS

pytestmark = pytest.mark.broker

SEGMENT_FILES = ("*.jsonl", "*.zst", "*.manifest.json")


class Deployed:
    """Topics of one log, the log that stands on them, and its signer."""

    def __init__(self, settings: KafkaSettings, log: LogBuilder) -> None:
        self.settings = settings
        self.log = log
        self.signer = Signer(log.origin, b"\7" * 32)
        self._sent = 1

    async def send(self) -> None:
        """Send what the log grew by, an echo of another writer between, then a signed checkpoint of its end."""
        async with RecordProducer(self.settings) as producer:
            for offset, record in self.log.records[self._sent :]:
                delivery = await (await producer.send(self.settings.topic(Topic.LOG), 0, record.value))
                assert delivery.offset == offset
            self._sent = len(self.log.records)
            await (await producer.send(self.settings.topic(Topic.LOG), 0, self.log.records[0][1].value))
        self.log.log_offset += 1
        await self.sign(self.log.state.position, self.log.state.frontier.root(), self.signer)

    async def sign(self, size: int, root: bytes, signer: Signer) -> None:
        """Put a signed checkpoint on its topic, after a record that is none."""
        note = sign_checkpoint(Checkpoint(self.log.origin, size, root), [signer])
        offset, last = self.log.records[-1]
        header = CheckpointHeader(
            v=1,
            origin=self.log.origin,
            size=size,
            log_offset=offset,
            digest=last.digest,
            clock_ms=last.header.clock_ms,
        )
        async with RecordProducer(self.settings) as producer:
            topic = self.settings.topic(Topic.CHECKPOINTS)
            await (await producer.send(topic, 0, b"no checkpoint\n", key=b"x"))
            value = encode_checkpoint_record(CheckpointRecord(header, note))
            await (await producer.send(topic, 0, value, key=checkpoint_key(header)))


@pytest.fixture
async def deployed(broker: LocalBroker, topic_prefix: str) -> Deployed:
    settings = KafkaSettings(bootstrap=broker.bootstrap, topic_prefix=topic_prefix)
    deployment = Deployment("meter.example.com/test", DEPLOYMENT, 1)
    await create_topics(settings, deployment, now_ms=NOW_MS, random_bytes=os.urandom)
    (genesis,) = (await read_geneses(settings)).values()
    log = LogBuilder(genesis_value=genesis)
    for size in (3, 40, 1, 7):
        log.batch(size)
    log.hole()
    log.batch(2)
    return Deployed(settings, log)


async def run_until_covered(deployed: Deployed, folder: Path, size: int) -> None:
    """Run a worker until the folder's checkpoint covers so many entries, and all segments but the last are sealed."""
    sink = AuditSink(folder, verifiers=[deployed.signer.verifier], limits=SegmentLimits(bytes_max=8_000))
    stop = asyncio.Event()
    status = StatusFile(folder.parent / "status", "audit")

    async def wait() -> None:
        # The worker has no hook to wait on: whoever wants to know how far it is looks at the disk or the status file.
        def done() -> bool:
            logs = sink.logs().values()
            covered = any(log.checkpoint and log.checkpoint.size >= size for log in logs)
            return covered and all(one.is_sealed for log in logs for one in segments_of(log.folder)[:-1])

        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        stop.set()

    waiting = asyncio.create_task(wait())
    try:
        async with asyncio.timeout(180):
            carrying = run_sink(sink, deployed.settings, status=status, stop=stop)
            following = follow_checkpoints(sink, deployed.settings, stop=stop)
            await run_together(stop, carrying, following, sink.publish_until(stop), sink.seal_until(stop))
    finally:
        waiting.cancel()
        await sink.close()


async def test_log_and_checkpoints_become_a_folder_that_verifies(deployed: Deployed, tmp_path: Path) -> None:
    log, folder = deployed.log, tmp_path / "audit"
    await deployed.send()
    await run_until_covered(deployed, folder, log.state.position)
    mine = folder / log_folder_name(log.origin)
    assert list(records(mine)) == log.records
    log.batch(5)
    await deployed.send()
    last = next(iter(sorted(mine.glob("*.records.jsonl"), reverse=True)))
    os.truncate(last, last.stat().st_size - 1)
    (mine / "checkpoint").unlink()
    await run_until_covered(deployed, folder, log.state.position)
    assert list(records(mine)) == log.records
    status = read_status(tmp_path / "status", "audit")
    assert status is not None
    assert status["state"] == "stopped"
    report = verify_folder(folder, [deployed.signer.verifier], Producers(log.registry, frozenset()))
    assert report.holds
    assert report.logs[0].covered == log.state.position
    assert report.logs[0].torn_files > 0

    again = tmp_path / "again"
    await run_until_covered(deployed, again, log.state.position)
    other = again / log_folder_name(log.origin)
    files = sorted(path.name for kind in SEGMENT_FILES for path in other.glob(kind))
    assert files == sorted(path.name for kind in SEGMENT_FILES for path in mine.glob(kind))
    assert sum(name.endswith(".manifest.json") for name in files) == report.logs[0].sealed > 0
    assert all((other / name).read_bytes() == (mine / name).read_bytes() for name in files)


async def test_every_accepted_record_can_be_made_again_byte_for_byte(deployed: Deployed, tmp_path: Path) -> None:
    await deployed.send()
    deployed.log.batch(5)
    await deployed.send()
    await run_until_covered(deployed, tmp_path / "audit", deployed.log.state.position)
    mine = tmp_path / "audit" / log_folder_name(deployed.log.origin)
    assert len(segments_of(mine)) > 1
    async with PartitionReader(deployed.settings, deployed.settings.topic(Topic.LOG), 0) as reader:
        there = {one.offset: one.value async for chunk in reader.read(*await reader.bounds()) for one in chunk}
    accepted = {offset: there[offset] for offset, _ in deployed.log.records}
    assert {stored.log_offset: stored.value for stored in read_records(mine)} == accepted
    assert len(there) == len(accepted) + 2  # the echoes

    line = deployed.log.records[2][1].lines[1]
    erase_lines(tmp_path / "audit", lambda one: one == line)
    kept = {stored.log_offset: stored for stored in read_records(mine)}
    (erased,) = [stored for stored in kept.values() if stored.erased]
    due = there[erased.log_offset]
    assert due is not None
    assert erased.value == due.replace(line, erased_line(entry_of(line)))
    assert {offset: one.value for offset, one in kept.items() if not one.erased} == {
        offset: value for offset, value in accepted.items() if offset != erased.log_offset
    }


async def test_a_worker_that_runs_erases_what_a_command_asks_for(
    deployed: Deployed, tmp_path: Path, topic_prefix: str
) -> None:
    await deployed.send()
    bootstrap = deployed.settings.bootstrap
    run = [
        *PROGRAM,
        "sink",
        "audit",
        "run",
        "--bootstrap",
        bootstrap,
        "--prefix",
        topic_prefix,
        "--data",
        str(tmp_path),
    ]
    mine = tmp_path / "audit" / log_folder_name(deployed.log.origin)
    worker = await asyncio.create_subprocess_exec(*run, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(180):
            while not (mine / "tlog" / "checkpoint").is_file():  # noqa: ASYNC110 - another process's file
                await asyncio.sleep(0.05)
        who = ("--by", "privacy@example.com", "--reason", "request 17", "--yes", "--json")
        erase = ("erase", "--agent", deployed.log.agent, *who)
        told = await asyncio.to_thread(run_meterproof, *erase, data=tmp_path)
        assert told.returncode == 0, told.stderr
        assert json.loads(told.stdout)["audit"] == {deployed.log.origin: deployed.log.state.position}
        assert worker.returncode is None, "it has the folder's lock, so it did it and not the command"
        options = (*run[len(PROGRAM) : -2], "--folder", str(tmp_path / "audit"))
        second = await asyncio.to_thread(run_meterproof, *options, data=tmp_path / "second")
        assert second.returncode == TRY_AGAIN, second.stderr
        assert "one writer per log: stop it" in second.stderr
        assert "Traceback" not in second.stderr
    finally:
        worker.send_signal(signal.SIGTERM)
        assert await worker.wait() == 0
    assert verify_folder(tmp_path / "audit", [deployed.signer.verifier]).logs[0].erased == deployed.log.state.position


async def test_published_price_books_are_kept_and_a_changed_one_stops_the_worker(
    deployed: Deployed, tmp_path: Path
) -> None:
    settings, stop = deployed.settings, asyncio.Event()
    for book in BOOKS.values():
        assert await publish_price_book(settings, book)
    following = asyncio.create_task(follow_price_books(tmp_path, settings, stop=stop, disk=Disk()))
    async with asyncio.timeout(180):
        while len(kept_price_books(tmp_path)) < len(BOOKS):
            assert not following.done()
            await asyncio.sleep(0.05)
        assert kept_price_books(tmp_path) == {version: encode_price_book(book) for version, book in BOOKS.items()}
        changed = encode_price_book(BOOKS[1].model_copy(update={"currency": "EUR"}))
        async with RecordProducer(settings) as producer:
            await (await producer.send(settings.topic(Topic.PRICE_BOOKS), 0, b"no price book", key=b"3"))
            await (await producer.send(settings.topic(Topic.PRICE_BOOKS), 0, changed, key=b"1"))
        with pytest.raises(StageStopped, match="version 1 of the price book"):
            await following
    assert kept_price_books(tmp_path)[1] == encode_price_book(BOOKS[1])


async def test_a_signed_checkpoint_that_contradicts_the_log_stops_the_worker(
    deployed: Deployed, tmp_path: Path
) -> None:
    await deployed.send()
    await deployed.sign(deployed.log.state.position, b"\1" * 32, Signer(deployed.log.origin, b"\2" * 32))
    await run_until_covered(deployed, tmp_path / "audit", deployed.log.state.position)
    await deployed.sign(3, b"\1" * 32, deployed.signer)
    with pytest.raises(StageStopped, match="log_diverged"):
        await run_until_covered(deployed, tmp_path / "audit", 10**6)
    shutil.rmtree(tmp_path / "audit")
    with pytest.raises(StageStopped, match="log_diverged"):
        await run_until_covered(deployed, tmp_path / "audit", 10**6)


async def test_a_folder_of_another_log_stops_the_worker(deployed: Deployed, tmp_path: Path) -> None:
    await deployed.send()
    other = LogBuilder()
    other.batch(3)
    sink = AuditSink(tmp_path / "audit")
    await sink.write(0, other.genesis, other.records)
    await sink.close()
    with pytest.raises(StageStopped, match="log_diverged"):
        await run_until_covered(deployed, tmp_path / "audit", 1)
