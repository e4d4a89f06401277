"""Any interleaving of batches, repeats, forgeries and late events: a simple model agrees, and so does the fold."""

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from meterproof_proofs.tree import root_of
from meterproof_schemas.batch import decode_batch, header_digest
from meterproof_schemas.event import entry_of
from meterproof_schemas.fold import LogState, fold
from meterproof_schemas.limits import FUTURE_TOLERANCE_MS
from meterproof_schemas.price_book import DEFAULT_METERS
from meterproof_stream.judge import genesis_of, judge, judge_hole
from meterproof_stream.opened_record import SourceRecord, open_records
from meterproof_stream.record_builder import InForce, append_record
from tests.builders import (
    NOW_MS,
    agent_in,
    make_batch,
    make_event,
    make_genesis_record,
    make_key,
    make_limits,
    make_registry,
)

METERS = frozenset(meter.name for meter in DEFAULT_METERS)
HORIZON_MS = 60_000
PARTITIONS = 2
KEY, STRANGER = make_key(), make_key("stranger")
REGISTRY = make_registry(KEY)
GENESIS = make_genesis_record(partitions=PARTITIONS, limits=make_limits(horizon_ms=HORIZON_MS))
AGENTS = (agent_in(0, PARTITIONS, 0), agent_in(0, PARTITIONS, 1), agent_in(1, PARTITIONS))


@dataclass(frozen=True)
class Line:
    """One event to be made, in terms of its record's append time."""

    event_id: int
    agent: int
    quantity: int
    age_ms: int
    plain: bool
    """Whether it is spelled the common way, which lines are judged together for."""


@dataclass(frozen=True)
class Step:
    """What comes next on the source."""

    kind: str
    lines: tuple[Line, ...] = ()
    sequence: int = 0
    pause_ms: int = 0
    repeat: int = 0


