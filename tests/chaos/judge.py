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
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from meterproof.kafka.price_books import read_price_books
from meterproof.kafka.reader import PartitionReader
from meterproof_local.comparison import Check, Measured, checks, measure_folders, measure_kafka
from meterproof_local.errors import NotInTime
from meterproof_local.ledger import digest_of
from meterproof_schemas.accounts import Accounts
from meterproof_schemas.fold import LogState
from meterproof_schemas.topics import Topic
from tests.chaos.rig import PARTITIONS, SEQUENCERS, SINKS, STAGES, Rig
from tests.independent.recount import root_of

GENESIS_PREV = "0" * 64


@dataclass(slots=True)
class Log:
    """A partition's log, read without any code of the pipeline; holds 32 bytes of each line."""

    entries: list[bytes] = field(default_factory=list)
    """SHA-256 of each accepted line, in their order."""
    echoes: int = 0
    contradictions: list[str] = field(default_factory=list)
    """Records that continue the chain and state positions that are taken or leave some out."""
    next_source: int = 0
    _digest: str = GENESIS_PREV
    _begun: bool = False

    def take(self, offset: int, value: bytes | None) -> None:
        """Apply the rule of readers: a record counts if and only if `prev` is the digest of the last that counts."""
        try:
            header = json.loads((value or b"").split(b"\n", 1)[0])
            counts = header["prev"] == self._digest and (header["kind"] == "genesis") != self._begun
        except (ValueError, KeyError, TypeError):
            counts, header = False, {}
        if not counts or value is None:
            self.echoes += 1
            return
        self._begun, self._digest = True, hashlib.sha256(value).hexdigest()
        lines = value.split(b"\n")[3:-1]
        if (header["first"], header["size"]) != (len(self.entries), len(self.entries) + len(lines)):
            self.contradictions.append(f"the record at {offset} states {header['first']}..{header['size']}")
        if header["source"] is not None:
            if header["source"]["offset"] != self.next_source:
                answered = f"the record at {offset} answers for {header['source']}, due {self.next_source}"
                self.contradictions.append(answered)
            self.next_source = header["source"]["offset"] + header["source"]["count"]
        self.entries += map(digest_of, lines)


async def judge(rig: Rig) -> list[Check]:
    """Compare everything with the ledger, with the load stopped and everything arrived; workers are stopped here.

    All is well if every difference is 0.
    """
    found: list[Check] = []
    ledger = rig.load.ledger
    logs, states = await _read_logs(rig)
    await _stages(rig, states, found)
    measured = Measured()
    await measure_kafka(rig.kafka, PARTITIONS, rig.folder, measured)
    await rig.supervisor.stop_workers()
    await asyncio.to_thread(measure_folders, rig.folder, measured)

    accepted = Counter(entry for log in logs for entry in log.entries)
    sent = Counter(ledger.unique.values())
    standing, source_ends = await _standing(rig, sent)
    found += [
        _count("lost", "acknowledged events that are not in the log", 0, (sent - accepted).total()),
        _count("doubled", "events in the log more than once", 0, sum(count - 1 for count in accepted.values())),
        _count("invented", "events in the log that nobody sent", 0, (accepted - sent).total()),
        _count("forked", "contradictions between records of one log", 0, sum(len(log.contradictions) for log in logs)),
        _count(
            "unanswered",
            "source records without an answer",
            0,
            sum(max(0, end - log.next_source) for end, log in zip(source_ends, logs, strict=True)),
        ),
        _count("roots", "final checkpoints whose root is not RFC 6962's", 0, _wrong_roots(rig, logs)),
        _count("verify", "exit code of `meterproof verify`", 0, await _verify(rig)),
    ]
    # How often a line stands on the source topic is counted there: a retry may have put it there once more.
    ledger.duplicates = standing - len(sent)
    ledger.sent = standing + ledger.rejected.total()
    return [*found, *checks(ledger, measured)]


async def _read_logs(rig: Rig) -> tuple[list[Log], list[LogState]]:
    """Every log, read here and folded by the pipeline's definition, one record in memory at a time."""
    books = await read_price_books(rig.kafka)
    logs, states = [Log() for _ in range(PARTITIONS)], [LogState(accounts=Accounts(books)) for _ in range(PARTITIONS)]
    for partition, (log, state) in enumerate(zip(logs, states, strict=True)):
        async for offset, value in _values(rig, Topic.LOG, partition):
            log.take(offset, value)
            state.offer(offset, value)
    return logs, states


async def _standing(rig: Rig, sent: Counter[bytes]) -> tuple[int, list[int]]:
    """How often lines that must be accepted stand on the source topic; and by partition the offset behind its last."""
    standing, ends = 0, [0] * PARTITIONS
    for partition in range(PARTITIONS):
        async for offset, value in _values(rig, Topic.BATCHES, partition):
            standing += sum(digest_of(line) in sent for line in (value or b"").split(b"\n"))
            ends[partition] = offset + 1
    return standing, ends


async def _stages(rig: Rig, states: list[LogState], found: list[Check]) -> None:
    """What every stage says of itself, against the fold; a worker that was just started again is waited for."""
    with contextlib.suppress(NotInTime):
        await rig.supervisor.wait_until(lambda: not _differing(rig, states), "every stage's status", patience_s=180)
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
        root = root_of(log.entries)
        lines = notes.get(str(partition), ["", "", ""])
        wrong += lines[1:3] != [str(len(log.entries)), base64.b64encode(root).decode()]
    return wrong


async def _verify(rig: Rig) -> int:
    program = "import sys; from meterproof_proofs.command import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "verify", str(rig.folder.root), "--vkey", str(rig.folder.vkeys)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)
    return done.returncode


async def _values(rig: Rig, topic: Topic, partition: int) -> AsyncIterator[tuple[int, bytes | None]]:
    """All records of a topic's partition, one after the other: offset and value."""
    async with PartitionReader(rig.kafka, rig.kafka.topic(topic), partition) as reader:
        async for records in reader.read(*await reader.bounds()):
            for record in records:
                yield record.offset, record.value


def _count(name: str, label: str, expected: int, found: int) -> Check:
    return Check(name, label, expected, found, abs(expected - found))
