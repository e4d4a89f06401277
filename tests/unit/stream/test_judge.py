"""Every reason has a record that gets it, and the good lines beside it are accepted."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from meterproof_schemas.batch import decode_batch, encode_batch
from meterproof_schemas.correction import correction_line
from meterproof_schemas.event import entry_of
from meterproof_schemas.fold import LogState, fold
from meterproof_schemas.instant import format_instant_ms
from meterproof_schemas.limits import BATCH_BYTES_MAX, FUTURE_TOLERANCE_MS, HORIZON_MS_DEFAULT, LINE_BYTES_MAX
from meterproof_schemas.log_record import decode_record
from meterproof_schemas.price_book import DEFAULT_METERS
from meterproof_schemas.reasons import Reason
from meterproof_stream.judge import Judgement, judge, judge_hole, judge_lost, judge_quarantined
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
KEY = make_key()
NARROW = make_key("narrow", sources=("shop/*",), agents=("agent-*",), customers=("acme",))
REVOKED = make_key("revoked", revoked_at=format_instant_ms(NOW_MS))
EXPIRED = make_key("expired", valid_until=format_instant_ms(NOW_MS))
STRANGER = make_key("stranger")
REGISTRY = make_registry(KEY, NARROW, REVOKED, EXPIRED)
IN_FORCE = InForce(REGISTRY.digest, 0, "ab" * 16, 1)


def new_log(**genesis: Any) -> LogState:
    return fold([(0, make_genesis_record(**genesis))])


def judged(value: bytes | None, state: LogState | None = None, *, append_ms: int = NOW_MS) -> Judgement:
    return judge(
        value, partition=0, offset=0, append_ms=append_ms, state=state or new_log(), registry=REGISTRY, meters=METERS
    )


def append(state: LogState, judgement: Judgement) -> bytes:
    return append_record(
        state,
        judgement,
        log_offset=state.log_offset + 1,
        source_offset=state.next_source_offset,
        in_force=IN_FORCE,
    ).value


def test_a_right_batch_is_accepted_whole() -> None:
    lines = [make_event(f"e{i}") for i in range(3)]
    value = make_batch(lines, KEY)
    judgement = judged(value)
    assert judgement.kind == "batch"
    assert judgement.reason is None
    assert judgement.lines == lines
    assert judgement.entries == b"".join([hashlib.sha256(line).digest() for line in lines])
    assert not judgement.not_accepted
    assert not judgement.rejections
    assert judgement.carried == tuple(value.split(b"\n")[:2])
    assert judgement.source_digest == hashlib.sha256(value).hexdigest()


def tampered(value: bytes, change: Callable[[list[bytes]], None]) -> bytes:
    lines = value.split(b"\n")[:-1]
    change(lines)
    return b"\n".join([*lines, b""])


def replace_event(lines: list[bytes]) -> None:
    lines[2] = make_event("another")


def flip_signature(lines: list[bytes]) -> None:
    at = lines[1].index(b'"signature":"') + 13
    lines[1] = lines[1][:at] + (b"B" if lines[1][at : at + 1] == b"A" else b"A") + lines[1][at + 1 :]


GOOD = make_batch([make_event()], KEY)

WHOLE: dict[str, tuple[bytes | None, Reason, bool]] = {
    # name: (value, reason, whether a known key vouched)
    "null": (None, Reason.UNREADABLE_RECORD, False),
    "empty": (b"", Reason.UNREADABLE_RECORD, False),
    "too large": (b"x" * (BATCH_BYTES_MAX + 1), Reason.TOO_LARGE, False),
    "noise": (b"noise", Reason.MALFORMED_BATCH, False),
    "no LF at the end": (GOOD[:-1], Reason.MALFORMED_BATCH, False),
    "count": (GOOD + make_event("more") + b"\n", Reason.MALFORMED_BATCH, False),
    "header that is no JSON": (tampered(GOOD, lambda lines: lines.__setitem__(0, b"{")), Reason.MALFORMED_BATCH, False),
    "version": (make_batch([make_event()], KEY, v=2), Reason.MALFORMED_BATCH, False),
    "audience": (make_batch([make_event()], KEY, audience="other"), Reason.WRONG_AUDIENCE, False),
    "topic": (make_batch([make_event()], KEY, topic="other"), Reason.WRONG_AUDIENCE, False),
    "partition": (make_batch([make_event()], KEY, partition=1), Reason.WRONG_PARTITION, False),
    "signature": (tampered(GOOD, flip_signature), Reason.BAD_SIGNATURE, False),
    "one of two signatures": (
        tampered(make_batch([make_event()], KEY, also=(NARROW,)), flip_signature),
        Reason.BAD_SIGNATURE,
        False,
    ),
    "header signed as another": (
        tampered(GOOD, lambda lines: lines.__setitem__(0, lines[0].replace(b'"sequence":0', b'"sequence":0 '))),
        Reason.BAD_SIGNATURE,
        False,
    ),
    "unknown key": (make_batch([make_event()], STRANGER), Reason.UNKNOWN_KEY, False),
    "revoked": (make_batch([make_event()], REVOKED), Reason.REVOKED_KEY, False),
    "expired": (make_batch([make_event()], EXPIRED), Reason.KEY_NOT_ALLOWED, False),
    "another's name": (make_batch([make_event()], KEY, producer="somebody"), Reason.KEY_NOT_ALLOWED, False),
    "root": (tampered(GOOD, replace_event), Reason.BAD_ROOT, True),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_records_are_refused_for_their_first_fault(name: str) -> None:
    value, reason, vouched = WHOLE[name]
    judgement = judged(value)
    assert judgement.reason is reason
    assert judgement.kind == ("batch" if value else "unreadable")
    assert not judgement.lines
    assert (judgement.carried is not None) == vouched
    [rejection] = judgement.rejections
    assert rejection.header.reason is reason
    assert rejection.header.line is None
    assert rejection.header.producer == ("gateway" if vouched else None)
    assert rejection.payload == (value or b"")[: None if vouched else 65536]
    assert judgement.source_digest == (None if value is None else hashlib.sha256(value).hexdigest())


def test_an_unknown_second_key_does_not_harm() -> None:
    assert judged(make_batch([make_event()], KEY, also=(STRANGER,))).reason is None


def test_validity_is_judged_by_append_time() -> None:
    for key, reason in ((REVOKED, Reason.REVOKED_KEY), (EXPIRED, Reason.KEY_NOT_ALLOWED)):
        value = make_batch([make_event()], key)
        assert judged(value, append_ms=NOW_MS - 1).reason is None
        assert judged(value, append_ms=NOW_MS).reason is reason


def test_two_roots_under_one_sequence_number_are_a_fork() -> None:
    state = new_log()
    append(state, judged(make_batch([make_event("a")], KEY, sequence=7), state))
    same = judged(make_batch([make_event("a")], KEY, sequence=7), state)
    assert same.reason is None
    assert [verdict for _, verdict, _ in same.not_accepted] == ["duplicate"]
    fork = judged(make_batch([make_event("b")], KEY, sequence=7), state)
    assert fork.reason is Reason.PRODUCER_FORK
    assert fork.carried is not None
    assert judged(make_batch([make_event("b")], KEY, sequence=7, instance="11" * 16), state).reason is None


AGENT = agent_in(0, 2)
event_of = functools.partial(make_event, subject=AGENT)

LINES: dict[str, tuple[bytes, Reason]] = {
    "too large": (event_of("x", data={"receipt": "r" * LINE_BYTES_MAX}), Reason.TOO_LARGE),
    "float": (event_of("x", usage={"requests": 1.5}), Reason.MALFORMED_EVENT),
    "two equal names": (event_of("x")[:-1] + b',"id":"y"}', Reason.MALFORMED_EVENT),
    "no event": (b"{}", Reason.MALFORMED_EVENT),
    "empty line": (b"", Reason.MALFORMED_EVENT),
    "agent of another partition": (event_of("x", subject=agent_in(1, 2)), Reason.WRONG_PARTITION),
    "meter": (event_of("x", usage={"requests": 1, "smiles": 1}), Reason.UNKNOWN_METER),
    "correction": (event_of("x", data={"corrects": {"id": "a", "kind": "void"}}), Reason.CORRECTION_NOT_ALLOWED),
    "future": (event_of("x", time_ms=NOW_MS + FUTURE_TOLERANCE_MS + 1), Reason.IN_FUTURE),
    "late": (event_of("x", time_ms=NOW_MS - HORIZON_MS_DEFAULT - 1), Reason.TOO_LATE),
    "conflict in the batch": (event_of("good-0", usage={"requests": 2}), Reason.CONFLICTING_ID),
    "conflict with the log": (event_of("old", usage={"requests": 2}), Reason.CONFLICTING_ID),
}


@pytest.mark.parametrize("name", LINES)
def test_a_refused_line_costs_its_neighbours_nothing(name: str) -> None:
    bad, reason = LINES[name]
    state = new_log(partitions=2)
    old = event_of("old")
    append(state, judged(make_batch([old], KEY), state))
    good = [event_of(f"good-{i}") for i in range(2)]
    judgement = judged(make_batch([good[0], bad, good[1], old], KEY, sequence=1), state)
    assert judgement.reason is None
    assert judgement.lines == good
    assert judgement.not_accepted == [(1, reason, entry_of(bad).hex()), (3, "duplicate", entry_of(old).hex())]
    [rejection] = judgement.rejections
    assert (rejection.header.reason, rejection.header.line, rejection.payload) == (reason, 1, bad)
    first = {"conflict in the batch": entry_of(good[0]).hex(), "conflict with the log": entry_of(old).hex()}
    assert rejection.header.first_digest == first.get(name)


@pytest.mark.parametrize(
    "event",
    [{"source": "bank/x"}, {"subject": "robot"}, {"customer": "globex"}],
    ids=["source", "agent", "customer"],
)
def test_a_key_speaks_only_for_what_its_entry_names(event: dict[str, Any]) -> None:
    good = make_event("a", source="shop/1")
    bad = make_event("b", **({"source": "shop/1"} | event))
    judgement = judged(make_batch([bad, good], NARROW))
    assert judgement.lines == [good]
    assert [verdict for _, verdict, _ in judgement.not_accepted] == [Reason.KEY_NOT_ALLOWED]
    both = judged(make_batch([bad, good], NARROW, also=(make_key("gateway"),), producer="narrow"))
    assert both.lines == [good], "a key for another producer's name adds no authority"


def test_time_limits_are_inclusive_and_follow_the_log() -> None:
    edges = [
        make_event("a", time_ms=NOW_MS + FUTURE_TOLERANCE_MS),
        make_event("b", time_ms=NOW_MS - HORIZON_MS_DEFAULT),
    ]
    assert judged(make_batch(edges, KEY)).lines == edges
    state = new_log()
    append(state, judged(make_batch([make_event("c")], KEY), state, append_ms=NOW_MS + 10))
    late = judged(make_batch(edges, KEY, sequence=1), state, append_ms=NOW_MS)
    assert late.clock_ms == NOW_MS + 10, "the ingest clock never goes back"
    assert [verdict for _, verdict, _ in late.not_accepted] == [Reason.TOO_LATE]


def test_corrections_are_taken_where_the_log_says_so() -> None:
    event = correction_line(make_event("a"), correction_id="c", kind="void", salt="0" * 32)
    assert judged(make_batch([event], KEY), new_log(limits=make_limits(corrections=True))).lines == [event]


def test_an_event_twice_in_one_batch_counts_once() -> None:
    event = make_event()
    judgement = judged(make_batch([event, event], KEY))
    assert judgement.lines == [event]
    assert judgement.not_accepted == [(1, "duplicate", entry_of(event).hex())]
    assert not judgement.rejections


def test_the_same_bytes_never_count_again_however_late() -> None:
    state = new_log(limits=make_limits(horizon_ms=1_000))
    value = make_batch([make_event()], KEY)
    append(state, judged(value, state))
    for later_ms in (0, 999, 1_000, FUTURE_TOLERANCE_MS, FUTURE_TOLERANCE_MS + 1_001, 10**9):
        probe = judged(value, state, append_ms=NOW_MS + later_ms)
        append(state, probe)
        assert not probe.lines
    assert len(state.index) == 0
    assert state.position == 1


def test_what_was_judged_reads_back_as_it_was_written() -> None:
    state, reader = new_log(), new_log()
    conflict = make_event("a", usage={"requests": 9})
    judges: list[Callable[[], Judgement]] = [
        lambda: judged(make_batch([make_event("a"), conflict], KEY), state),
        lambda: judge_hole(state),
        lambda: judged(None, state, append_ms=NOW_MS + 5),
        lambda: judge_lost(state),
        lambda: judge_quarantined(b"??", partition=0, offset=4, append_ms=NOW_MS + 7, state=state, why="crashes"),
        lambda: judge_quarantined(None, partition=0, offset=5, append_ms=None, state=state, why="unreadable"),
    ]
    for offset, judged_now in enumerate(judges, 1):
        built = append_record(state, judged_now(), log_offset=offset, source_offset=offset - 1, in_force=IN_FORCE)
        assert decode_record(built.value).header == built.header
        assert reader.offer(offset, built.value) is not None
    assert reader.frontier == state.frontier
    assert reader.counts == state.counts
    assert reader.clock_ms == state.clock_ms == NOW_MS + 7
    assert reader.index.items() == state.index.items()  # type: ignore[attr-defined]


def test_a_record_is_made_only_for_the_offset_that_is_due() -> None:
    state = new_log()
    with pytest.raises(ValueError, match="where 0 is due"):
        append_record(state, judge_hole(state), log_offset=1, source_offset=1, in_force=IN_FORCE)


def test_builders_make_what_the_contract_decodes() -> None:
    batch = decode_batch(GOOD)
    assert encode_batch(batch.header_line, batch.signatures_line, batch.lines) == GOOD
