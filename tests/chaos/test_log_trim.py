"""A log whose beginning was trimmed: refused while anybody needs it, and afterwards every stage goes on."""

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from meterproof.deployment import DataFolder
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import Deployment
from meterproof_local.setup import SetupWish
from meterproof_local.simulation import PRODUCERS
from meterproof_local.supervisor import Supervisor
from meterproof_proofs.command import main as meterproof
from meterproof_schemas.budget import Budget, BudgetFile
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.fold import LogState
from meterproof_schemas.log_record import record_digest
from meterproof_schemas.topics import Topic
from meterproof_stream.budgets import BudgetLanes
from meterproof_stream.kept_state import KeptState
from meterproof_stream.take_over import fold_log
from tests.builders import make_limits
from tests.chaos.test_replaced_topics import records, send

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.slow]

LIMITS = make_limits(horizon_ms=12_000, future_tolerance_ms=3_000)
PATIENCE_S = 180.0


async def until(holds: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s, what
        await asyncio.sleep(0.2)


def positions(pipeline: Supervisor) -> list[int]:
    """What the sequencer, the stages and the sinks say to have, in the order of their names."""
    names = sorted(pipeline.workers)
    parts = [(pipeline.status(name) or {}).get("partitions", {}).get("0", {}) for name in names]
    return [part.get("position", -1) for part in parts]


def copied(folder: Path, into: Path) -> bool:
    """Copy a folder; not if a worker took one of its files away meanwhile."""
    shutil.rmtree(into, ignore_errors=True)
    try:
        shutil.copytree(folder, into)
    except OSError:
        return False
    return True


async def test_trimmed_as_far_as_everybody_is_and_not_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a horizon of seconds, so that a log is old enough at once."""
    monkeypatch.setattr(Deployment, "limits", lambda _: LIMITS)
    wish = SetupWish(partitions=1, producers=PRODUCERS)
    async with Supervisor(DataFolder(tmp_path / "data"), wish) as pipeline:
        folder = pipeline.folder

        async def trim(*arguments: str) -> tuple[int, dict[str, object]]:
            options = [*arguments, "--margin-hours=0", "--json", f"--data={folder.root}"]
            code = await asyncio.to_thread(meterproof, ["log", "trim", *options])
            return code, orjson.loads(capsys.readouterr().out.splitlines()[-1])

        await send(pipeline, "first")
        await pipeline.wait_until_drained()
        first = await records(pipeline, Topic.LOG)
        code, plan = await trim()
        assert (code, plan["to"]) == (0, 0)
        assert plan["held_back"] == ["nothing is older than the horizon and the margin"]
        await asyncio.sleep(LIMITS.identities_kept_ms / 1000)
        await send(pipeline, "second")
        await pipeline.wait_until_drained()
        whole = await fold_log(pipeline.kafka, 0)
        await until(lambda: set(positions(pipeline)) == {whole.state.position}, f"positions: {positions(pipeline)}")

        # Who is not behind it, is damaged, or signed nothing, keeps it.
        code, plan = await trim(f"--audit={tmp_path / 'nowhere'}")
        assert (code, plan["refused"], plan["to"]) == (1, True, 0)
        assert "the audit folder has nothing" in str(plan["held_back"])
        await until(
            lambda: copied(folder.audit, tmp_path / "damaged"), "no moment without a change in the audit folder"
        )
        [segment] = (tmp_path / "damaged").glob("*/" + "0" * 20 + ".jsonl")
        segment.write_bytes(segment.read_bytes().replace(b"first-3", b"first-X", 1))
        code, plan = await trim(f"--audit={tmp_path / 'damaged'}")
        assert (code, plan["to"]) == (1, 0)
        assert "damaged" in str(plan["held_back"])
        (tmp_path / "other.vkey").write_text(folder.vkeys.read_text()[:-3] + "A=\n")
        assert await asyncio.to_thread(meterproof, _with_key(folder, tmp_path / "other.vkey")) == 1
        capsys.readouterr()

        # So does a group that is not ours, until it has read on or is given up.
        place = TopicPartition(pipeline.kafka.topic(Topic.LOG), 0)
        await commit(pipeline.kafka, "elsewhere", place, 0)
        code, plan = await trim("--dry-run")
        assert (code, plan["refused"]) == (1, True)
        assert "consumer group elsewhere is not behind anything" in str(plan["held_back"])
        code, ignoring = await trim("--dry-run", "--ignore-group=elsewhere")
        assert (code, ignoring["refused"]) == (0, False)
        await commit(pipeline.kafka, "elsewhere", place, int(str(ignoring["to"])))

        code, plan = await trim("--dry-run")
        assert (code, plan["refused"], plan["to"]) == (0, False, ignoring["to"])
        beginning = int(str(plan["to"]))
        assert first[0].offset < beginning <= first[-1].offset
        assert (await records(pipeline, Topic.LOG))[0].offset == 0
        assert (await trim())[0] == 0
        kept = await records(pipeline, Topic.LOG)
        assert kept[0].offset == beginning

        # A sequencer without a folder gets the same state from what is left, as far as verdicts depend on it.
        for again in (await fold_log(pipeline.kafka, 0), await fold_log(pipeline.kafka, 0, folder=tmp_path / "index")):
            assert_equal_verdicts(again.state, whole.state)
            again.state.close()
        for name in pipeline.workers:
            await pipeline.restart(name)
        await send(pipeline, "third")
        expected = whole.state.position * 3 // 2
        await until(lambda: set(positions(pipeline)) == {expected}, f"positions: {positions(pipeline)}")
        verify = ["verify", str(folder.root), "--vkey", str(folder.vkeys)]
        assert await asyncio.to_thread(meterproof, verify) == 0, capsys.readouterr()
        code, plan = await trim("--ignore-group=elsewhere")
        assert (code, plan["start"]) == (0, beginning)
        await other_budgets(pipeline, expected, capsys)


async def other_budgets(pipeline: Supervisor, position: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Budgets that were changed after the log was trimmed are refused, until somebody accepts what is missing."""
    budget = Budget(name="new", scope="all", subject="*", window="month", limit="1", meters=("requests",))
    pipeline.folder.budgets.write_bytes(BudgetFile(version=1, budgets=(budget,)).model_dump_json().encode())
    lanes = BudgetLanes(pipeline.kafka, [budget], _never)
    await lanes.start()
    with pytest.raises(StageStopped, match=r"Put the budget file back .*`meterproof budgets accept-gap`"):
        await lanes.open(0)
    await lanes.stop()

    data = f"--data={pipeline.folder.root}"
    accept = ["budgets", "accept-gap", "--reason=new limits", "--who=Ada", "--json", data]
    capsys.readouterr()  # what the lanes had to say
    assert await asyncio.to_thread(meterproof, accept) == 0, capsys.readouterr()
    gap = orjson.loads(capsys.readouterr().out)
    assert await asyncio.to_thread(meterproof, accept) == 1
    assert "nothing to accept" in capsys.readouterr().err
    await pipeline.restart("budgets")
    deadline_s = time.monotonic() + PATIENCE_S
    shown: list[tuple[bool, int]] = []
    while shown != [(True, position - gap["position"])]:
        assert time.monotonic() < deadline_s, shown
        assert await asyncio.to_thread(meterproof, ["budgets", "show", "--json", data]) == 0
        lines = map(orjson.loads, capsys.readouterr().out.splitlines())
        shown = [(line["partial"], line["events"]) for line in lines]


def _never(error: BaseException) -> None:
    raise AssertionError from error


async def commit(kafka: KafkaSettings, group: str, place: TopicPartition, offset: int) -> None:
    """What a consumer of somebody else's leaves behind."""
    consumer = AIOKafkaConsumer(**kafka.client_args(), group_id=group, enable_auto_commit=False)
    await consumer.start()
    consumer.assign([place])
    await consumer.commit({place: offset})
    await consumer.stop()


def _with_key(folder: DataFolder, vkey: Path) -> list[str]:
    return ["log", "trim", "--margin-hours=0", f"--data={folder.root}", f"--vkey={vkey}"]


def assert_equal_verdicts(found: LogState, expected: LogState) -> None:
    """Whether two states judge alike: everything but what only deleted records would say."""
    assert (found.genesis, found.digest, found.log_offset) == (expected.genesis, expected.digest, expected.log_offset)
    assert (found.next_source_offset, found.clock_ms) == (expected.next_source_offset, expected.clock_ms)
    assert (found.position, found.frontier) == (expected.position, expected.frontier)
    assert found.series.roots() == expected.series.roots()
    known = list(expected.index.items().items())  # type: ignore[attr-defined]  # the index in memory
    assert found.index.get_many([identity for identity, _ in known]) == [entry for _, entry in known]
    if not isinstance(found, KeptState):
        assert len(found.index) == len(known) > 0


async def test_a_log_cut_off_by_hand_within_the_horizon_is_refused(tmp_path: Path) -> None:
    """Also where a beginning is remembered: identities that may come again would be unknown."""
    from meterproof.kafka.trimming import read_checkpoints, trim_log

    async with Supervisor(DataFolder(tmp_path / "data"), SetupWish(partitions=1, producers=PRODUCERS)) as pipeline:
        await send(pipeline, "first")
        await pipeline.wait_until_drained()
        origin = str((pipeline.status("checkpointer") or {})["partitions"]["0"]["origin"])
        [*_, newest] = await read_checkpoints(pipeline.kafka, origin)
        await trim_log(pipeline.kafka, 0, newest)
        async with PartitionReader(pipeline.kafka, pipeline.kafka.topic(Topic.LOG), 0) as reader:
            start, _ = await reader.bounds()
            record = await reader.at(start)
        assert record is not None
        assert record.value is not None
        assert record_digest(record.value) == newest.header.digest
        with pytest.raises(StageStopped, match="within the horizon"):
            await fold_log(pipeline.kafka, 0)