lines = st.builds(
    Line,
    event_id=st.integers(0, 5),
    agent=st.sampled_from([0, 0, 0, 1, 2]),
    quantity=st.sampled_from([1, 1, 1, 2]),
    plain=st.sampled_from([True, True, True, True, True, False]),
    age_ms=st.sampled_from(
        [0, 0, 0, 0, HORIZON_MS // 2, HORIZON_MS, HORIZON_MS + 1, -FUTURE_TOLERANCE_MS, -FUTURE_TOLERANCE_MS - 1]
    ),
)
steps = st.builds(
    Step,
    kind=st.sampled_from(["batch"] * 6 + ["repeat", "tampered", "forged", "stranger", "elsewhere", "null", "hole"]),
    lines=st.lists(lines, min_size=1, max_size=6).map(tuple),
    sequence=st.integers(0, 8),
    pause_ms=st.sampled_from([0, 0, 1, HORIZON_MS // 2, HORIZON_MS + 1, HORIZON_MS + FUTURE_TOLERANCE_MS + 1, -5]),
    repeat=st.integers(0, 30),
)


@dataclass
class Model:
    """The rules once more, without an index, a batch format or a tree."""

    clock_ms: int = 0
    accepted: list[bytes] = field(default_factory=list)
    known: list[tuple[int, str, bytes]] = field(default_factory=list)
    roots: list[tuple[int, int, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def whole(self, reason: str, append_ms: int) -> None:
        self.clock_ms = max(self.clock_ms, append_ms)
        self.counts[f"record:{reason}"] += 1

    def batch(self, events: list[bytes], sequence: int, root: str, append_ms: int) -> None:
        before_ms, self.clock_ms = self.clock_ms, max(self.clock_ms, append_ms)
        if any(n == sequence and r != root for at, n, r in self.roots if at >= before_ms - HORIZON_MS):
            self.counts["record:producer_fork"] += 1
            return
        if not any(n == sequence for at, n, _ in self.roots if at >= before_ms - HORIZON_MS):
            self.roots.append((self.clock_ms, sequence, root))
        now: list[tuple[int, str, bytes]] = []
        for event in events:
            document = json.loads(event)
            time_ms = round(datetime.fromisoformat(document["time"]).timestamp() * 1000)
            held = {
                name: line for at, name, line in self.known if at + HORIZON_MS + FUTURE_TOLERANCE_MS >= before_ms
            } | {name: line for _, name, line in now}
            if document["subject"] == AGENTS[2]:
                verdict = "wrong_partition"
            elif time_ms > append_ms + FUTURE_TOLERANCE_MS:
                verdict = "in_future"
            elif time_ms < self.clock_ms - HORIZON_MS:
                verdict = "too_late"
            elif document["id"] not in held:
                verdict = "accepted"
                now.append((self.clock_ms, document["id"], event))
                self.accepted.append(event)
            else:
                verdict = "duplicate" if held[document["id"]] == event else "conflicting_id"
            self.counts[verdict] += 1
        self.known.extend(now)


def event_of(line: Line, append_ms: int) -> bytes:
    time_ms = append_ms - line.age_ms
    return make_event(
        f"e{line.event_id}",
        subject=AGENTS[line.agent],
        usage={"requests": line.quantity},
        time_ms=time_ms,
        data=None if line.plain else {"of another": "version"},
    )


def value_of(step: Step, append_ms: int, sent: list[bytes]) -> bytes | None:
    if step.kind == "null":
        return None
    if step.kind == "repeat" and sent:
        return sent[step.repeat % len(sent)]
    events = [event_of(line, append_ms) for line in step.lines]
    value = make_batch(
        events,
        STRANGER if step.kind == "stranger" else KEY,
        sequence=step.sequence,
        previous=header_digest(b"") if step.sequence else None,
        partition=1 if step.kind == "elsewhere" else 0,
    )
    parts = value.split(b"\n")
    if step.kind == "tampered":
        parts[2] = make_event("never signed")
    elif step.kind == "forged":
        parts[0] = parts[0].replace(b'"sequence":', b'"sequence": ')
    return b"\n".join(parts)


REFUSALS = {
    "null": "unreadable_record",
    "tampered": "bad_root",
    "forged": "bad_signature",
    "stranger": "unknown_key",
    "elsewhere": "wrong_partition",
}


@settings(max_examples=150)
@given(st.lists(steps, max_size=30))
def test_judged_and_built_records_fold_to_what_a_simple_model_says(plan: list[Step]) -> None:
    state, model = fold([(0, GENESIS)]), Model()
    in_force = InForce(REGISTRY.digest, 0, "ab" * 16, 1)
    records: list[tuple[int, bytes | None]] = [(0, GENESIS)]
    sent: list[bytes] = []
    sources: list[SourceRecord] = []
    append_ms, offset = NOW_MS, 0
    for step in plan:
        append_ms += step.pause_ms
        if step.kind == "hole":
            judgement, count = judge_hole(state), 3
        else:
            count = 1
            value = value_of(step, append_ms, sent)
            sources.append(SourceRecord(value, append_ms))
            judgement = judge(
                value, partition=0, offset=offset, append_ms=append_ms, state=state, registry=REGISTRY, meters=METERS
            )
            if step.kind in REFUSALS:
                model.whole(REFUSALS[step.kind], append_ms)
            else:
                assert value is not None
                sent.append(value)
                batch = decode_batch(value)
                model.batch(batch.lines, batch.header.sequence, batch.header.root, append_ms)
        built = append_record(
            state,
            judgement,
            log_offset=len(records),
            source_offset=offset,
            source_count=count,
            in_force=in_force,
        )
        offset += count
        records.append((len(records), built.value))
        records.append((len(records), built.value))  # a late writer's echo
        assert len(judgement.rejections) == (
            1 if judgement.reason else sum(verdict != "duplicate" for _, verdict, _ in judgement.not_accepted)
        )

    genesis = genesis_of(state)
    alone = [one for source in sources for one in open_records([source], genesis, REGISTRY)]
    assert open_records(sources, genesis, REGISTRY) == alone
    assert model.counts == +state.counts
    assert model.clock_ms == state.clock_ms
    assert state.position == len(model.accepted)
    assert state.frontier.root() == root_of(map(entry_of, model.accepted))
    folded = fold(records)
    assert folded.foreign == len(plan)
    assert comparable(folded) == comparable(state)


def comparable(state: LogState) -> tuple[object, ...]:
    return (
        state.genesis,
        state.log_offset,
        state.digest,
        state.next_source_offset,
        state.clock_ms,
        state.position,
        state.frontier,
        state.counts,
        state.index.items(),  # type: ignore[attr-defined]
        state.series.roots(),
        state.series.gaps(),
    )
