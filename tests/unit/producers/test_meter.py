"""The meter's promises over a transport in memory: refused at the call, in order, chained, kept on failure."""

import asyncio
import hashlib
import os
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meterproof import (
    BufferFull,
    DeliveryFailed,
    InvalidKey,
    InvalidSettings,
    Meter,
    MeterClosed,
    MeterSettings,
    ProducerKey,
    SyncMeter,
    WrongPartitionCount,
)
from meterproof.testing import MemoryTransport
from meterproof_schemas.batch import Batch, decode_batch, root_of_lines
from meterproof_schemas.errors import InvalidEvent
from meterproof_schemas.event import parse_event
from meterproof_schemas.keys import encode_registry, parse_registry
from meterproof_schemas.partitioner import partition_of
from meterproof_schemas.reasons import Reason

KEY = ProducerKey(bytes(range(32)))
NOW_US = 1_795_255_200_000_000
REGISTRY = parse_registry(
    encode_registry([KEY.entry("gateway", sources=("gateway",), agents=("*",), customers=("acme",))])
)


def settings(**changes: object) -> MeterSettings:
    """Settings of a meter whose timer never fires unless a test asks for it."""
    values: dict[str, object] = {
        "deployment": "test",
        "producer": "gateway",
        "source": "gateway",
        "key_file": Path("unused"),
        "flush_interval_s": 3600,
    }
    return MeterSettings.model_validate(values | changes)


def meter(transport: MemoryTransport, **changes: object) -> Meter:
    """A meter with a fixed key and clock."""
    return Meter(settings(**changes), transport, key=KEY, clock_us=lambda: NOW_US)


def batches(transport: MemoryTransport, partition: int) -> list[Batch]:
    """Batches that reached a partition, in order."""
    return [decode_batch(value) for at, value in transport.batches if at == partition]


