"""A real trace through the whole pipeline, whatever is killed, deleted or moved meanwhile, counted by other code."""

import asyncio
import os
import random
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError
from aiokafka.protocol.admin import DeleteGroupsRequest
from aiokafka.structs import OffsetAndMetadata

from meterproof.deployment import DataFolder
from meterproof.kafka.connection import admin_client
from meterproof.kafka.price_books import read_price_books
from meterproof.kafka.reader import PartitionReader
from meterproof_local.setup import SetupWish
from meterproof_local.supervisor import Supervisor, worker_specs
from meterproof_local.worker import WorkerSpec
from meterproof_schemas.accounts import Accounts
from meterproof_schemas.fold import LogState, fold
from meterproof_schemas.topics import Topic

TRACE = Path(__file__).parents[3] / "shared/data/azure-llm-inference-2023/code.csv"
REQUESTS, INPUT_TOKENS, OUTPUT_TOKENS = 8_819, 18_059_974, 245_896
DUPLICATES = REQUESTS // 10
PARTITIONS = 4
NON_EMPTY_GROUP = 68
SEED = int(os.environ.get("METERPROOF_SEED", "20231116"))
"""Of the moments and victims of the kills; printed with a failure."""

pytestmark = [
    pytest.mark.broker,
    pytest.mark.clickhouse,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not TRACE.exists(), reason=f"the shared trace {os.path.relpath(TRACE)} is not there"),
]


def specs(folder: DataFolder, sequencers: int) -> list[WorkerSpec]:
    """All workers, with the shortest session that they take: a group waits so long for each that was killed."""
    session = {"METERPROOF_WORKER_SESSION_TIMEOUT_S": "6"}
    return [replace(spec, variables=session) for spec in worker_specs(folder, sequencers)]


async def run(*command: str) -> str:
    """Run a command to its end; its output."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, f"{command} ended with {process.returncode}:\n{errors.decode()}{output.decode()}"
    return output.decode()


async def replay(folder: DataFolder, name: str, *options: str) -> dict[str, int]:
    """Replay the trace with 10 % duplicates under ids of its own."""
    command = (str(Path(sys.executable).with_name("meterproof")), "replay", str(TRACE), "--format", "azure-llm")
    output = await run(*command, "--data", str(folder.root), "--duplicates", "0.1", "--run", name, "--json", *options)
    counts: dict[str, int] = orjson.loads(output)
    assert (counts["events"], counts["duplicates"]) == (REQUESTS, DUPLICATES)
    return counts


async def recount(pipeline: Supervisor, tmp_path: Path, runs: int) -> None:
    """Drain, stop the workers, and let the script that shares no code with the pipeline count again."""
    await pipeline.wait_until_drained(patience_s=240)
    await agree_with_the_fold(pipeline, runs)
    dump = tmp_path / "budget-state.jsonl"
    with dump.open("wb") as file:
        for partition in range(PARTITIONS):
            for value in await values(pipeline, Topic.BUDGET_STATE, partition):
                file.write(value + b"\n")
    await pipeline.stop_workers()
    script = Path(__file__).parents[1] / "independent" / "recount.py"
    counted = orjson.loads(
        await run(sys.executable, str(script), str(TRACE), str(pipeline.folder.root), str(dump), str(runs))
    )
    assert counted["differences"] == {"clickhouse": 0, "audit": 0, "budgets": 0, "roots": 0}
    assert counted["events"] == counted["audit_lines"] == runs * REQUESTS
    assert counted["input_tokens"] == runs * INPUT_TOKENS
    assert counted["output_tokens"] == runs * OUTPUT_TOKENS


async def has_begun(pipeline: Supervisor, sending: asyncio.Task[dict[str, int]]) -> None:
    """Return when the first batch is on Kafka."""
    topic = pipeline.kafka.topic(Topic.BATCHES)
    while not sending.done():
        for partition in range(PARTITIONS):
            async with PartitionReader(pipeline.kafka, topic, partition) as reader:
                if (await reader.bounds())[1]:
                    return
        await asyncio.sleep(0.2)
    await sending


async def values(pipeline: Supervisor, topic: Topic, partition: int) -> list[bytes]:
    """All values of a topic's partition."""
    return [value for _, value in await physical(pipeline, topic, partition) if value is not None]


async def physical(pipeline: Supervisor, topic: Topic, partition: int) -> list[tuple[int, bytes | None]]:
    """All records (offset, value) of a topic's partition."""
    async with PartitionReader(pipeline.kafka, pipeline.kafka.topic(topic), partition) as reader:
        return [
            (record.offset, record.value) async for chunk in reader.read(*await reader.bounds()) for record in chunk
        ]


