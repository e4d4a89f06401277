"""What the checkpointer signs on a real broker: both trees, one root per size for ever, nothing after a roll-back."""

import asyncio
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meterproof.commands.keys import main as keys_main
from meterproof.deployment import DataFolder
from meterproof.exit_codes import NOT_STARTED, STOPPED
from meterproof.kafka.geneses import read_geneses
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import Deployment, create_topics
from meterproof.log_key import LogKey, LogKeys
from meterproof_local.broker import LocalBroker
from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from meterproof_proofs.errors import UnverifiedNote
from meterproof_proofs.frontier import Frontier
from meterproof_proofs.key_files import read_verifiers
from meterproof_proofs.note import SignedNote, Signer, Verifier
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.checkpoint_record import (
    CheckpointHeader,
    CheckpointRecord,
    checkpoint_key,
    decode_checkpoint_record,
    encode_checkpoint_record,
)
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.records_tree import head_entry, head_of, records_origin
from meterproof_schemas.topics import Topic
from meterproof_sinks.audit_sink import AuditSink
from meterproof_sinks.verification import verify_folder
from meterproof_stream.checkpointer import CheckpointLane, CheckpointLanes
from meterproof_stream.signed_before import AuditMemory, SigningMemory
from meterproof_stream.witness_folder import WitnessFolder
from tests.builders import DEPLOYMENT, NOW_MS
from tests.integration.stream.workers import Worker
from tests.log_builder import LogBuilder

pytestmark = pytest.mark.broker

OLD, NEW = LogKey(b"\x01" * 32), LogKey(b"\x02" * 32)
KEYS = LogKeys([OLD])


class SignedLog:
    """A log of one partition on a broker, written by the sequencer's own code, and what is signed of it."""

    def __init__(self, kafka: KafkaSettings, log: LogBuilder) -> None:
        self.kafka = kafka
        self.log = log
        self._sent = 1

    @classmethod
    async def create(cls, kafka: KafkaSettings) -> "SignedLog":
        deployment = Deployment("meter.example.com/test", DEPLOYMENT, 1)
        await create_topics(kafka, deployment, now_ms=NOW_MS, random_bytes=os.urandom)
        (genesis,) = (await read_geneses(kafka)).values()
        return cls(kafka, LogBuilder(genesis_value=genesis))

    async def grow(self, *sizes: int) -> None:
        """Batches of so many events; 0 is a batch that is refused."""
        for size in sizes:
            self.log.batch(size) if size else self.log.source(b"not a batch\n")
        async with RecordProducer(self.kafka) as producer:
            for offset, record in self.log.records[self._sent :]:
                delivery = await (await producer.send(self.kafka.topic(Topic.LOG), 0, record.value))
                assert delivery.offset == offset
        self._sent = len(self.log.records)

    @asynccontextmanager
    async def lane(
        self,
        keys: LogKeys = KEYS,
        *,
        witness: WitnessFolder | None = None,
        memories: Sequence[SigningMemory] = (),
    ) -> AsyncIterator[CheckpointLane]:
        """A checkpointer that has taken the log over."""
        lanes = CheckpointLanes(self.kafka, keys, witness=witness, memories=memories)
        await lanes.start()
        try:
            yield await lanes.open(0)
        finally:
            await lanes.stop()

    async def follow(self, lane: CheckpointLane) -> None:
        """Let it read the log to its end."""
        async with PartitionReader(self.kafka, self.kafka.topic(Topic.LOG), 0) as reader:
            _, end = await reader.bounds()
            if lane.chain.log_offset + 1 < end:
                async for chunk in reader.read(lane.chain.log_offset + 1, end):
                    for one in chunk:
                        record = lane.chain.offer(one.offset, one.value)
                        if record is not None:
                            lane.take(one.offset, record)

    async def sign(self, keys: LogKeys = KEYS, *, witness: WitnessFolder | None = None) -> None:
        """Sign the log's end."""
        async with self.lane(keys, witness=witness) as lane:
            await self.follow(lane)
            await lane.flush()

    async def published(self) -> list[CheckpointRecord]:
        async with PartitionReader(self.kafka, self.kafka.topic(Topic.CHECKPOINTS), 0) as reader:
            found = [record async for chunk in reader.read(*await reader.bounds()) for record in chunk]
        return [decode_checkpoint_record(one.value) for one in found if not (one.key or b"").endswith(b"|genesis")]

    async def audit(self, folder: Path) -> None:
        """Have the audit sink write the log and take what is published."""
        sink = AuditSink(folder, verifiers=[OLD.signer(self.log.origin).verifier])
        cursor = await sink.cursor(0)
        done = -1 if cursor is None else cursor.log_offset
        await sink.write(0, self.log.genesis, [one for one in self.log.records if one[0] > done])
        for record in await self.published():
            sink.offer_checkpoints(record.note, record.records_note)
        await sink.publish()
        await sink.close()

    def heads_root(self, size: int) -> bytes:
        """The root of the second tree after so many records, from the records."""
        heads = Frontier()
        heads.extend(leaf_hashes([head_entry(head_of(record)) for _, record in self.log.records[:size]]))
        return heads.root()


