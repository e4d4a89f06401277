"""Refused batches come again, byte for byte, when the cause of their refusal was repaired, and count once."""

import asyncio
import time
from pathlib import Path

import orjson
import pytest

from meterproof.kafka.price_books import publish_price_book
from meterproof_local.broker import LocalBroker
from meterproof_proofs.command import main as meterproof
from meterproof_schemas.correction import correction_line
from meterproof_schemas.log_record import decode_record
from meterproof_schemas.price_book import DEFAULT_METERS, parse_price_book
from meterproof_schemas.topics import Topic
from tests.builders import make_event, make_key, make_registry_file
from tests.integration.stream.test_sequencer_sources import delete_records
from tests.integration.stream.workers import Pipeline

pytestmark = pytest.mark.broker


async def test_what_was_refused_is_accepted_after_the_cause_was_repaired(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown key, a meter that was not declared, and events that no repair helps."""
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1)
    meters = [meter.model_dump() for meter in DEFAULT_METERS]
    book = {"version": 1, "currency": "USD", "meters": meters, "prices": []}
    await publish_price_book(pipeline.kafka, parse_price_book(orjson.dumps(book)))
    now_ms, late = time.time_ns() // 1_000_000, make_key("late")
    smile = make_event("smile", time_ms=now_ms, usage={"smiles": 1})
    whole = pipeline.batch(0, pipeline.new_events(0, 3), key=late)
    trimmed = pipeline.batch(0, pipeline.new_events(0, 2), key=late)
    later = make_event("later", time_ms=now_ms)
    # Refused with its event; refused, its event is accepted; accepted, and its event is let in only behind it.
    voids = [
        correction_line(line, correction_id=f"void {number}", kind="void", salt="0" * 32)
        for number, line in enumerate([pipeline.events[0][0], later, pipeline.events[0][1]])
    ]
    taken_back = pipeline.batch(0, voids[:2], key=late)
    too_old = pipeline.batch(0, [make_event("old", time_ms=now_ms - 25 * 3_600_000)], key=late)
    mixed = pipeline.batch(0, [*pipeline.new_events(0, 2), smile])
    pipeline.events[0] += [smile, later, *voids]
    await pipeline.send(0, [trimmed, whole, whole, mixed, too_old, taken_back, pipeline.batch(0, [later, voids[2]])])
    where = [f"--data={pipeline.data}", f"--bootstrap={broker.bootstrap}", f"--prefix={topic_prefix}"]

    async def run(*arguments: str) -> tuple[int, str]:
        code = await asyncio.to_thread(meterproof, ["rejected", *arguments, *where])
        told = capsys.readouterr()
        return code, told.out + told.err

    assert await run("list") == (0, "nothing refused\n")
    nothing = "nothing refused for key_not_allowed, unknown_key, unknown_meter; others by --reason\n"
    assert await run("replay") == (0, nothing)
    with pipeline.worker() as worker:
        await pipeline.wait_until_sequenced(worker)
        code, told = await run("replay", "--json")
        assert code == 1
        assert orjson.loads(told)["refused_again"] == {"batch:unknown_key": 4, "unknown_meter": 1}
        assert orjson.loads(told)["offered_batches"] == 0

        (pipeline.data / "keys" / "registry.json").write_bytes(make_registry_file(pipeline.key, late))
        book |= {"version": 2, "meters": [*meters, {"name": "smiles", "unit": "smile"}]}
        await publish_price_book(pipeline.kafka, parse_price_book(orjson.dumps(book)))
        assert await asyncio.to_thread(worker.stop) == 0, worker.log()
    await delete_records(pipeline, Topic.BATCHES, 0, 1)  # one is only left in `usage.rejected`

    end = await pipeline.source_end(0)
    code, told = await run("replay", "--dry-run", "--json")
    assert code == 1
    expected = {
        "partition": 0,
        "refused_batches": 6,
        "offered_batches": 4,
        "accepted_events": 8,
        "corrections": {"applied": 2},
        "counted_before": 2,
        "refused_again": {"too_late": 1},
        "unavailable": [],
    }
    assert orjson.loads(told) == expected
    assert await pipeline.source_end(0) == end
    code, told = await run("replay")
    assert code == 1
    assert "4 sent again: 8 events will be accepted, 2 are counted already" in told
    assert "1 will be refused again: too_late" in told
    assert await pipeline.source_end(0) == end + 4
    with pipeline.worker() as worker:
        await pipeline.wait_until_sequenced(worker)
        assert await asyncio.to_thread(worker.stop) == 0, worker.log()
    await pipeline.check()
    carried = [decode_record(record.value).carried for record in (await pipeline.records(Topic.LOG, 0))[-4:]]
    assert carried == [tuple(value.split(b"\n")[:2]) for value in (trimmed, whole, mixed, taken_back)]
    counts = (await pipeline.log(0)).counts
    assert (counts["correction:applied"], counts["correction:unknown_target"]) == (2, 1)
    assert not any(producer == "late" for producer, _ in (await pipeline.log(0)).series.gaps())
    code, told = await run("replay", "--json")
    assert orjson.loads(told) | {"refused_batches": 6, "offered_batches": 0, "accepted_events": 0} == orjson.loads(told)


async def test_bytes_that_are_gone_are_told(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line that was refused is kept, but without its batch nobody signed it."""
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1)
    smile = make_event("smile", time_ms=time.time_ns() // 1_000_000, usage={"smiles": 1})
    await pipeline.send(0, [pipeline.batch(0, [smile]), pipeline.batch(0, pipeline.new_events(0, 1))])
    with pipeline.worker() as worker:
        await pipeline.wait_until_sequenced(worker)
        assert await asyncio.to_thread(worker.stop) == 0, worker.log()
    await delete_records(pipeline, Topic.BATCHES, 0, 1)
    where = [f"--data={pipeline.data}", f"--bootstrap={broker.bootstrap}", f"--prefix={topic_prefix}"]
    assert await asyncio.to_thread(meterproof, ["rejected", "replay", *where]) == 1
    assert "1 are gone: source offsets 0" in capsys.readouterr().out
