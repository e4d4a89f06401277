"""The faults, each by its name: what it does, and what must hold again afterwards beside what holds after every fault.

After every fault, everything that was sent arrives in the log, in every stage and in every sink: see `recovery`.
"""

import asyncio
import contextlib
import random
import resource
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import DeleteGroupsRequest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.structs import OffsetAndMetadata

from meterproof.kafka.connection import admin_client
from meterproof.keys import ProducerKey
from meterproof_local.simulation import AGENTS, Agent
from meterproof_schemas.keys import encode_registry, load_registry
from meterproof_schemas.topics import Topic
from meterproof_stream.kept_state import KeptState
from tests.chaos.rig import (
    GROUP_MEMBERS,
    ON_DISK,
    PARTITIONS,
    SEQUENCERS,
    SESSION_TIMEOUT_S,
    STAGES,
    WORKERS,
    Rig,
    pause,
    resume,
)
from tests.log_builder import LogBuilder

Inject = Callable[[Rig, random.Random], Awaitable[str]]
"""Strikes, and returns what exactly it did when the cause is gone; draws all its luck from what it is given."""

_NON_EMPTY_GROUP: Final = 68
_BOMB_BYTES: Final = 64 << 20
_FULL_BYTES: Final = 4096
"""Beyond which a file on a full disk does not grow."""
_POLL_S: Final = 0.05
_RETRY_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to hurt a pipeline."""

    name: str
    inject: Inject
    times: int
    """In one round of the schedule."""
    recovered: Callable[[Rig], bool]
    """What must come to hold afterwards, beside the arrival of everything sent."""
    slow: bool
    """Whether recovery waits for time limits of half a minute: too long for a short run."""


FAULTS: Final[dict[str, Fault]] = {}


def fault(
    name: str, *, times: int = 1, recovered: Callable[[Rig], bool] = lambda _: True, slow: bool = False
) -> Callable[[Inject], Inject]:
    """Enter a function into `FAULTS`."""

    def enter(inject: Inject) -> Inject:
        FAULTS[name] = Fault(name, inject, times, recovered, slow)
        return inject

    return enter


# --- workers ---------------------------------------------------------------------------------------------------------


def _enter_kill(name: str) -> None:
    @fault(f"kill -9 {name}")
    async def kill(rig: Rig, draw: random.Random) -> str:
        del draw
        await rig.running(name)
        rig.supervisor.kill(name)
        return name


for _name in WORKERS:
    _enter_kill(_name)


@fault("kill -9 twice: while it starts", times=2)
async def kill_while_starting(rig: Rig, draw: random.Random) -> str:
    name, after_s = draw.choice(WORKERS), draw.uniform(0, 1)
    first = await rig.running(name)
    rig.supervisor.kill(name)
    await rig.running(name, but=first)
    await asyncio.sleep(after_s)
    rig.supervisor.kill(name)
    return f"{name}, again after {after_s:.2f} s"


@fault("kill -9 twice: while it recovers")
async def kill_while_recovering(rig: Rig, draw: random.Random) -> str:
    name, after_s = draw.choice(WORKERS), draw.uniform(1, 4)
    first = await rig.running(name)
    rig.supervisor.kill(name)
    await rig.running(name, but=first)
    await asyncio.sleep(after_s)
    rig.supervisor.kill(name)
    return f"{name}, again after {after_s:.2f} s"


@fault("kill -9 while the other joins")
async def kill_while_other_joins(rig: Rig, draw: random.Random) -> str:
    joining, victim = draw.sample(SEQUENCERS, 2)
    after_s = draw.uniform(0.5, 3)
    await rig.stop_workers((joining,))
    rig.start_workers((joining,))
    await asyncio.sleep(after_s)
    await rig.running(victim)
    rig.supervisor.kill(victim)
    return f"{victim}, {after_s:.2f} s after the start of {joining}"


@fault("zombie sequencer: SIGSTOP beyond the session")
async def zombie_sequencer(rig: Rig, draw: random.Random) -> str:
    return await _zombie(rig, draw, SEQUENCERS)


@fault("zombie stage: SIGSTOP beyond the session")
async def zombie_stage(rig: Rig, draw: random.Random) -> str:
    return await _zombie(rig, draw, STAGES)


async def _zombie(rig: Rig, draw: random.Random, names: Sequence[str]) -> str:
    name, length_s = draw.choice(names), SESSION_TIMEOUT_S + draw.uniform(0.5, 2)
    pid = await rig.running(name)
    pause(pid)
    try:
        await asyncio.sleep(length_s)
    finally:
        resume(pid)
    return f"{name} for {length_s:.1f} s"


@fault("SIGSTOP of a sink")
async def frozen_sink(rig: Rig, draw: random.Random) -> str:
    name, length_s = draw.choice(("clickhouse", "audit")), draw.uniform(1, 3)
    pid = await rig.running(name)
    pause(pid)
    try:
        await asyncio.sleep(length_s)
    finally:
        resume(pid)
    return f"{name} for {length_s:.1f} s"


@fault("SIGTERM and restart", times=2)
async def restart(rig: Rig, draw: random.Random) -> str:
    name = draw.choice(WORKERS)
    await rig.running(name)
    await rig.supervisor.restart(name)
    return name


@fault("two processes under one instance name")
async def same_instance(rig: Rig, draw: random.Random) -> str:
    name, length_s = draw.choice(SEQUENCERS), draw.uniform(3, 5)
    command, variables = rig.command_of(name)
    twin = rig.spawn(f"twin-of-{name}", command, variables)
    try:
        await asyncio.sleep(length_s)
    finally:
        code = twin.poll()
        twin.kill()
    return f"{name} for {length_s:.1f} s, the twin's exit code {code}"


@fault("a rival sequencer in another group, with another registry")
async def rival(rig: Rig, draw: random.Random) -> str:
    length_s = draw.uniform(4, 6)
    registry = rig.folder.root / "rival-registry.json"
    stranger = ProducerKey(draw.randbytes(32)).entry("stranger", sources=("*",), agents=("*",), customers=("*",))
    registry.write_bytes(encode_registry([*load_registry(rig.folder.registry).entries.values(), stranger]))
    command = ["-m", "tests.chaos.rival", rig.kafka.bootstrap, str(rig.folder.root), str(registry)]
    runs, until_s = 0, asyncio.get_running_loop().time() + length_s
    child = None
    try:
        while asyncio.get_running_loop().time() < until_s:
            if child is None or child.poll() is not None:  # fenced: it comes again
                child, runs = rig.spawn("rival", command, {}), runs + 1
            await asyncio.sleep(_POLL_S)
    finally:
        if child is not None:
            child.kill()
    return f"for {length_s:.1f} s, {runs} runs"


@fault("rebalance storm: members join and vanish")
async def storm(rig: Rig, draw: random.Random) -> str:
    """Each join moves partitions while those of the one before are still on their way."""
    command, variables = rig.command_of(SEQUENCERS[0])
    guests = []
    try:
        for number in range(3):
            instance = rig.guest(number)
            arguments = [instance if part == SEQUENCERS[0] else part for part in command]
            guests.append(rig.spawn(instance, arguments, variables))
            await asyncio.sleep(draw.uniform(0, 1))
        await rig.supervisor.wait_until(
            lambda: all((rig.guest_status(number) or {}).get("rebalances") for number in range(len(guests))),
            "guests of the group",
            patience_s=180,
        )
        for guest in draw.sample(guests, len(guests)):
            guest.kill()
            await asyncio.sleep(draw.uniform(0, 1))
    finally:
        for guest in guests:
            guest.kill()
    return f"{len(guests)} guests"


# --- broker ----------------------------------------------------------------------------------------------------------


@fault("kill -9 of the broker", times=2)
async def kill_broker(rig: Rig, draw: random.Random) -> str:
    del draw
    rig.supervisor.kill("kafka")
    return "started again by the supervisor"


@fault("SIGSTOP of the broker")
async def frozen_broker(rig: Rig, draw: random.Random) -> str:
    length_s = draw.uniform(2, 4)
    rig.supervisor.broker.pause()
    try:
        await asyncio.sleep(length_s)
    finally:
        rig.supervisor.broker.resume()
    return f"for {length_s:.1f} s"


@fault("network: 300 ms of latency")
async def latency(rig: Rig, draw: random.Random) -> str:
    length_s = draw.uniform(3, 5)
    rig.proxy.latency(0.3)
    try:
        await asyncio.sleep(length_s)
    finally:
        rig.proxy.latency(0)
    return f"for {length_s:.1f} s"


@fault("network: every connection cut", times=2)
async def cut(rig: Rig, draw: random.Random) -> str:
    length_s = draw.choice([0.0, draw.uniform(0.5, 3)])
    rig.proxy.cut(length_s)
    await asyncio.sleep(length_s)
    return f"and none for {length_s:.1f} s"


@fault("network: open connections fall silent", slow=True)
async def silence(rig: Rig, draw: random.Random) -> str:
    """As when a firewall forgets them: nothing is refused, nothing is answered, new connections work."""
    del draw
    rig.proxy.silence()
    return "and stay open"


@fault("consumer groups deleted")
async def groups_deleted(rig: Rig, draw: random.Random) -> str:
    del draw
    await rig.stop_workers(GROUP_MEMBERS)
    try:
        deleted = await _delete_groups(rig)
    finally:
        rig.start_workers(GROUP_MEMBERS)
    return ", ".join(deleted)


async def _delete_groups(rig: Rig) -> list[str]:
    async with admin_client(rig.kafka) as admin:
        groups = sorted(group for group, _ in await admin.list_consumer_groups())
        node = await admin.find_coordinator(groups[0])
        left = groups
        while left:  # static members stay in their group for a session timeout after they stopped
            answer = await admin._send_request(DeleteGroupsRequest(left), node)
            assert {code for _, code in answer.results} <= {0, _NON_EMPTY_GROUP}, answer
            left = [group for group, code in answer.results if code]
            await asyncio.sleep(_RETRY_S if left else 0)
        return groups


@fault("committed offsets moved, back and forth")
async def offsets_moved(rig: Rig, draw: random.Random) -> str:
    await rig.stop_workers(GROUP_MEMBERS)
    try:
        for group, topic in (("sequencer", Topic.BATCHES), ("checkpointer", Topic.LOG), ("budgets", Topic.LOG)):
            await _move_offsets(rig, group, rig.kafka.topic(topic), draw)
    finally:
        rig.start_workers(GROUP_MEMBERS)
    return "each partition to its begin, its middle, or 60 behind its end"


async def _move_offsets(rig: Rig, group: str, topic: str, draw: random.Random) -> None:
    async with AIOKafkaConsumer(**rig.kafka.client_args(), group_id=group, enable_auto_commit=False) as consumer:
        parts = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        consumer.assign(parts)
        ends = await consumer.end_offsets(parts)
        moved = {part: OffsetAndMetadata(draw.choice([0, ends[part] // 2, ends[part] + 60]), "") for part in parts}
        while True:  # refused while the group still has the static members that were stopped
            try:
                await consumer.commit(moved)
                return
            except KafkaError:
                await asyncio.sleep(_RETRY_S)


# --- input -----------------------------------------------------------------------------------------------------------


@fault("input: null value")
async def null_value(rig: Rig, draw: random.Random) -> str:
    return await _refused(rig, draw.choice(AGENTS), None, "unreadable_record")


@fault("input: empty value")
async def empty_value(rig: Rig, draw: random.Random) -> str:
    return await _refused(rig, draw.choice(AGENTS), b"", "unreadable_record")


@fault("input: garbage")
async def garbage(rig: Rig, draw: random.Random) -> str:
    value = draw.randbytes(draw.randrange(1, 100_000)).replace(b"\n", b"\r")
    return await _refused(rig, draw.choice(AGENTS), value, "malformed_batch")


@fault("input: decompression bomb")
async def bomb(rig: Rig, draw: random.Random) -> str:
    return await _refused(rig, draw.choice(AGENTS), bytes(_BOMB_BYTES), "unreadable_record", compression_type="gzip")


async def _refused(rig: Rig, agent: Agent, value: bytes | None, reason: str, **arguments: Any) -> str:
    """One record that is no batch, which counts as one refusal."""
    rig.load.ledger.bad(reason)
    await rig.load.produce(rig.load.partition(agent), [value], **arguments)
    return f"{0 if value is None else len(value):,} bytes"


@fault("input: 10,000 headers")
async def many_headers(rig: Rig, draw: random.Random) -> str:
    agent = draw.choice(AGENTS)
    batch = rig.load.good_batch(agent, draw, rig.load.series(agent, draw))
    headers = [(f"header-{number}", b"value") for number in range(10_000)]
    await rig.load.produce(rig.load.partition(agent), [batch], headers=headers)
    return agent.name


class NotText:
    """A header key that the library encodes to bytes that are not UTF-8."""

    def encode(self, encoding: str) -> bytes:
        assert encoding == "utf-8"
        return b"\xff\xfe"


@fault("input: header key that is not UTF-8")
async def foreign_header(rig: Rig, draw: random.Random) -> str:
    agent = draw.choice(AGENTS)
    value = rig.load.good_batch(agent, draw, rig.load.series(agent, draw))
    async with rig.load.producer(enable_idempotence=False) as producer:
        batch = producer.create_batch()
        batch._builder = _DefaultRecordBatchBuilderPy(2, 0, False, -1, -1, 0, 1 << 20)
        batch.append(key=None, value=value, timestamp=None, headers=[(NotText(), b"value")])
        partition = rig.load.partition(agent)
        place = await (await producer.send_batch(batch, rig.load.topic, partition=partition))
    rig.load.deliveries.acknowledged(partition, place.offset)
    return agent.name


def _enter_codec(codec: str) -> None:
    @fault(f"input: compressed with {codec}")
    async def compressed(rig: Rig, draw: random.Random) -> str:
        agent = draw.choice(AGENTS)
        series = rig.load.series(agent, draw)
        batches = [rig.load.good_batch(agent, draw, series) for _ in range(3)]
        await rig.load.produce(rig.load.partition(agent), batches, compression_type=codec)
        return agent.name


for _codec in ("gzip", "snappy", "lz4", "zstd"):
    _enter_codec(_codec)


@fault("input: transactions, committed and aborted")
async def transactions(rig: Rig, draw: random.Random) -> str:
    """Every runner reads uncommitted, so an aborted batch counts: it was signed, and it stands on the topic."""
    agent = draw.choice(AGENTS)
    series, partition = rig.load.series(agent, draw), rig.load.partition(agent)
    ends = [True, False, draw.random() < 0.5]
    async with rig.load.producer(transactional_id=f"chaos-{draw.getrandbits(64):x}") as producer:
        for commit in ends:
            await producer.begin_transaction()
            for _ in range(2):
                batch = rig.load.good_batch(agent, draw, series)
                place = await producer.send_and_wait(rig.load.topic, batch, partition=partition)
                rig.load.deliveries.acknowledged(partition, place.offset)
            await (producer.commit_transaction() if commit else producer.abort_transaction())
    return f"{sum(ends)} committed, {len(ends) - sum(ends)} aborted"


@fault("input: a full batch of 1,000 refusals")
async def thousand_refusals(rig: Rig, draw: random.Random) -> str:
    agent = draw.choice(AGENTS)
    lines = [draw.randbytes(255).hex().encode() for _ in range(1_000)]
    rig.load.ledger.bad("malformed_event", len(lines))
    batch = rig.load.series(agent, draw).seal(lines, 1_700_000_000_000_000)
    await rig.load.produce(rig.load.partition(agent), [batch])
    return f"{len(batch):,} bytes"


# --- local -----------------------------------------------------------------------------------------------------------


def _enter_kill_in_write(name: str) -> None:
    @fault(f"kill -9 {name} in the middle of writing")
    async def kill_in_write(rig: Rig, draw: random.Random) -> str:
        after_s = draw.uniform(0, 0.6)  # a write begins half a second after its first record was polled
        pid, before = await rig.running(name), None
        async with asyncio.timeout(180):
            while True:
                status = rig.supervisor.status(name) or {}
                if rig.worker(name).pid != pid:
                    pid, before = await rig.running(name), None
                if status.get("pid") == pid:
                    written = sum(part["batches"] for part in status["partitions"].values())
                    if before is not None and written > before:
                        break
                    before = written
                await asyncio.sleep(_POLL_S)
        await asyncio.sleep(after_s)
        rig.supervisor.kill(name)
        return f"{after_s:.2f} s after a write ended"


for _name in ("clickhouse", "audit"):
    _enter_kill_in_write(_name)


@fault("index folder deleted")
async def index_deleted(rig: Rig, draw: random.Random) -> str:
    del draw
    await rig.stop_workers((ON_DISK,))
    found = [folder for folder in map(rig.index_folder, range(PARTITIONS)) if folder.exists()]
    for folder in found:
        shutil.rmtree(folder)
    rig.start_workers((ON_DISK,))
    return f"{len(found)} partitions"


@fault("index folder of an older moment")
async def index_older(rig: Rig, draw: random.Random) -> str:
    length_s, older = draw.uniform(1, 3), rig.folder.root / f"older-{draw.getrandbits(64):x}"
    await rig.stop_workers((ON_DISK,))
    found = [folder for folder in map(rig.index_folder, range(PARTITIONS)) if folder.exists()]
    for folder in found:
        shutil.copytree(folder, older / folder.name)
    rig.start_workers((ON_DISK,))
    await asyncio.sleep(length_s)
    await rig.stop_workers((ON_DISK,))
    for folder in found:
        shutil.rmtree(folder)
        (older / folder.name).rename(folder)
    rig.start_workers((ON_DISK,))
    return f"{len(found)} partitions, {length_s:.1f} s older"


@fault("index folder of another cluster")
async def index_foreign(rig: Rig, draw: random.Random) -> str:
    """The same partitions of another deployment."""
    await rig.stop_workers((ON_DISK,))
    found = [partition for partition in range(PARTITIONS) if rig.index_folder(partition).exists()]
    for partition in found:
        shutil.rmtree(rig.index_folder(partition))
        log = LogBuilder(partition, PARTITIONS, epoch=draw.randbytes(16).hex())
        for _ in range(5):
            log.batch(20)
        state = KeptState(rig.index_folder(partition))
        for offset, record in log.records:
            state.offer(offset, record.value)
        state.close()
    rig.start_workers((ON_DISK,))
    return f"{len(found)} partitions"


def _enter_full_disk(name: str) -> None:
    @fault(f"disk full under {name}")
    async def full_disk(rig: Rig, draw: random.Random) -> str:
        """No file of the process grows any more (RLIMIT_FSIZE): what it must write, it cannot, and so it must end."""
        pid = await rig.running(name)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (_FULL_BYTES, resource.RLIM_INFINITY))
        wrote = 0
        # Again where its partitions went to another just then, or came back.
        while rig.worker(name).pid == pid:
            agents = [agent for agent in AGENTS if rig.part(name, rig.load.partition(agent)) is not None]
            if not agents:
                break
            for agent in agents:  # an index is written every few thousand events
                series = rig.load.series(agent, draw)
                batches = [rig.load.good_batch(agent, draw, series, 500) for _ in range(5)]
                await rig.load.produce(rig.load.partition(agent), batches)
            wrote += len(agents)
            with contextlib.suppress(TimeoutError):
                await rig.running(name, but=pid, patience_s=15)
        return f"agents wrote on {wrote} times" if wrote else "it held nothing"


for _name in (ON_DISK, "audit"):
    _enter_full_disk(_name)


@fault("status folder deleted", recovered=lambda rig: all(rig.supervisor.status(name) for name in WORKERS))
async def status_deleted(rig: Rig, draw: random.Random) -> str:
    gone = rig.folder.root / f"status-{draw.getrandbits(64):x}"
    rig.folder.status.rename(gone)
    shutil.rmtree(gone)
    return "with every status file"
