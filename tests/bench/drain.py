"""The workers behind the log, each draining a log that was filled before: ClickHouse, audit, checkpointer, budgets.

What counts as put out is durable: a sink's own progress, a checkpoint, a marker.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal

import orjson

from meterproof.deployment import DataFolder
from meterproof.kafka.reader import PartitionReader, Record
from meterproof.status import read_status
from meterproof_proofs.checkpoint import Checkpoint
from meterproof_proofs.note import SignedNote
from meterproof_schemas.budget import Budget, BudgetFile, Marker, decode_budget_state
from meterproof_schemas.checkpoint_record import decode_checkpoint_record
from meterproof_schemas.topics import Topic
from meterproof_sinks.verification import verify_folder
from tests.bench.load import PARTITIONS, Expected
from tests.bench.result import Run
from tests.bench.rig import BenchDeployment, Rig, expect

_LOOK_INTERVAL_S: Final = 0.02
_STAGE_LOOK_INTERVAL_S: Final = 0.2
_FLUSH_INTERVAL_S: Final = 0.1
"""Of checkpointer and budgets: often enough that their progress can be seen."""


async def measure_sink(rig: Rig, sink: Literal["clickhouse", "audit"], *, batch: int, events: int) -> Run:
    """Drain the log into a destination; the rate is of accepted events, by the sink's own count of durable ones."""
    async with _filled(rig, batch=batch, events=events) as (deployment, expected):
        total = sum(one.accepted for one in expected)
        arguments = ["sink", sink, "run"]
        if sink == "clickhouse":
            arguments.append(f"--batch-rows={max(1_000, min(20_000, total // 40))}")
        output: list[tuple[float, int]] = []
        counted = 0

        async def drained() -> bool:
            nonlocal counted
            status = read_status(deployment.data / "status", sink) or {}
            rows = sum(partition["rows"] for partition in status.get("partitions", {}).values())
            if rows > counted:
                output.append((status["written_ms"], rows - counted))
                counted = rows
            return counted >= total

        rig.say(f"draining into {sink}")
        with deployment.worker(*arguments) as process:
            await process.until(drained, interval_s=_LOOK_INTERVAL_S)
            await process.stop()
        rig.say("checking the result")
        if sink == "clickhouse":
            await _check_clickhouse(rig, deployment, expected)
        else:
            _check_audit(deployment, expected)
        return rig.run_of(output, process)


async def measure_stage(rig: Rig, stage: Literal["checkpointer", "budgets"], *, batch: int, events: int) -> Run:
    """Let a stage read the log from its beginning; the rate is of accepted events, by append time of its output."""
    async with _filled(rig, batch=batch, events=events) as (deployment, expected):
        places = DataFolder(deployment.data)
        budget = Budget(name="daily", scope="agent", subject="*", window="day", limit="25", currency="USD")
        places.budgets.write_bytes(BudgetFile(version=1, budgets=(budget,)).model_dump_json().encode())
        rig.say(f"draining into {stage}")
        with deployment.worker(stage, "run", "--instance=bench", f"--interval-s={_FLUSH_INTERVAL_S}") as process:
            await process.until(
                lambda: _reached_everywhere(deployment, stage, expected), interval_s=_STAGE_LOOK_INTERVAL_S
            )
        rig.say("checking the result")
        output: list[tuple[float, int]] = []
        for partition, steps in (await _steps(deployment, stage)).items():
            before = 0
            for append_ms, position, _ in steps:
                output.append((append_ms, position - before))
                before = position
            one = expected[partition]
            expect(f"{stage}: last position of partition {partition}", before, one.accepted)
            if stage == "checkpointer":
                expect(f"{stage}: root of partition {partition}", steps[-1][2], one.root)
        if stage == "budgets":
            await _check_sums(deployment, expected)
        return rig.run_of(output, process)


@asynccontextmanager
async def _filled(rig: Rig, *, batch: int, events: int) -> AsyncIterator[tuple[BenchDeployment, list[Expected]]]:
    async with rig.deployment(priced=True) as deployment:
        yield deployment, await deployment.publish("log", batch=batch, events=events)


async def _records(deployment: BenchDeployment, topic: Topic, partition: int) -> list[Record]:
    async with PartitionReader(deployment.kafka, deployment.kafka.topic(topic), partition) as reader:
        return [record async for chunk in reader.read(*await reader.bounds()) for record in chunk]


async def _steps(deployment: BenchDeployment, stage: str) -> dict[int, list[tuple[int, int, str]]]:
    """By log: (append time, position up to which the stage's output is durable, its root) of each of its outputs."""
    steps: dict[int, list[tuple[int, int, str]]] = {partition: [] for partition in range(PARTITIONS)}
    if stage == "checkpointer":
        for record in await _records(deployment, Topic.CHECKPOINTS, 0):
            if record.key is None or record.key.endswith(b"|genesis"):
                continue
            found = decode_checkpoint_record(record.value)
            partition = int(found.header.origin.rpartition("/p")[2])
            root = Checkpoint.parse(SignedNote.parse(found.note).text).root.hex()
            steps[partition].append((record.timestamp_ms, found.header.size, root))
    else:
        for partition in range(PARTITIONS):
            for record in await _records(deployment, Topic.BUDGET_STATE, partition):
                state = decode_budget_state(record.value)
                if isinstance(state, Marker):
                    steps[partition].append((record.timestamp_ms, state.position, ""))
    return steps


async def _reached_everywhere(deployment: BenchDeployment, stage: str, expected: list[Expected]) -> bool:
    status = read_status(deployment.data / "status", "bench") or {}
    partitions = status.get("partitions", {})
    if any(partitions.get(str(one.partition), {}).get("position", 0) < one.accepted for one in expected):
        return False  # cheap to know; only then is the output looked at
    steps = await _steps(deployment, stage)
    return all(steps[one.partition] and steps[one.partition][-1][1] >= one.accepted for one in expected)


async def _check_clickhouse(rig: Rig, deployment: BenchDeployment, expected: list[Expected]) -> None:
    sql = (
        "SELECT log, count() AS events, max(position) + 1 AS next, uniqExact(entry) AS entries FROM usage GROUP BY log"
    )
    command = [str(Path(sys.executable).with_name("meterproof")), "query", sql, "--format=json"]
    with rig.started([*command, f"--data={deployment.data}"]) as process:
        rows = [orjson.loads(line) for line in (await process.end()).splitlines()]
    found = {row["log"].rpartition("/p")[2]: [int(row[name]) for name in ("events", "next", "entries")] for row in rows}
    expect("clickhouse: rows", found, {str(one.partition): [one.accepted] * 3 for one in expected})


def _check_audit(deployment: BenchDeployment, expected: list[Expected]) -> None:
    report = verify_folder(deployment.data, [])
    expect("audit: faults", [str(fault) for fault in report.all_faults], [])
    found = {int(log.origin.rpartition("/p")[2]): log.events for log in report.logs}
    expect("audit: events", found, {one.partition: one.accepted for one in expected})


async def _check_sums(deployment: BenchDeployment, expected: list[Expected]) -> None:
    for one in expected:
        events: dict[bytes, int] = {}
        for record in await _records(deployment, Topic.BUDGET_STATE, one.partition):
            state = decode_budget_state(record.value)
            if not isinstance(state, Marker):
                events[record.key or b""] = state.events
        expect(f"budgets: events in the sums of partition {one.partition}", sum(events.values()), one.accepted)
