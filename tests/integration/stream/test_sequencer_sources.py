"""Source topics as they can be: transactions, nulls, noise, foreign headers; lost, replaced, offsets moved."""

import asyncio
import gzip
import struct
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import for_code
from aiokafka.protocol.admin import DeleteGroupsRequest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import OffsetAndMetadata

from meterproof.kafka.price_books import publish_price_book
from meterproof.kafka.producer import RecordProducer
from meterproof_local.broker import LocalBroker
from meterproof_proofs.command import main as meterproof
from meterproof_schemas.log_record import Operator, decode_record, record_digest
from meterproof_schemas.price_book import parse_price_book
from meterproof_schemas.reasons import Reason
from meterproof_schemas.rejection import decode_rejection
from meterproof_schemas.topics import Topic
from meterproof_stream.runtime import Runtime
from tests.builders import SigningPair, make_event, make_key, make_registry, make_registry_file
from tests.integration.stream.workers import PATIENCE_S, Pipeline, whatever_runs_it

pytestmark = pytest.mark.broker


async def command(*arguments: str) -> int:
    """Run `meterproof` as a person would; it makes an event loop of its own."""
    return await asyncio.to_thread(meterproof, arguments)


_LENGTH_OFFSET = 8
"""Of the length in a batch's header, which the library does not name."""


class NotText:
    """A header key that the library encodes to bytes that are not UTF-8."""

    def encode(self, encoding: str) -> bytes:
        assert encoding == "utf-8"
        return b"\xff\xfe"


async def send_in_transaction(pipeline: Pipeline, partition: int, values: list[bytes], *, commit: bool) -> None:
    args = pipeline.kafka.client_args()
    async with AIOKafkaProducer(**args, transactional_id=f"{pipeline.kafka.topic_prefix}tx") as producer:
        await producer.begin_transaction()
        for value in values:
            await producer.send_and_wait(pipeline.kafka.topic(Topic.BATCHES), value, partition=partition)
        await (producer.commit_transaction() if commit else producer.abort_transaction())


async def send_with_foreign_header(pipeline: Pipeline, partition: int, value: bytes) -> None:
    async with AIOKafkaProducer(**pipeline.kafka.client_args()) as producer:
        batch = producer.create_batch()
        batch._builder = _DefaultRecordBatchBuilderPy(2, 0, False, -1, -1, 0, 1024 * 1024)
        batch.append(key=None, value=value, timestamp=None, headers=[(NotText(), b"value")])
        await (await producer.send_batch(batch, pipeline.kafka.topic(Topic.BATCHES), partition=partition))


async def send_gzip_with_bytes_behind(pipeline: Pipeline, partition: int) -> None:
    """Two records that the broker takes, and the client library raises on for ever."""

    class Builder:
        def build(self) -> Any:
            return raw

        def size(self) -> int:
            return len(raw)

    of = _DefaultRecordBatchBuilderPy
    plain = of(2, 0, False, -1, -1, 0, 1024)
    for number in range(2):
        plain.append(number, 1_000, None, b"value", [])
    records = plain.build()[of.HEADER_STRUCT.size :]
    raw = plain.build()[: of.HEADER_STRUCT.size] + gzip.compress(records) + b"behind"
    struct.pack_into(">i", raw, _LENGTH_OFFSET, len(raw) - of.AFTER_LEN_OFFSET)
    struct.pack_into(">h", raw, of.ATTRIBUTES_OFFSET, of.CODEC_GZIP)
    struct.pack_into(">I", raw, of.CRC_OFFSET, calc_crc32c(bytes(raw[of.ATTRIBUTES_OFFSET :])))
    async with AIOKafkaProducer(**pipeline.kafka.client_args(), enable_idempotence=False) as producer:
        batch = producer.create_batch()
        batch._builder, batch._relative_offset = Builder(), 2
        await (await producer.send_batch(batch, pipeline.kafka.topic(Topic.BATCHES), partition=partition))


async def admin(pipeline: Pipeline) -> Any:
    client = AIOKafkaAdminClient(**pipeline.kafka.client_args())
    await client.start()
    return client


async def delete_records(pipeline: Pipeline, topic: Topic, partition: int, before: int) -> None:
    client = await admin(pipeline)
    try:
        at = TopicPartition(pipeline.kafka.topic(topic), partition)
        await client.delete_records({at: RecordsToDelete(before_offset=before)})
    finally:
        await client.close()