@pytest.fixture
async def signed(broker: LocalBroker, topic_prefix: str) -> SignedLog:
    return await SignedLog.create(KafkaSettings(bootstrap=broker.bootstrap, topic_prefix=topic_prefix))


async def test_both_trees_are_signed_at_every_record_boundary_refusals_included(signed: SignedLog) -> None:
    origin = signed.log.origin
    for sizes in ((), (3, 0), (0,), (5, 1)):
        await signed.grow(*sizes)
        await signed.sign()
        await signed.sign()  # nothing new, nothing signed
    found = await signed.published()
    assert [(one.header.size, one.header.records and one.header.records.size) for one in found] == [
        (0, 1),
        (3, 3),
        (3, 4),
        (9, 6),
    ]
    for one in found:
        assert one.header.records is not None
        assert one.records_note is not None
        events = open_checkpoint(one.note, [OLD.signer(origin).verifier], origin=origin)
        name = records_origin(origin)
        records = open_checkpoint(one.records_note, [OLD.signer(name).verifier], origin=name)
        (header,) = [record.header for offset, record in signed.log.records if offset == one.header.log_offset]
        assert (events.size, events.root.hex()) == (header.size, header.root)
        assert (records.size, records.root) == (one.header.records.size, signed.heads_root(records.size))


async def test_a_log_that_was_signed_before_there_was_a_second_tree_gets_one(signed: SignedLog) -> None:
    await signed.grow(3, 2)
    offset, last = signed.log.records[-1]
    checkpoint = Checkpoint(signed.log.origin, 5, bytes.fromhex(last.header.root))
    note = sign_checkpoint(checkpoint, [OLD.signer(signed.log.origin)])
    header = CheckpointHeader(
        v=1, origin=checkpoint.origin, size=5, log_offset=offset, digest=last.digest, clock_ms=last.header.clock_ms
    )
    async with RecordProducer(signed.kafka) as producer:
        topic, value = signed.kafka.topic(Topic.CHECKPOINTS), encode_checkpoint_record(CheckpointRecord(header, note))
        await (await producer.send(topic, 0, value, checkpoint_key(header)))
    await signed.sign()
    before, after = await signed.published()
    assert (before.header.records, after.note) == (None, before.note)
    assert after.header.records is not None
    assert after.header.records.size == 3


async def test_two_writers_never_publish_two_roots_for_a_size(signed: SignedLog) -> None:
    async with signed.lane() as one, signed.lane() as other:
        for number, sizes in enumerate(((3,), (2, 0), (4,))):
            await signed.grow(*sizes)
            await signed.follow(one)
            if number == 1:
                await signed.follow(other)
            await asyncio.gather(one.flush(), other.flush())
        await signed.follow(other)
        await other.flush()
    roots: dict[tuple[str, int], set[str]] = {}
    for record in await signed.published():
        for note in (record.note, record.records_note or b""):
            checkpoint = Checkpoint.parse(SignedNote.parse(note).text)
            roots.setdefault((checkpoint.origin, checkpoint.size), set()).add(checkpoint.root.hex())
    assert len(roots) == 6
    assert all(len(found) == 1 for found in roots.values())


