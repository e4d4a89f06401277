"""After the run: is everything that was acknowledged counted once, everywhere, and nothing else?

What the log says is read here with JSON and SHA-256 alone, by the rule as it is written in the contract, and compared
with the ledger; the figures of every stage are compared as the demo compares them; and what each stage says of itself
is compared with `fold`.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field

from meterproof.kafka.price_books import read_price_books
from meterproof.kafka.reader import PartitionReader
from meterproof_local.comparison import Check, Measured, checks, measure_folders, measure_kafka
from meterproof_local.errors import NotInTime
from meterproof_schemas.accounts import Accounts
from meterproof_schemas.fold import LogState, fold
from meterproof_schemas.topics import Topic
from tests.chaos.rig import PARTITIONS, SEQUENCERS, SINKS, STAGES, Rig
from tests.independent.recount import root_of

GENESIS_PREV = "0" * 64


@dataclass(slots=True)
class Log:
    """A partition's log, read without any code of the pipeline."""

    lines: list[bytes] = field(default_factory=list)
    """Accepted, in their order."""
    echoes: int = 0
    contradictions: list[str] = field(default_factory=list)
    """Records that continue the chain and state positions that are taken or leave some out."""
    next_source: int = 0


def read_log(values: list[bytes | None]) -> Log:
    """Apply the rule of readers: a record counts if and only if `prev` is the digest of the last one that counts."""
    log, digest, begun = Log(), GENESIS_PREV, False
    for number, value in enumerate(values):
        try:
            header = json.loads((value or b"").split(b"\n", 1)[0])
            counts = header["prev"] == digest and (header["kind"] == "genesis") != begun
        except (ValueError, KeyError, TypeError):
            counts, header = False, {}
        if not counts or value is None:
            log.echoes += 1
            continue
        begun, digest = True, hashlib.sha256(value).hexdigest()
        lines = value.split(b"\n")[3:-1]
        if (header["first"], header["size"]) != (len(log.lines), len(log.lines) + len(lines)):
            log.contradictions.append(f"record {number} states {header['first']}..{header['size']}")
        if header["source"] is not None:
            if header["source"]["offset"] != log.next_source:
                log.contradictions.append(f"record {number} answers for {header['source']}, due {log.next_source}")
            log.next_source = header["source"]["offset"] + header["source"]["count"]
        log.lines += lines
    return log


async def judge(rig: Rig) -> list[Check]:
    """Compare everything with the ledger, with the load stopped and everything arrived; workers are stopped here.

    All is well if every difference is 0.
    """
    found: list[Check] = []
    ledger = rig.load.ledger
    sources = [await _values(rig, Topic.BATCHES, partition) for partition in range(PARTITIONS)]
    physical = [await _values(rig, Topic.LOG, partition) for partition in range(PARTITIONS)]
    await _stages(rig, physical, found)
    measured = Measured()
    await measure_kafka(rig.kafka, PARTITIONS, rig.folder, measured)
    await rig.supervisor.stop_workers()
    await asyncio.to_thread(measure_folders, rig.folder, measured)

    logs = [read_log([value for _, value in values]) for values in physical]
    accepted = Counter(line for log in logs for line in log.lines)
    sent = Counter(ledger.unique.values())
    found += [
        _count("lost", "acknowledged events that are not in the log", 0, (sent - accepted).total()),
        _count("doubled", "events in the log more than once", 0, sum(count - 1 for count in accepted.values())),
        _count("invented", "events in the log that nobody sent", 0, (accepted - sent).total()),
        _count("forked", "contradictions between records of one log", 0, sum(len(log.contradictions) for log in logs)),
        _count(
            "unanswered",
            "source records without an answer",
            0,
            sum(
                max(0, values[-1][0] + 1 - log.next_source) for values, log in zip(sources, logs, strict=True) if values
            ),
        ),
        _count("roots", "final checkpoints whose root is not RFC 6962's", 0, _wrong_roots(rig, logs)),
        _count("verify", "exit code of `meterproof verify`", 0, await _verify(rig)),
    ]
    # How often a line stands on the source topic is counted there: a retry may have put it there once more.
    lines = {line for line in sent if sent[line]}
    standing = sum(line in lines for values in sources for _, value in values for line in (value or b"").split(b"\n"))
    ledger.duplicates = standing - len(lines)
    ledger.sent = standing + ledger.rejected.total()
    return [*found, *checks(ledger, measured)]


async def _stages(rig: Rig, physical: list[list[tuple[int, bytes | None]]], found: list[Check]) -> None:
    """What every stage says of itself, against the fold; a worker that was just started again is waited for."""
    books = await read_price_books(rig.kafka)
    states = [fold(records, LogState(accounts=Accounts(books))) for records in physical]
    with contextlib.suppress(NotInTime):
        await rig.supervisor.wait_until(lambda: not _differing(rig, states), "every stage's status", patience_s=60)
    wrong = _differing(rig, states)
    found.append(Check("status", "stages whose status is not what the fold says", "", "; ".join(wrong), len(wrong)))


def _differing(rig: Rig, states: list[LogState]) -> list[str]:
    wrong: list[str] = []
    for partition, state in enumerate(states):
        holders = [part for name in SEQUENCERS if (part := rig.part(name, partition)) is not None]
        if [(part["position"], part["counts"]) for part in holders] != [(state.position, dict(state.counts))]:
            wrong.append(f"sequencers, partition {partition}: {holders}, fold: {state.position}, {state.counts}")
        for name in (*STAGES, *SINKS):
            part = rig.part(name, partition) or {}
            if part.get("position") != state.position:
                wrong.append(f"{name}, partition {partition}: {part.get('position')}, fold: {state.position}")
        if state.accounts is None or state.position != sum(one.events for one in state.accounts.agents.values()):
            wrong.append(f"accounts of partition {partition}")
    return wrong


def _wrong_roots(rig: Rig, logs: list[Log]) -> int:
    wrong = 0
    notes = {
        lines[0].rpartition("/p")[2]: lines
        for path in rig.folder.audit.glob("*/checkpoint")
        if (lines := path.read_text().split("\n"))
    }
    for partition, log in enumerate(logs):
        root = root_of([hashlib.sha256(line).digest() for line in log.lines])
        lines = notes.get(str(partition), ["", "", ""])
        wrong += lines[1:3] != [str(len(log.lines)), base64.b64encode(root).decode()]
    return wrong


async def _verify(rig: Rig) -> int:
    program = "import sys; from meterproof_proofs.command import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "verify", str(rig.folder.root), "--vkey", str(rig.folder.vkeys)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)
    return done.returncode


async def _values(rig: Rig, topic: Topic, partition: int) -> list[tuple[int, bytes | None]]:
    """All records of a topic's partition: offset and value."""
    async with PartitionReader(rig.kafka, rig.kafka.topic(topic), partition) as reader:
        return [
            (record.offset, record.value) async for chunk in reader.read(*await reader.bounds()) for record in chunk
        ]


def _count(name: str, label: str, expected: int, found: int) -> Check:
    return Check(name, label, expected, found, abs(expected - found))