async def delete_topic(pipeline: Pipeline, topic: Topic) -> None:
    client = await admin(pipeline)
    try:
        await client.delete_topics([pipeline.kafka.topic(topic)])
        while pipeline.kafka.topic(topic) in await client.list_topics():
            pass
    finally:
        await client.close()


@whatever_runs_it
async def test_anything_that_kafka_takes_gets_its_verdict(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], runtime: Runtime
) -> None:
    """Transaction markers, aborted records, nulls, noise, header keys that are not text: nothing stops a partition."""
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1, runtime=runtime)
    with pipeline.worker() as worker:
        for round_ in range(3):
            await send_in_transaction(
                pipeline, 0, [pipeline.batch(0, pipeline.new_events(0, 5)) for _ in range(2)], commit=round_ != 1
            )
        await pipeline.send(0, [None, b"noise", b"x" * (700 * 1024)])
        await send_with_foreign_header(pipeline, 0, pipeline.batch(0, pipeline.new_events(0, 5)))
        await send_gzip_with_bytes_behind(pipeline, 0)
        await pipeline.send(0, [pipeline.batch(0, [*pipeline.new_events(0, 3), b"{}"])])
        await pipeline.wait_until_sequenced(worker)
        assert worker.stop() == 0, worker.log()
    await pipeline.check()
    state = await pipeline.log(0)
    assert state.counts == {
        "accepted": 38,
        "malformed_event": 1,
        "record:unreadable_record": 3,
        "record:malformed_batch": 1,
        "record:too_large": 1,
    }
    refused = [decode_rejection(record.value) for record in await pipeline.records(Topic.REJECTED, 0)]
    assert {(rejection.header.reason, rejection.header.line) for rejection in refused} == {
        (Reason.UNREADABLE_RECORD, None),
        (Reason.MALFORMED_BATCH, None),
        (Reason.TOO_LARGE, None),
        (Reason.MALFORMED_EVENT, 3),
    }
    listing = ["rejected", "list", f"--bootstrap={broker.bootstrap}", f"--prefix={topic_prefix}", "--json"]
    assert await command(*listing, "--reason=malformed_event") == 0
    [shown] = map(orjson.loads, capsys.readouterr().out.splitlines())
    assert (shown["reason"], shown["line"], shown["producer"]) == ("malformed_event", 3, "gateway")


async def commit(pipeline: Pipeline, offset: int) -> None:
    """Move the committed offset of every partition; works only while the group has no members."""
    topic = pipeline.kafka.topic(Topic.BATCHES)
    partitions = [TopicPartition(topic, partition) for partition in range(pipeline.partitions)]
    group = f"{pipeline.kafka.topic_prefix}sequencer"
    async with AIOKafkaConsumer(**pipeline.kafka.client_args(), group_id=group, enable_auto_commit=False) as consumer:
        consumer.assign(partitions)
        await consumer.commit(dict.fromkeys(partitions, OffsetAndMetadata(offset, "")))


async def delete_group(pipeline: Pipeline) -> None:
    """Delete the consumer group; works only while it has no members."""
    group = f"{pipeline.kafka.topic_prefix}sequencer"
    client = await admin(pipeline)
    try:
        coordinator = await client.find_coordinator(group)
        answer = await client._send_request_to_node(coordinator, DeleteGroupsRequest([group]))
        for name, code in answer.results:
            if code:
                raise for_code(code)(name)
    finally:
        await client.close()


@pytest.mark.slow
@whatever_runs_it
async def test_committed_offsets_and_groups_mean_nothing(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, runtime: Runtime
) -> None:
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", runtime=runtime)
    moves = [
        lambda: commit(pipeline, 0),
        lambda: commit(pipeline, 30),  # records that are sent next: without the log they would be skipped
        lambda: delete_group(pipeline),
        None,
    ]
    for move in moves:
        for partition in range(2):
            await pipeline.send(partition, [pipeline.batch(partition, pipeline.new_events(partition, 5))] * 10)
        with pipeline.worker("--leave") as worker:  # else the group has a member for a session timeout more
            await pipeline.wait_until_sequenced(worker)
            assert worker.stop() == 0, worker.log()
        if move is not None:
            await move()
    await pipeline.check()
    for partition in range(2):
        state = await pipeline.log(partition)
        assert state.next_source_offset == 40
        assert state.foreign == 0