async def test_of_two_writers_the_one_behind_is_fenced_by_the_witness_folder(signed: SignedLog, tmp_path: Path) -> None:
    witness = WitnessFolder(tmp_path / "witness")
    await signed.grow(3)
    async with signed.lane(witness=witness) as slow:
        await signed.follow(slow)
        await signed.grow(4)
        await signed.sign(witness=witness)
        count = len(await signed.published())
        with pytest.raises(StageStopped) as caught:
            await slow.flush()
    assert caught.value.stop_reason is StopReason.FENCED
    assert len(await signed.published()) == count


async def test_the_witness_has_a_checkpoint_before_anybody_else(signed: SignedLog, tmp_path: Path) -> None:
    blocked = tmp_path / "witness"
    blocked.write_text("a file where the folder should be")
    await signed.grow(3)
    async with signed.lane() as lane:
        await signed.follow(lane)
        lane._witness = WitnessFolder(blocked)  # the volume went away after the take-over
        with pytest.raises(OSError, match="witness"):
            await lane.flush()
    assert await signed.published() == []


async def test_a_topic_that_lost_its_checkpoints_is_signed_as_before_and_another_root_is_refused(
    signed: SignedLog, tmp_path: Path
) -> None:
    """The witness alone remembers: as if usage.checkpoints had been restored from an older copy."""
    witness = WitnessFolder(tmp_path / "witness")
    await signed.grow(3, 4)
    truth = Checkpoint(signed.log.origin, 7, signed.log.state.frontier.root())
    forged = Checkpoint(signed.log.origin, 7, b"\x01" * 32)
    between = Checkpoint(signed.log.origin, 5, b"\x01" * 32)
    for checkpoint, holds in ((truth, True), (forged, False), (between, False)):
        shutil.rmtree(tmp_path / "witness", ignore_errors=True)
        witness.remember([sign_checkpoint(checkpoint, [OLD.signer(signed.log.origin)])], lambda *_: None)
        if holds:
            async with signed.lane(witness=witness) as lane:
                assert lane.chain.position == 7
        else:
            with pytest.raises(StageStopped, match=r"witness folder .* signed checkpoint"):
                async with signed.lane(witness=witness):
                    raise AssertionError("taken over")
    assert await signed.published() == []


async def test_an_audit_folder_behind_the_topic_is_compared_too(signed: SignedLog, tmp_path: Path) -> None:
    """The log and its topic were replaced by other ones of the same length: what the audit folder has, contradicts."""
    await signed.grow(3)
    await signed.sign()
    await signed.audit(tmp_path / "audit")
    await signed.grow(4)
    await signed.sign()
    async with signed.lane(memories=[AuditMemory(tmp_path / "audit")]) as lane:
        assert lane.chain.position == 7
    folder = next((tmp_path / "audit").iterdir())
    other = Checkpoint(signed.log.origin, 3, b"\x01" * 32)
    (folder / "checkpoint").write_bytes(sign_checkpoint(other, [OLD.signer(signed.log.origin)]))
    with pytest.raises(StageStopped, match="audit folder"):
        async with signed.lane(memories=[AuditMemory(tmp_path / "audit")]):
            raise AssertionError("taken over")


