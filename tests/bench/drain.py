"""The workers behind the log, each draining a log that was filled before: ClickHouse, audit, checkpointer, budgets.

What counts as put out is durable: a sink's own progress, a checkpoint, a marker.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
from tests.bench.figure import Figure
from tests.bench.load import PARTITIONS, Expected
from tests.bench.result import Run
from tests.bench.rig import METERPROOF, BenchDeployment, Process, Rig, expect, price_book

Sink = Literal["clickhouse", "clickhouse-http", "audit"]

_LOOK_INTERVAL_S: Final = 0.02
_STAGE_LOOK_INTERVAL_S: Final = 0.2
_FLUSH_INTERVAL_S: Final = 0.1
"""Of checkpointer and budgets: often enough that their progress can be seen."""


async def measure_sink(rig: Rig, sink: Sink, *, batch: int, events: int) -> Run:
    """Drain the log into a destination; the rate is of accepted events, by the sink's own count of durable ones.

    With `clickhouse-http`, the server shares the measured core with the sink, and what both use is counted.
    """
    async with _filled(rig, batch=batch, events=events) as (deployment, expected), _server(rig, sink) as server:
        total = sum(one.accepted for one in expected)
        name = sink.partition("-")[0]
        arguments = ["sink", name, "run"]
        if name == "clickhouse":
            # Its own default where there are events enough to see it go in several steps.
            arguments.append(f"--batch-rows={max(1_000, min(100_000, total // 8))}")
        if server is not None:
            arguments.append(f"--url={server.url}")
        output: list[tuple[float, int]] = []
        counted = 0

        async def drained() -> bool:
            nonlocal counted
            status = read_status(deployment.data / "status", name) or {}
            rows = sum(partition["rows"] for partition in status.get("partitions", {}).values())
            if rows > counted:
                output.append((status["written_ms"], rows - counted))
                counted = rows
            return counted >= total

        async def counted_all() -> bool:
            return counted >= total

        rig.say(f"draining into {sink}")
        with deployment.worker(*arguments) as process:
            waiting = [process.until(drained, interval_s=_LOOK_INTERVAL_S)]
            if server is not None:
                waiting.append(server.process.until(counted_all, interval_s=_LOOK_INTERVAL_S))
            await asyncio.gather(*waiting)
            await process.stop()
        rig.say("checking the result")
        if name == "clickhouse":
            await _check_clickhouse(rig, deployment, expected, server)
        else:
            _check_audit(deployment, expected)
        return rig.run_of(output, process, *(() if server is None else (server.process,)))


async def measure_rebuild(rig: Rig, *, batch: int, events: int) -> list[Figure]:
    """Write an audit folder, then ClickHouse from it alone: events per second of the whole command, from its start.

    It may use all cores, as the one who waits for it would have it.
    """
    async with _filled(rig, batch=batch, events=events) as (deployment, expected):
        total = sum(one.accepted for one in expected)

        async def drained() -> bool:
            status = read_status(deployment.data / "status", "audit") or {}
            rows: int = sum(partition["rows"] for partition in status.get("partitions", {}).values())
            return rows >= total

        rig.say("writing the audit folder")
        with deployment.worker("sink", "audit", "run") as process:
            await process.until(drained)
            await process.stop()
        places = DataFolder(deployment.data)
        size = sum(path.stat().st_size for path in places.audit.rglob("*") if path.is_file())
        places.price_book.write_bytes(price_book().model_dump_json().encode())
        rig.say("rebuilding")
        began_s = time.monotonic()
        with rig.started([METERPROOF, "rebuild", f"--data={deployment.data}"], everywhere=True) as process:
            await process.end()
        seconds = time.monotonic() - began_s
        rig.say("checking the result")
        await _check_clickhouse(rig, deployment, expected, None)
        return [
            Figure("rebuild", f"ClickHouse from {total:,} events", "events/s", ("≥", 60_000), [total / seconds]),
            Figure("rebuild", "the same per CPU second", "events/s", None, [total / process.samples[-1].used_s]),
            Figure("rebuild", "memory", "MiB", None, [process.peak_mib]),
            Figure("rebuild", "an event in the audit folder", "bytes", None, [size / total]),
        ]


@dataclass(frozen=True, slots=True)
class _Server:
    process: Process
    url: str


@asynccontextmanager
async def _server(rig: Rig, sink: Sink) -> AsyncIterator[_Server | None]:
    """A ClickHouse server with all tables, for the sink that needs one."""
    if sink != "clickhouse-http":
        yield None
        return
    rig.say("starting a ClickHouse server")
    folder = tempfile.mkdtemp(dir=rig.folder)
    with rig.started([sys.executable, "-m", "tests.bench.clickhouse_server", folder], measured=True) as process:

        async def listening() -> bool:
            return process.printed().endswith("\n")

        await process.until(listening)
        url = process.printed().splitlines()[-1]
        with rig.started([METERPROOF, "migrate", f"--url={url}"]) as migrating:
            await migrating.end()
        yield _Server(process, url)


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


async def _check_clickhouse(
    rig: Rig, deployment: BenchDeployment, expected: list[Expected], server: _Server | None
) -> None:
    sql = (
        "SELECT log, count() AS events, max(position) + 1 AS next, uniqExact(entry) AS entries FROM usage GROUP BY log"
    )
    where = f"--data={deployment.data}" if server is None else f"--url={server.url}"
    with rig.started([METERPROOF, "query", sql, "--format=json", where]) as process:
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