async def test_lost_records_stop_until_a_person_accepts_the_loss(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1)
    where = [f"--bootstrap={broker.bootstrap}", f"--prefix={topic_prefix}"]
    accept = ["sequencer", "accept-gap", "0", "--reason=deleted by mistake", "--who=Ada", *where]
    await pipeline.send(0, [pipeline.batch(0, [line]) for line in pipeline.new_events(0, 5)])
    assert await command(*accept) == 1
    assert "nothing is lost" in capsys.readouterr().err
    await delete_records(pipeline, Topic.BATCHES, 0, 3)
    del pipeline.events[0][:3]
    with pipeline.worker() as worker:
        assert worker.wait() == 78
        last = worker.events()[-1]
        assert last["stop_reason"] == "source_lost"
        assert "meterproof sequencer accept-gap 0" in last["event"]
        status = worker.status()
        assert status is not None
        assert status["state"] == "failed"
    assert await command(*accept, "--json") == 0
    assert orjson.loads(capsys.readouterr().out) == {
        "kind": "hole",
        "partition": 0,
        "source_offset": 0,
        "source_count": 3,
        "log_offset": 1,
    }
    with pipeline.worker() as worker:
        await pipeline.wait_until_sequenced(worker)
        assert worker.stop() == 0, worker.log()
    await pipeline.check()
    assert (await pipeline.log(0)).counts["record:source_lost"] == 1
    headers = [decode_record(record.value).header for record in await pipeline.records(Topic.LOG, 0)]
    assert [one.operator for one in headers if one.kind == "hole"] == [Operator(who="Ada", why="deleted by mistake")]