async def test_during_a_change_of_keys_both_sign_and_either_verifies(signed: SignedLog, tmp_path: Path) -> None:
    audit, origin = tmp_path / "audit", signed.log.origin
    old, new = OLD.signer(origin).verifier, NEW.signer(origin).verifier
    await signed.grow(3)
    await signed.sign()
    await signed.audit(audit)
    both = LogKeys([OLD, NEW])
    await signed.sign(both)  # nothing new in the log, but a signature is missing
    await signed.sign(both)
    await signed.audit(audit)
    first, second = await signed.published()
    assert Checkpoint.parse(SignedNote.parse(first.note).text) == Checkpoint.parse(SignedNote.parse(second.note).text)
    for verifier in (old, new):
        assert open_checkpoint(second.note, [verifier], origin=origin).size == 3
        report = verify_folder(audit, [verifier])
        assert report.holds, report.all_faults
        assert report.logs[0].records_covered == 2
    # The end: the new key alone. What the old one alone had signed before stands on the topic, and is not needed.
    await signed.grow(2)
    await signed.sign(LogKeys([NEW]))
    *_, last = await signed.published()
    assert open_checkpoint(last.note, [new], origin=origin).size == 5
    assert len(SignedNote.parse(last.note).signatures) == 1
    # The old key, say a thief's, signs no more: the largest checkpoint is not its own.
    await signed.grow(2)
    with pytest.raises(StageStopped, match="log key"):
        await signed.sign(LogKeys([OLD]))


async def test_a_key_that_skipped_the_overlap_is_refused(signed: SignedLog) -> None:
    await signed.grow(3)
    await signed.sign()
    with pytest.raises(StageStopped, match="log key"):
        await signed.sign(LogKeys([NEW]))
    # Somebody may write to the topic; what no key of ours signed is no reason to stop if it claims less than ours.
    note = sign_checkpoint(Checkpoint(signed.log.origin, 1, b"\x01" * 32), [Signer(signed.log.origin, bytes(32))])
    (own,) = await signed.published()
    header = own.header.model_copy(update={"size": 1, "records": None})
    async with RecordProducer(signed.kafka) as producer:
        topic, value = signed.kafka.topic(Topic.CHECKPOINTS), encode_checkpoint_record(CheckpointRecord(header, note))
        await (await producer.send(topic, 0, value, b"other"))
    await signed.grow(2)
    await signed.sign()