async def test_every_event_is_signed_once_in_order_in_its_agents_partition() -> None:
    transport = MemoryTransport(partitions=3)
    async with meter(transport, batch_lines_max=7) as open_meter:
        ids = [
            await open_meter.record(agent=f"agent-{n % 11}", customer="acme", usage={"input_tokens": n})
            for n in range(100)
        ]
    seen: list[str] = []
    for partition in range(3):
        previous = None
        for sequence, batch in enumerate(batches(transport, partition)):
            assert (batch.header.sequence, batch.header.previous) == (sequence, previous)
            previous = hashlib.sha256(batch.header_line).hexdigest()
            assert batch.header.root == root_of_lines(batch.lines).hex()
            assert REGISTRY.authorities(batch.header_line, batch.signatures, "gateway", NOW_US // 1000)
            events = [parse_event(line) for line in batch.lines]
            assert all(partition_of(event.subject, 3) == partition for event in events)
            quantities = [int(event.data.usage["input_tokens"]) for event in events]
            assert quantities == sorted(quantities)
            seen += [event.id for event in events]
    assert sorted(seen) == sorted(ids)


@pytest.mark.parametrize(
    ("usage", "where"),
    [
        ({"input_tokens": 1.5}, "data.usage.input_tokens"),
        ({"input_tokens": float("nan")}, "data.usage.input_tokens"),
        ({"input_tokens": 2**64}, "cannot be written"),
        ({"input_tokens": 2**63}, "data.usage.input_tokens"),
        ({"input_tokens": "1e400"}, "data.usage.input_tokens"),
        ({"input_tokens": True}, "data.usage.input_tokens"),
        ({"input_tokens": -1}, "data.usage.input_tokens"),
        ({"input_tokens": Decimal("NaN")}, "cannot be written"),
        ({}, "data.usage"),
        ({"Input": 1}, "data.usage"),
    ],
)
async def test_a_bad_quantity_is_refused_at_the_call_with_its_field(usage: dict[str, object], where: str) -> None:
    transport = MemoryTransport()
    async with meter(transport) as open_meter:
        with pytest.raises(InvalidEvent) as caught:
            await open_meter.record(agent="a", customer="acme", usage=usage)  # type: ignore[arg-type]
        assert caught.value.reason is Reason.MALFORMED_EVENT
        assert where in caught.value.detail
    assert transport.batches == []


async def test_a_name_with_a_control_character_or_an_empty_id_is_refused() -> None:
    async with meter(MemoryTransport()) as open_meter:
        for bad in ({"agent": "a\x00b"}, {"agent": ""}, {"customer": "a\nb"}, {"id": ""}, {"id": "é" * 129}):
            with pytest.raises(InvalidEvent):
                await open_meter.record(**({"agent": "a", "customer": "acme", "usage": {"requests": 1}} | bad))  # type: ignore[arg-type]
        with pytest.raises(InvalidEvent, match="zone"):
            await open_meter.record(agent="a", customer="c", usage={"requests": 1}, time=datetime(2026, 1, 1))  # noqa: DTZ001


async def test_decimals_are_spelled_exactly_and_fields_are_kept() -> None:
    transport = MemoryTransport(partitions=1)
    async with meter(transport) as open_meter:
        await open_meter.record(
            agent="a",
            customer="acme",
            usage={"seconds": Decimal("0.100000000001"), "requests": Decimal("1E+2")},
            id="one",
            time=datetime(2026, 1, 31, 23, 59, 59, 123456, tzinfo=UTC),
            model="m",
            tags={"team": "red"},
            latency={"total_us": 12},
        )
    [line] = batches(transport, 0)[0].lines
    event = parse_event(line)
    assert event.data.usage == {"seconds": "0.100000000001", "requests": "100"}
    assert (event.id, event.time) == ("one", "2026-01-31T23:59:59.123456Z")
    assert event.data.tags == {"team": "red"}
    assert event.data.latency is not None
    assert event.data.latency.total_us == 12
    assert event.data.salt is not None


async def test_the_timer_seals_what_waits() -> None:
    transport = MemoryTransport(partitions=1)
    async with meter(transport, flush_interval_s=0.01) as open_meter:
        await open_meter.record(agent="a", customer="acme", usage={"requests": 1})
        async with asyncio.timeout(60):
            while open_meter.buffered:  # noqa: ASYNC110 - what is waited for is the meter's own timer
                await asyncio.sleep(0.005)
        assert len(transport.batches) == 1


async def test_a_failed_delivery_is_reported_kept_and_sent_again_unchanged() -> None:
    transport = MemoryTransport(partitions=1)
    transport.refuse.append(ConnectionError("broker gone"))
    async with meter(transport) as open_meter:
        await open_meter.record(agent="a", customer="acme", usage={"requests": 1}, id="one")
        with pytest.raises(DeliveryFailed, match="broker gone") as caught:
            await open_meter.flush()
        assert (caught.value.batches, caught.value.events, caught.value.retriable) == (1, 1, True)
        assert open_meter.buffered == 1
        await open_meter.flush()
        assert open_meter.buffered == 0
    [batch] = batches(transport, 0)
    assert batch.header.sequence == 0


async def test_a_full_buffer_refuses_in_time_and_loses_nothing() -> None:
    class Stuck(MemoryTransport):
        async def send(self, partition: int, value: bytes) -> asyncio.Future[object]:
            self.batches.append((partition, value))
            return waiting

    waiting: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    transport = Stuck(partitions=1)
    open_meter = await meter(transport, buffer_events_max=2, room_timeout_s=0.01).open()
    for _ in range(2):
        await open_meter.record(agent="a", customer="acme", usage={"requests": 1})
    with pytest.raises(BufferFull):
        await open_meter.record(agent="a", customer="acme", usage={"requests": 1})
    waiting.set_result(None)
    await open_meter.close()
    assert sum(len(batch.lines) for batch in batches(transport, 0)) == 2


async def test_a_batch_never_exceeds_its_bytes() -> None:
    transport = MemoryTransport(partitions=1)
    async with meter(transport) as open_meter:
        for _ in range(20):
            await open_meter.record(
                agent="a",
                customer="acme",
                usage={"requests": 1},
                request_signature="x" * 4096,
                tags={f"t{n}": "y" * 256 for n in range(64)},
            )
    assert sum(len(batch.lines) for batch in batches(transport, 0)) == 20


async def test_a_closed_meter_and_a_wrong_partition_count_say_so() -> None:
    with pytest.raises(WrongPartitionCount, match="4 partitions"):
        await meter(MemoryTransport(partitions=4), partitions=3).open()
    closed = meter(MemoryTransport())
    with pytest.raises(MeterClosed):
        await closed.record(agent="a", customer="acme", usage={"requests": 1})
    with pytest.raises(MeterClosed):
        await closed.flush()


def test_the_sync_meter_keeps_the_same_promises() -> None:
    transport = MemoryTransport(partitions=1)
    with SyncMeter(lambda: meter(transport)) as sync_meter:
        with pytest.raises(InvalidEvent):
            sync_meter.record(agent="a", customer="acme", usage={"requests": 0.5})  # type: ignore[dict-item]
        sync_meter.record(agent="a", customer="acme", usage={"requests": 1})
        sync_meter.flush()
        assert len(transport.batches) == 1
    with pytest.raises(MeterClosed):
        sync_meter.flush()


def test_keys_are_written_once_for_their_owner_and_never_shown(tmp_path: Path) -> None:
    key = ProducerKey.generate()
    path = tmp_path / "deep" / "gateway.key"
    key.save(path)
    assert ProducerKey.load(path).key_id == key.key_id
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().strip()[-8:] not in repr(key)
    with pytest.raises(InvalidKey, match="never overwritten"):
        key.save(path)
    path.chmod(0o644)
    with pytest.raises(Exception, match="chmod 600"):
        ProducerKey.load(path)
    path.chmod(0o600)
    path.write_text("METERPROOF+LOG+ED25519+AAAA")
    with pytest.raises(Exception, match="not of the kind"):
        ProducerKey.load(path)


async def test_an_event_is_taken_back_or_replaced_by_its_line() -> None:
    transport = MemoryTransport(partitions=1)
    async with meter(transport) as open_meter:
        line = open_meter.line(agent="a", customer="acme", usage={"requests": 1, "seconds": Decimal("0.5")}, model="m")
        await open_meter.record_line(line)
        voided = await open_meter.void(line)
        usage: dict[str, int | str | Decimal] = {"requests": Decimal("2.50"), "seconds": 1}
        assert await open_meter.replace(line, usage=usage, id="mine") == "mine"
    (batch,) = batches(transport, 0)
    event, void, replacement = map(parse_event, batch.lines)
    assert (void.id, replacement.id) == (voided, "mine")
    for correction, kind in ((void, "void"), (replacement, "replace")):
        corrects = correction.data.corrects
        assert corrects is not None
        assert (corrects.id, corrects.kind, corrects.line) == (event.id, kind, line.decode())
        assert (correction.time, correction.subject, correction.data.model) == (event.time, "a", "m")
        assert correction.data.salt not in {None, event.data.salt}
    assert void.data.usage == event.data.usage
    assert replacement.data.usage == {"requests": "2.5", "seconds": 1}


async def test_what_cannot_be_corrected_so_is_refused_at_the_call() -> None:
    transport = MemoryTransport(partitions=1)
    async with meter(transport) as open_meter:
        line = open_meter.line(agent="a", customer="acme", usage={"requests": 1})
        await open_meter.void(line)
        wrong: list[tuple[dict[str, Any], Reason]] = [
            ({"seconds": 1}, Reason.CORRECTION_NOT_ALLOWED),
            ({"requests": 1.5}, Reason.MALFORMED_EVENT),
            ({"requests": 2**70}, Reason.MALFORMED_EVENT),
        ]
        for usage, reason in wrong:
            with pytest.raises(InvalidEvent) as refused:
                await open_meter.replace(line, usage=usage)
            assert refused.value.reason == reason
        await open_meter.flush()
        (batch,) = batches(transport, 0)
        with pytest.raises(InvalidEvent, match="itself a correction"):
            await open_meter.void(batch.lines[0])
    assert len(batches(transport, 0)) == 1


def test_the_blocking_meter_corrects_too() -> None:
    transport = MemoryTransport(partitions=1)
    with SyncMeter(lambda: meter(transport)) as open_meter:
        line = open_meter.line(agent="a", customer="acme", usage={"requests": 1})
        open_meter.record_line(line)
        open_meter.void(line, id="v")
        open_meter.replace(line, usage={"requests": 2}, id="r")
    (batch,) = batches(transport, 0)
    assert [parse_event(one).id for one in batch.lines[1:]] == ["v", "r"]


def test_variables_that_are_missing_or_faulty_are_named_and_their_values_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in os.environ if name.startswith("METERPROOF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("METERPROOF_SOURCE", "gateway")
    monkeypatch.setenv("METERPROOF_PARTITIONS", "s3cret")
    with pytest.raises(InvalidSettings) as refused:
        Meter.from_env()
    told = str(refused.value)
    assert told.startswith("set METERPROOF_DEPLOYMENT, METERPROOF_PRODUCER, METERPROOF_KEY_FILE in the environment; ")
    assert "METERPROOF_PARTITIONS: " in told
    assert "METERPROOF_SOURCE" not in told
    assert "s3cret" not in f"{told}{refused.value.__cause__}"


def test_faulty_variables_of_kafka_are_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEPLOYMENT", "PRODUCER", "SOURCE", "KEY_FILE"):
        monkeypatch.setenv(f"METERPROOF_{name}", "there")
    monkeypatch.setenv("METERPROOF_KAFKA_REQUEST_TIMEOUT_S", "soon")
    with pytest.raises(InvalidSettings, match="METERPROOF_KAFKA_REQUEST_TIMEOUT_S: "):
        Meter.from_env()
    monkeypatch.delenv("METERPROOF_KAFKA_REQUEST_TIMEOUT_S")
    monkeypatch.setenv("METERPROOF_KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    with pytest.raises(InvalidSettings, match="needs METERPROOF_KAFKA_SASL_USERNAME"):
        Meter.from_env()
