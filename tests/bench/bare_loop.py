"""The least that a loop of this kind does: what the sequencer's figure is put into proportion with on any machine.

`python -m tests.bench.bare_loop JOB`: plain aiokafka without a group, one Ed25519 signature per batch, msgspec, a dict
against duplicates, a leaf hash per event and a Merkle root per batch, one idempotent produce. No verdicts, no chain, no
limits, no authority of keys, nothing kept, no way back after a crash.
"""

import asyncio
import hashlib
import sys
from base64 import b64decode
from typing import Any, Final

import msgspec
import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from nacl.signing import VerifyKey

from meterproof.kafka.reader import PartitionReader
from meterproof_proofs.frontier import Frontier
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.batch import signed_bytes
from meterproof_schemas.keys import parse_registry
from meterproof_schemas.topics import Topic
from tests.bench.load import PARTITIONS, registry
from tests.bench.result import Run
from tests.bench.rig import Rig, expect

_OUTPUT: Final = "bare"
_IN_FLIGHT_MAX: Final = 500


class _Data(msgspec.Struct, gc=False):
    customer: str
    usage: dict[str, int]
    provider: str | None = None
    model: str | None = None


class _Event(msgspec.Struct, gc=False):
    id: str
    source: str
    time: str
    subject: str
    data: _Data


async def measure_bare_loop(rig: Rig, *, batch: int, events: int) -> Run:
    """Drain a topic that was filled before; the rate is of input events, by the append time of what was put out."""
    async with rig.deployment() as deployment:
        expected = await deployment.publish("batches", batch=batch, events=events)
        topic = f"{deployment.kafka.topic_prefix}{_OUTPUT}"
        await rig.create_topics([topic])
        try:
            rig.say("looping")
            job = {
                "bootstrap": deployment.kafka.bootstrap,
                "source": deployment.kafka.topic(Topic.BATCHES),
                "output": topic,
                "records": [one.records for one in expected],
            }
            command = [sys.executable, "-m", "tests.bench.bare_loop", orjson.dumps(job).decode()]
            with rig.started(command, measured=True) as process:
                await process.end()
            rig.say("checking the result")
            output: list[tuple[float, int]] = []
            for one in expected:
                accepted, root = 0, ""
                async with PartitionReader(deployment.kafka, topic, one.partition) as reader:
                    async for chunk in reader.read(*await reader.bounds()):
                        for record in chunk:
                            head = orjson.loads((record.value or b"").partition(b"\n")[0])
                            output.append((record.timestamp_ms, head["events"]))
                            accepted, root = accepted + head["accepted"], head["root"]
                expect(f"partition {one.partition}: accepted", accepted, one.accepted)
                expect(f"partition {one.partition}: root", root, one.root)
            return rig.run_of(output, process)
        finally:
            await rig.delete_topics([topic])


async def loop(job: dict[str, Any]) -> None:
    """Read every record once and put out what is new in it."""
    keys = {entry.key_id: VerifyKey(b64decode(entry.public_key or "")) for entry in _entries()}
    decoder = msgspec.json.Decoder(_Event)
    seen: list[dict[tuple[str, str], bytes]] = [{} for _ in range(PARTITIONS)]
    frontiers = [Frontier() for _ in range(PARTITIONS)]
    left = list(job["records"])
    consumer = AIOKafkaConsumer(bootstrap_servers=job["bootstrap"], enable_auto_commit=False)
    producer = AIOKafkaProducer(
        bootstrap_servers=job["bootstrap"],
        acks="all",
        enable_idempotence=True,
        linger_ms=5,
        max_batch_size=1024 * 1024,
        max_request_size=4 * 1024 * 1024,
    )
    await consumer.start()
    await producer.start()
    in_flight: set[asyncio.Future[Any]] = set()
    try:
        places = [TopicPartition(job["source"], partition) for partition in range(PARTITIONS)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        while any(left):
            for at, records in (await consumer.getmany(timeout_ms=1000, max_records=200)).items():
                known, frontier = seen[at.partition], frontiers[at.partition]
                left[at.partition] -= len(records)
                for record in records:
                    header, signatures, *lines = record.value.split(b"\n")[:-1]
                    for signature in orjson.loads(signatures)["signatures"]:
                        keys[signature["key_id"]].verify(signed_bytes(header), b64decode(signature["signature"]))
                    fresh: list[bytes] = []
                    entries: list[bytes] = []
                    for line, event in zip(lines, decoder.decode_lines(b"\n".join(lines)), strict=True):
                        identity = (event.source, event.id)
                        if identity not in known:
                            known[identity] = entry = hashlib.sha256(line).digest()
                            fresh.append(line)
                            entries.append(entry)
                    frontier.extend(leaf_hashes(entries))
                    head = {"events": len(lines), "accepted": len(fresh), "root": frontier.root().hex()}
                    value = b"\n".join([orjson.dumps(head), *fresh])
                    sent = await producer.send(job["output"], value, partition=at.partition)
                    in_flight.add(sent)
                    sent.add_done_callback(in_flight.discard)
                    if len(in_flight) >= _IN_FLIGHT_MAX:
                        await asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED)
        await producer.flush()
    finally:
        await producer.stop()
        await consumer.stop()


def _entries() -> list[Any]:
    return list(parse_registry(registry()).entries.values())


if __name__ == "__main__":
    asyncio.run(loop(orjson.loads(sys.argv[1])))