async def test_the_commands_change_the_key_of_a_deployment(
    signed: SignedLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, origin = DataFolder(tmp_path), signed.log.origin
    kafka = [f"--bootstrap={signed.kafka.bootstrap}", f"--prefix={signed.kafka.topic_prefix}"]

    async def rotate(step: str) -> int:
        return await asyncio.to_thread(keys_main, ["rotate", step, f"--data={tmp_path}", *(kafka * (step == "finish"))])

    def verifiers() -> list[Verifier]:
        return [key for key in read_verifiers(folder.vkeys) if key.name == origin]

    async def sign() -> bytes:
        await signed.sign(LogKeys.load(folder.log_keys))
        return (await signed.published())[-1].note

    assert await rotate("begin") == 1
    OLD.save(folder.log_key)
    folder.vkeys.write_text(LogKeys([OLD]).verifier_keys([origin]))
    assert await rotate("finish") == 1
    await signed.grow(3)
    first = await sign()
    assert await rotate("begin") == await rotate("begin") == 0
    old, new = verifiers()
    assert old == OLD.signer(origin).verifier
    assert await rotate("finish") == 1
    assert "not signed by the next key" in capsys.readouterr().err
    second = await sign()
    assert [open_checkpoint(second, [key]).size for key in (old, new)] == [3, 3]
    assert await rotate("finish") == 0
    assert verifiers() == [new]
    assert read_verifiers(folder.keys / "log.retired.vkey")[0] == old
    assert not folder.next_log_key.exists()
    await signed.grow(1)
    third = await sign()
    assert open_checkpoint(third, [new]).size == 4
    with pytest.raises(UnverifiedNote):
        open_checkpoint(third, [old])
    assert open_checkpoint(first, read_verifiers(folder.keys / "log.retired.vkey")).size == 3
    assert await rotate("finish") == 1
    # As after a crash between the last two steps.
    folder.vkeys.write_text(f"{old.vkey}\n{new.vkey}\n")
    assert await rotate("finish") == 0
    assert verifiers() == [new]


def run_checkpointer(kafka: KafkaSettings, data: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run the real worker, which is expected to end by itself; its exit code and all that it said."""
    command = [str(Path(sys.executable).with_name("meterproof")), "checkpointer", "run", f"--data={data}"]
    ended = subprocess.run(
        [*command, f"--bootstrap={kafka.bootstrap}", f"--prefix={kafka.topic_prefix}", "--instance=c", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )
    return ended.returncode, ended.stdout + ended.stderr


async def test_checkpoints_keep_up_with_a_log_that_grows(
    signed: SignedLog, tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """How far they are apart, and how long after a record its first one comes, is measured and told, not judged."""
    OLD.save(tmp_path / "keys" / "log.key")
    where = [f"--data={tmp_path}", f"--bootstrap={signed.kafka.bootstrap}", f"--prefix={signed.kafka.topic_prefix}"]

    async def covered() -> None:
        async with asyncio.timeout(120):
            while True:
                sizes = [one.header.size for one in await signed.published()]
                if sizes and max(sizes) == signed.log.state.position:
                    return
                await asyncio.sleep(0.2)

    with Worker(["checkpointer", "run", *where, "--instance=c"], tmp_path, {}):
        await covered()
        grown = 0
        while grown < 60 or len(await signed.published()) < 4:
            await signed.grow(20)
            grown += 1
            await asyncio.sleep(0.05)
        await covered()
    async with PartitionReader(signed.kafka, signed.kafka.topic(Topic.LOG), 0) as reader:
        end = len(signed.log.records)
        log = {one.offset: one.timestamp_ms async for chunk in reader.read(0, end) for one in chunk}
    async with PartitionReader(signed.kafka, signed.kafka.topic(Topic.CHECKPOINTS), 0) as reader:
        found = [one async for chunk in reader.read(*await reader.bounds()) for one in chunk][1:]
    covering = [(one.timestamp_ms, decode_checkpoint_record(one.value).header.log_offset) for one in found]
    assert len(covering) > 3
    lags = [min(at for at, offset in covering if offset >= record) - log[record] for record in range(1, len(log))]
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(covering[1:])]
    record_testsuite_property(
        "checkpoint lag, ms", {"p50": sorted(lags)[len(lags) // 2], "max": max(lags), "last": lags[-1]}
    )
    record_testsuite_property("time between checkpoints, ms", {"p50": sorted(gaps)[len(gaps) // 2], "max": max(gaps)})


async def test_in_production_something_outside_of_kafka_must_remember(signed: SignedLog, tmp_path: Path) -> None:
    OLD.save(tmp_path / "keys" / "log.key")
    code, said = await asyncio.to_thread(run_checkpointer, signed.kafka, tmp_path, METERPROOF_PRODUCTION="1")
    assert code == NOT_STARTED
    assert "--witness-dir" in said
    assert await signed.published() == []


async def test_kafka_restored_from_yesterdays_copy_signs_nothing(topic_prefix: str, tmp_path: Path) -> None:
    """A copy of the broker's folder, taken while it was stopped; today's audit folder knows of more."""
    folder, data = tmp_path / "kafka", tmp_path / "data"
    OLD.save(data / "keys" / "log.key")
    with LocalBroker(folder) as broker:
        signed = await SignedLog.create(KafkaSettings(bootstrap=broker.bootstrap, topic_prefix=topic_prefix))
        await signed.grow(3)
        await signed.sign()
    shutil.copytree(folder, tmp_path / "yesterday")
    with LocalBroker(folder) as broker:
        signed.kafka = signed.kafka.model_copy(update={"bootstrap": broker.bootstrap})
        await signed.grow(4, 2)
        await signed.sign()
        await signed.audit(data / "audit")
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "yesterday", folder)
    with LocalBroker(folder) as broker:
        kafka = signed.kafka = signed.kafka.model_copy(update={"bootstrap": broker.bootstrap})
        before = await signed.published()
        assert [one.header.size for one in before] == [3]
        for what in ((), (1, 2)):  # as it was; and after the pipeline went on from there, with other events
            rest = LogBuilder(genesis_value=signed.log.records[0][1].value)
            if what:
                rest.batch(3)
                signed.log, signed._sent = rest, len(rest.records)
                await signed.grow(*what, 8)
            code, said = await asyncio.to_thread(run_checkpointer, kafka, data)
            assert code == STOPPED, said
            assert "log_diverged" in said
            assert "audit folder" in said
            assert await signed.published() == before