async def test_a_record_set_aside_by_a_person(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also under a running sequencer, which notices the other writer, ends, and goes on behind it."""
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1)
    where = [f"--bootstrap={broker.bootstrap}", f"--prefix={topic_prefix}", "--reason=crashes", "--who=Ada"]
    await pipeline.send(0, [b"strange", pipeline.batch(0, pipeline.new_events(0, 2))])
    assert await command("sequencer", "quarantine", "0", "1", *where) == 1
    assert "offset 0, which is due" in capsys.readouterr().err
    assert await command("sequencer", "quarantine", "0", "0", *where) == 0
    capsys.readouterr()
    # However long the person takes: it keeps its partition, and is not told to take it over anew.
    with pipeline.worker(METERPROOF_WORKER_SESSION_TIMEOUT_S="180") as worker:
        await pipeline.wait_until_sequenced(worker)
        worker.process.send_signal(19)  # SIGSTOP: the person is faster
        await pipeline.send(0, [b"strange too"])
        assert await command("sequencer", "quarantine", "0", "2", *where) == 0
        worker.process.send_signal(18)  # SIGCONT
        await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 2))])
        assert worker.wait() == 75
        assert worker.events()[-1]["stop_reason"] == "fenced"
    with pipeline.worker() as worker:
        await pipeline.wait_until_sequenced(worker)
        assert worker.stop() == 0, worker.log()
    await pipeline.check()
    state = await pipeline.log(0)
    assert state.counts["record:quarantined"] == 2
    assert state.foreign >= 1


async def test_a_log_that_was_created_again_is_noticed(broker: LocalBroker, topic_prefix: str, tmp_path: Path) -> None:
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1)
    await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 2))])
    with pipeline.worker() as worker:
        await pipeline.wait_until_sequenced(worker)
        assert worker.stop() == 0, worker.log()
    await delete_topic(pipeline, Topic.LOG)
    await pipeline.create_topics()
    with pipeline.worker() as worker:
        assert worker.wait() in {1, 78}
        assert "log_diverged" in worker.log()


@whatever_runs_it
async def test_a_source_that_was_created_again_is_noticed(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, runtime: Runtime
) -> None:
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1, runtime=runtime)
    await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 2)) for _ in range(3)])
    with pipeline.worker() as worker:
        await pipeline.wait_until_sequenced(worker)
        assert worker.stop() == 0, worker.log()
    await delete_topic(pipeline, Topic.BATCHES)
    await pipeline.create_topics()
    for count in (1, 3):
        await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 2)) for _ in range(count)])
        with pipeline.worker() as worker:
            assert worker.wait() == 78
            assert worker.events()[-1]["stop_reason"] == "source_diverged"


@pytest.mark.parametrize("index", ["memory", "rocksdb"])
async def test_a_source_that_was_filled_again_so_that_its_last_record_agrees_is_noticed(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, index: str
) -> None:
    """By older records, which are others; and where every record is the same, by the time when it was appended."""
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1)
    first = [pipeline.batch(0, pipeline.new_events(0, 2)) for _ in range(9)]
    others = [pipeline.batch(0, pipeline.new_events(0, 2)) for _ in range(9)]
    await pipeline.send(0, [*first])
    with pipeline.worker(f"--index={index}") as worker:
        await pipeline.wait_until_sequenced(worker)
        assert await asyncio.to_thread(worker.stop) == 0, worker.log()
    faults = []
    for again in ([*others[:8], first[8]], first):
        await delete_topic(pipeline, Topic.BATCHES)
        await pipeline.create_topics()
        await pipeline.send(0, [*again, others[8]])
        with pipeline.worker(f"--index={index}") as worker:
            assert await asyncio.to_thread(worker.wait) == 78, worker.log()
            assert worker.events()[-1]["stop_reason"] == "source_diverged"
            faults.append(worker.events()[-1]["event"])
    assert "another record at offset 0" in faults[0]
    assert "appended at another time" in faults[1]
    assert (await pipeline.log(0)).next_source_offset == 9


@pytest.mark.slow
async def test_a_source_that_is_created_again_under_a_running_worker_is_noticed(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path
) -> None:
    """The group loses its partitions with the old topic, and gets those of the new one; the take-over compares."""
    pipeline = await Pipeline.create(
        broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1, runtime=Runtime.ASYNCIO
    )
    await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 2)) for _ in range(3)])
    with pipeline.worker() as worker:
        await pipeline.wait_until_sequenced(worker)
        await delete_topic(pipeline, Topic.BATCHES)
        await asyncio.to_thread(worker.wait_until, lambda status: not status["partitions"])
        await pipeline.create_topics()
        await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 2)) for _ in range(6)])
        assert await asyncio.to_thread(worker.wait) == 78
        assert worker.events()[-1]["stop_reason"] == "source_diverged"
    assert (await pipeline.log(0)).next_source_offset == 3


@pytest.mark.slow
@whatever_runs_it
async def test_a_member_that_was_left_without_partitions_gets_them_when_it_comes_back(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, runtime: Runtime
) -> None:
    """A static member is given back what it had, which is nothing if its topic was away just then."""
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=2, runtime=runtime)
    session = {"METERPROOF_WORKER_SESSION_TIMEOUT_S": "180"}
    with pipeline.worker(**session) as worker:  # type: ignore[arg-type]  # only variables
        await asyncio.to_thread(worker.wait_until_holding)
        await delete_topic(pipeline, Topic.BATCHES)
        await asyncio.to_thread(worker.wait_until, lambda status: not status["partitions"])
        worker.kill()
    await pipeline.create_topics()
    with pipeline.worker(**session) as worker:  # type: ignore[arg-type]
        await asyncio.to_thread(worker.wait_until_holding)
        for partition in range(2):
            await pipeline.send(partition, [pipeline.batch(partition, pipeline.new_events(partition, 2))])
        await pipeline.wait_until_sequenced(worker)
        assert "membership_left" in worker.log()
    await pipeline.check()


async def test_echoes_in_the_log_are_counted_and_passed(broker: LocalBroker, topic_prefix: str, tmp_path: Path) -> None:
    """What others write to the log neither stops the writer nor counts."""
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1)
    with pipeline.worker() as worker:
        for _ in range(3):
            await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 2)) for _ in range(3)])
            await pipeline.wait_until_sequenced(worker)
            records = await pipeline.records(Topic.LOG, 0)
            async with RecordProducer(pipeline.kafka) as producer:
                for value in (records[-2].value, b"junk"):
                    await (await producer.send(pipeline.kafka.topic(Topic.LOG), 0, value))
        await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 2))])
        await pipeline.wait_until_sequenced(worker)
        assert worker.stop() == 0, worker.log()
        status = worker.status()
        assert status is not None
        assert status["partitions"]["0"]["foreign"] == 6
    await pipeline.check()
    assert (await pipeline.log(0)).foreign == 6


@whatever_runs_it
async def test_a_record_of_a_newer_sequencer_stops_an_older_one_running_or_not(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, runtime: Runtime
) -> None:
    """A rolling update in which both are at work: the older one neither writes behind it nor passes it by."""
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1, runtime=runtime)
    with pipeline.worker() as worker:
        await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 2))])
        await pipeline.wait_until_sequenced(worker)
        last = (await pipeline.records(Topic.LOG, 0))[-1].value or b""
        header = orjson.loads(last.split(b"\n", 1)[0]) | {"v": 2, "prev": record_digest(last)}
        async with RecordProducer(pipeline.kafka) as producer:
            await (await producer.send(pipeline.kafka.topic(Topic.LOG), 0, orjson.dumps(header) + b"\n"))
        await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 2))])
        assert await asyncio.to_thread(worker.wait) == 75
        assert worker.events()[-1]["stop_reason"] == "fenced"
    with pipeline.worker(instance="again") as worker:
        assert await asyncio.to_thread(worker.wait) == 78
        assert "a newer sequencer wrote it" in worker.events()[-1]["event"]


async def test_keys_and_meters_change_while_it_runs(broker: LocalBroker, topic_prefix: str, tmp_path: Path) -> None:
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1)
    registry = tmp_path / "data" / "keys" / "registry.json"
    late = make_key("late")

    async def verdict(usage: dict[str, int], *, signer: SigningPair) -> set[str]:
        """What a fresh event with this usage is met with."""
        before = (await pipeline.log(0)).counts
        number = pipeline.sequences.get(0, 0)
        line = make_event(f"probe{number}", time_ms=time.time_ns() // 1_000_000, usage=usage)
        await pipeline.send(0, [pipeline.batch(0, [line], key=signer)])
        await pipeline.wait_until_sequenced(worker)
        return set((await pipeline.log(0)).counts - before)

    async def until(expected: str, usage: dict[str, int], *, signer: SigningPair) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while (found := await verdict(usage, signer=signer)) != {expected}:
            assert time.monotonic() < deadline_s, found
            await asyncio.sleep(0.2)

    with pipeline.worker() as worker:
        await asyncio.to_thread(worker.wait_until_holding)
        assert await verdict({"requests": 1}, signer=late) == {"record:unknown_key"}
        registry.write_bytes(make_registry_file(pipeline.key, late))
        await until("accepted", {"requests": 1}, signer=late)
        registry.write_bytes(b"{")
        await asyncio.to_thread(worker.wait_until, lambda status: status["registry_fault"] is not None)
        assert await verdict({"requests": 1}, signer=late) == {"accepted"}, "a faulty file changes nothing"
        assert any("registry_faulty" in event["event"] for event in worker.events())

        assert await verdict({"smiles": 1}, signer=late) == {"unknown_meter"}
        book = {"version": 1, "currency": "USD", "meters": [{"name": "smiles", "unit": "smile"}], "prices": []}
        await publish_price_book(pipeline.kafka, parse_price_book(orjson.dumps(book)))
        await until("accepted", {"smiles": 1}, signer=late)
        assert await verdict({"requests": 1}, signer=late) == {"unknown_meter"}
        assert await asyncio.to_thread(worker.stop) == 0, worker.log()
    last = decode_record((await pipeline.records(Topic.LOG, 0))[-1].value).header
    assert last.price_book == 1
    assert last.registry == make_registry(pipeline.key, late).digest


async def test_what_is_missing_is_said_in_one_line(broker: LocalBroker, topic_prefix: str, tmp_path: Path) -> None:
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1)
    registry = tmp_path / "data" / "keys" / "registry.json"
    content = registry.read_bytes()
    registry.unlink()
    with pipeline.worker() as worker:
        assert await asyncio.to_thread(worker.wait) == 1
        [line] = worker.log().splitlines()
        assert "registry.json" in line
        assert "keygen" in line
    registry.write_bytes(content)
    with pipeline.worker(f"--prefix={topic_prefix}absent.") as worker:
        assert await asyncio.to_thread(worker.wait) == 1
        assert "does not exist" in worker.log()
        assert "Traceback" not in worker.log()


@pytest.mark.slow
@whatever_runs_it
async def test_a_broker_that_crashes_and_comes_back(topic_prefix: str, tmp_path: Path, runtime: Runtime) -> None:
    with LocalBroker(tmp_path / "kafka") as broker:
        pipeline = await Pipeline.create(
            broker.bootstrap, topic_prefix, tmp_path / "data", partitions=2, runtime=runtime
        )
        with pipeline.worker() as worker:
            await asyncio.to_thread(worker.wait_until_holding)
            for _ in range(2):
                for partition in range(2):
                    values = [pipeline.batch(partition, pipeline.new_events(partition, 5)) for _ in range(100)]
                    await pipeline.send(partition, [*values])
                broker.kill()
                await asyncio.sleep(1)
                broker.start()
            await pipeline.wait_until_sequenced(worker)
            assert await asyncio.to_thread(worker.stop) == 0, worker.log()
        await pipeline.check()