async def agree_with_the_fold(pipeline: Supervisor, runs: int) -> None:
    """What every stage says of itself is what the fold of the log says; duplicates are counted exactly."""
    counts: Counter[str] = Counter()
    books = await read_price_books(pipeline.kafka)
    for partition in range(PARTITIONS):
        accounts = Accounts(books)
        state = fold(await physical(pipeline, Topic.LOG, partition), LogState(accounts=accounts))
        counts += state.counts
        await pipeline.wait_until(  # they say so once a second
            lambda partition=partition, state=state: sequenced(pipeline, partition) == [state.position],  # type: ignore[misc]
            f"one sequencer at position {state.position} of partition {partition}",
        )
        for stage in ("checkpointer", "budgets", "clickhouse", "audit"):
            part = (pipeline.status(stage) or {})["partitions"][str(partition)]
            assert part["position"] == state.position, stage
        assert sum(account.events for account in accounts.agents.values()) == state.position
    assert counts == {"accepted": runs * REQUESTS, "duplicate": runs * DUPLICATES}


def sequenced(pipeline: Supervisor, partition: int) -> list[int]:
    """The position of a partition, as each sequencer says that has it."""
    statuses = [pipeline.status(name) or {} for name in pipeline.workers if name.startswith("sequencer")]
    parts = [status.get("partitions", {}).get(str(partition)) for status in statuses]
    return [part["position"] for part in parts if part is not None]


async def delete_groups(pipeline: Supervisor) -> list[str]:
    """Delete every consumer group of the broker; its members are stopped."""
    async with admin_client(pipeline.kafka) as admin:
        groups = [group for group, _ in await admin.list_consumer_groups()]
        node = await admin.find_coordinator(groups[0])
        left = sorted(groups)
        async with asyncio.timeout(180):
            while left:  # static members stay in their group for a session timeout after they stopped
                await asyncio.sleep(1)
                response = await admin._send_request(DeleteGroupsRequest(left), node)
                assert {code for _, code in response.results} <= {0, NON_EMPTY_GROUP}, response
                left = [group for group, code in response.results if code == NON_EMPTY_GROUP]
        return sorted(groups)


async def move_offsets(pipeline: Supervisor, groups: dict[str, Topic], draw: random.Random) -> None:
    """Commit other offsets for every group: some far back, some beyond what was read."""
    for group, topic in groups.items():
        consumer = AIOKafkaConsumer(
            bootstrap_servers=pipeline.kafka.bootstrap, group_id=group, enable_auto_commit=False
        )
        await consumer.start()
        try:
            parts = [TopicPartition(pipeline.kafka.topic(topic), partition) for partition in range(PARTITIONS)]
            consumer.assign(parts)
            ends = await consumer.end_offsets(parts)
            offsets = {
                part: OffsetAndMetadata(draw.choice([0, ends[part] // 2, ends[part] + 60]), "") for part in parts
            }
            async with asyncio.timeout(180):
                while True:  # refused while the group still has the static members that were stopped
                    try:
                        await consumer.commit(offsets)
                        break
                    except CommitFailedError:
                        await asyncio.sleep(1)
        finally:
            await consumer.stop()


async def test_a_real_trace_is_counted_exactly_through_kills_lost_groups_and_moved_offsets(tmp_path: Path) -> None:
    draw = random.Random(SEED)
    folder = DataFolder(tmp_path / "data")
    pipeline = Supervisor(folder, SetupWish(partitions=PARTITIONS), sequencers=2, specs=specs)
    async with pipeline:
        # 1. The trace at 150 times its pace, and a kill -9 of each process at a moment of its own.
        sending = asyncio.create_task(replay(folder, "first", "--speed", "150"))
        await has_begun(pipeline, sending)
        victims = [*pipeline.workers, "kafka"]
        draw.shuffle(victims)
        for victim in victims:
            await asyncio.sleep(draw.uniform(0.5, 3.0))
            pipeline.kill(victim)
        await sending
        await recount(pipeline, tmp_path, runs=1)

        # 2. Every consumer group is gone.
        groups = await delete_groups(pipeline)
        assert len(groups) == 3, groups
        await start_workers(pipeline)
        await replay(folder, "second")
        await recount(pipeline, tmp_path, runs=2)

        # 3. Committed offsets are somewhere else.
        moved = {group: Topic.BATCHES if "sequencer" in group else Topic.LOG for group in groups}
        await move_offsets(pipeline, moved, draw)
        await start_workers(pipeline)
        await replay(folder, "third")
        await recount(pipeline, tmp_path, runs=3)
    assert sum(worker.restarts for worker in pipeline.workers.values()) >= len(victims) - 1
    assert pipeline.broker_restarts >= 1


async def start_workers(pipeline: Supervisor) -> None:
    """Start the workers again after `stop_workers`."""
    for name in pipeline.workers:
        await pipeline.restart(name)
