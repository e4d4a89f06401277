"""The fold says one thing about a log, however it is read; what is not the log is an echo or stops the reader."""

import contextlib
import random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproof_proofs.frontier import Frontier
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.accounts import Accounts
from meterproof_schemas.chain import Cursor, LogChain
from meterproof_schemas.errors import InvalidRecord, StageStopped
from meterproof_schemas.event import entry_of
from meterproof_schemas.fold import LogState, fold
from meterproof_schemas.log_record import (
    GENESIS_PREV,
    decode_record,
    encode_record,
    frontier_of,
    record_digest,
)
from meterproof_schemas.price_book import DEFAULT_METERS, PriceBook, UnitPrice
from meterproof_schemas.quantity import plain
from meterproof_schemas.reasons import StopReason
from tests.builders import make_event, make_genesis_record
from tests.log_builder import LogBuilder, make_log

SPACING = 10
"""Offsets between genuine records, where echoes may stand."""
Records = list[tuple[int, bytes]]


def snapshot(state: LogState) -> dict[str, Any]:
    """All that a state says, but for echoes."""
    return {
        "genesis": state.genesis,
        "log_offset": state.log_offset,
        "digest": state.digest,
        "next_source_offset": state.next_source_offset,
        "clock_ms": state.clock_ms,
        "position": state.position,
        "frontier": state.frontier.hashes,
        "index": dict(state.index.items()),  # type: ignore[attr-defined]  # the index in memory
        "roots": state.series.roots(),
        "gaps": state.series.gaps(),
        "counts": dict(state.counts),
    }


def records_of(log: LogBuilder) -> Records:
    return [(number * SPACING, record.value) for number, (_, record) in enumerate(log.records)]


SMALL = records_of(make_log())


@st.composite
def logs(draw: st.DrawFn) -> Records:
    """A genuine log of up to a dozen records of every shape, in any order."""
    log = LogBuilder(partition=1, partitions=3)
    sent: list[list[bytes]] = []
    for _ in range(draw(st.integers(0, 8))):
        match draw(st.sampled_from(["new", "again", "mixed", "junk", "hole", "late", "back"])):
            case "new":
                sent.append(log.events(draw(st.integers(1, 5))))
                log.batch(sent[-1])
            case "again" if sent:
                log.batch(draw(st.sampled_from(sent)))
            case "mixed" if sent:
                log.batch([*draw(st.sampled_from(sent)), *log.events(2), b"{}"])
            case "junk":
                log.source(b"junk\n")
            case "hole":
                log.hole()
            case "late":
                log.batch([make_event("late", subject=log.agent, time_ms=0)], after_ms=draw(st.integers(0, 10**8)))
            case "back":
                log.batch(1, after_ms=-500)
    return records_of(log)


def late_writer(records: Records, number: int) -> bytes:
    """What a fenced sequencer would have written after record `number`: right in itself, but late."""
    record = decode_record(records[number][1])
    header = orjson.loads(record.header_line) | {"writer": "ff" * 16}
    return encode_record(orjson.dumps(header), record.carried, record.lines)


@settings(max_examples=50)
@given(logs(), st.data())
def test_any_split_of_the_records_gives_the_same_state(records: Records, data: st.DataObject) -> None:
    whole = fold(records)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(records)), max_size=3)))
    state = LogState()
    for start, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
        assert fold(records[start:end], state) is state
    assert snapshot(state) == snapshot(whole)
    assert whole.foreign == 0
    assert whole.position == sum(decode_record(value).header.accepted for _, value in records)


@settings(max_examples=50)
@given(logs(), st.data())
def test_echoes_are_counted_and_change_nothing(records: Records, data: st.DataObject) -> None:
    truth = fold(records)
    with_echoes = dict(records)
    echoes = 0
    for _ in range(data.draw(st.integers(1, 6))):
        after = data.draw(st.integers(0, len(records) - 1))
        offset = records[after][0] + data.draw(st.integers(1, SPACING - 1))
        if offset in with_echoes:
            continue
        earlier = data.draw(st.integers(0, after))
        # A record of the past again, one written on top of an older end, a second genesis, or no record at all.
        with_echoes[offset] = data.draw(
            st.sampled_from(
                [
                    records[earlier][1],
                    late_writer(records, earlier),
                    make_genesis_record(epoch="77" * 16),
                    b"",
                    b"junk",
                    b"{}\n",
                    None,
                ]
            )
        )  # type: ignore[assignment]  # a reader meets records without a value too
        echoes += 1
    state = fold(sorted(with_echoes.items()))
    assert snapshot(state) == snapshot(truth)
    assert state.foreign == echoes


def test_a_log_begins_with_its_genesis() -> None:
    state = fold(SMALL[1:])
    assert (state.genesis, state.position, state.foreign) == (None, 0, len(SMALL) - 1)


@pytest.mark.parametrize("number", range(len(SMALL)))
def test_every_changed_byte_is_an_echo_stops_the_reader_or_ends_the_log_there(number: int) -> None:
    """What a record can be checked against by itself, it is; the rest is held by the `prev` of the record after it.

    So a changed record is never believed together with the records that follow: either it is refused, or all of them
    become echoes, which a stage with a cursor, a checkpoint or a longer log notices. And no change of an accepted line
    is believed at all.
    """
    offset, value = SMALL[number]
    before = fold(SMALL[:number])
    truth = fold(SMALL[: number + 1])
    record = decode_record(value)
    lines_from = len(value) - sum(len(line) + 1 for line in record.lines)
    rng = random.Random(number)
    outcomes = {"echo": 0, "diverged": 0, "ends the log": 0}
    for at in range(0, len(value), 1 if len(value) < 3_000 else 3):
        changed = value[:at] + bytes([value[at] ^ 1 << rng.randrange(8)]) + value[at + 1 :]
        state = fold(SMALL[:number])
        try:
            taken = state.offer(offset, changed)
        except StageStopped:
            outcomes["diverged"] += 1
            continue
        if taken is None:
            assert snapshot(state) == snapshot(before)
            outcomes["echo"] += 1
            continue
        outcomes["ends the log"] += 1
        assert at < lines_from
        assert (state.position, state.frontier) == (truth.position, truth.frontier)
        assert snapshot(state)["index"] == snapshot(truth)["index"]
        assert state.digest != truth.digest
        fold(SMALL[number + 1 :], state)
        assert state.log_offset == offset
        assert state.foreign == len(SMALL) - number - 1
    assert outcomes["echo"] > 0
    assert record.header.accepted == 0 or outcomes["diverged"] > 100


def rewritten(number: int, *, lines: list[bytes] | None = None, carried: Any = ..., **header: Any) -> bytes:
    """Record `number` of the small log with other contents; its `prev` still matches."""
    record = decode_record(SMALL[number][1])
    header_line = orjson.dumps(orjson.loads(record.header_line) | header)
    return encode_record(
        header_line, record.carried if carried is ... else carried, record.lines if lines is None else lines
    )


RIGHT = decode_record(SMALL[1][1])
MIXED = decode_record(SMALL[2][1])


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (1, {"source": {"offset": 1, "count": 1, "digest": None}}),
        (1, {"source": None}),
        (1, {"first": 1, "size": 4}),
        (1, {"clock_ms": 0}),
        (1, {"root": "0" * 64}),
        (1, {"frontier": "0" * 128}),
        (1, {"lines": [RIGHT.lines[0], RIGHT.lines[0], RIGHT.lines[2]]}),
        (1, {"lines": [RIGHT.lines[1], RIGHT.lines[0], RIGHT.lines[2]]}),
        (1, {"genesis": orjson.loads(decode_record(SMALL[0][1]).header_line)["genesis"]}),
        (1, {"carried": (b"{}", b"{}")}),
        (1, {"carried": MIXED.carried}),
        (2, {"not_accepted": []}),
        (2, {"not_accepted": [[0, "duplicate", "0" * 64]]}),
        (2, {"not_accepted": [[1, "duplicate", MIXED.header.not_accepted[0][2]]]}),
        (2, {"not_accepted": [[9, "duplicate", MIXED.header.not_accepted[0][2]]]}),
        (3, {"carried": None}),
    ],
)
def test_a_record_that_continues_the_chain_and_contradicts_it_stops_the_reader(
    number: int, change: dict[str, Any]
) -> None:
    state = fold(SMALL[:number])
    with pytest.raises(StageStopped, match="Keep the topic as it is") as stopped:
        state.offer(SMALL[number][0], rewritten(number, **change))
    assert stopped.value.stop_reason is StopReason.LOG_DIVERGED


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2, "something_new": [1]},
        {"v": "2"},
        {"something_new": [1]},
        {"kind": "new"},
        {"reason": "new_reason"},
        {"not_accepted": [[0, "new_reason", "0" * 64]]},
        {"corrections": [[0, "new_effect"]]},
    ],
)
def test_a_record_of_a_newer_program_that_continues_the_chain_stops_an_older_one(change: dict[str, Any]) -> None:
    """Taken for an echo, a reader would stand still for ever and a writer would fork the log: a rolling update."""
    state = fold(SMALL[:2])
    with pytest.raises(StageStopped, match=r"knows version 1, cannot read it \(.*\): .*Update this worker") as stopped:
        state.offer(SMALL[2][0], rewritten(2, **change))
    assert stopped.value.stop_reason is StopReason.LOG_DIVERGED
    assert state.foreign == 0
    assert state.offer(SMALL[2][0], rewritten(2, **change, prev="1" * 64)) is None
    assert state.foreign == 1


def test_an_identity_accepted_twice_stops_the_reader() -> None:
    """A record that is consistent in every sum, but counts an event that was counted before."""
    log = LogBuilder()
    first = log.batch(2)
    frontier = frontier_of(first.header)
    frontier.extend(leaf_hashes([entry_of(line) for line in first.lines]))
    header = orjson.loads(first.header_line) | {
        "prev": first.digest,
        "source": {"offset": 1, "count": 1, "digest": None},
        "first": 2,
        "size": 4,
        "root": frontier.root().hex(),
        "frontier": b"".join(frontier.hashes).hex(),
    }
    state = fold([(offset, record.value) for offset, record in log.records])
    with pytest.raises(StageStopped, match="accepted before"):
        state.offer(2, encode_record(orjson.dumps(header), first.carried, first.lines))


def test_an_identity_may_return_when_it_is_forgotten() -> None:
    log = LogBuilder()
    limits = log.genesis.limits
    log.batch([make_event("e", subject=log.agent, time_ms=log.clock_ms)])
    log.clock_ms += limits.horizon_ms + limits.future_tolerance_ms + 1
    log.hole()
    log.batch([make_event("x", subject=log.agent, time_ms=log.clock_ms)], after_ms=0)
    log.batch([make_event("e", subject=log.agent, time_ms=log.clock_ms)], after_ms=0)
    state = fold([(offset, record.value) for offset, record in log.records])
    assert (state.position, len(state.index)) == (3, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "batch"},
        {"prev": "1" * 64},
        {"size": 1},
        {"first": 2, "size": 0},
        {"source": {"offset": 0, "count": 1, "digest": None}},
        {"v": 2},
        {"x": 1},
        {"genesis": None},
    ],
)
def test_no_log_begins_with_a_genesis_that_is_none(change: dict[str, Any]) -> None:
    state = LogState()
    value = encode_record(orjson.dumps(orjson.loads(decode_record(SMALL[0][1]).header_line) | change), None, ())
    with contextlib.suppress(StageStopped):
        assert state.offer(0, value) is None
    assert (state.genesis, state.position, state.log_offset) == (None, 0, -1)


# --- the chain alone, and cursors ------------------------------------------------------------------------------------


def cursor_at(number: int) -> Cursor:
    offset, value = SMALL[number]
    return Cursor("0f" * 16, offset, record_digest(value), decode_record(value).header.size)


@pytest.mark.parametrize("number", range(len(SMALL)))
def test_a_reader_resumes_behind_its_cursor(number: int) -> None:
    chain, resumed = LogChain(), LogChain()
    for offset, value in SMALL:
        chain.offer(offset, value)
    resumed.resume(cursor_at(number), SMALL[number][1])
    for offset, value in SMALL[number + 1 :]:
        assert resumed.offer(offset, value) is not None
    for name in ("log_offset", "digest", "next_source_offset", "clock_ms", "position", "foreign"):
        assert getattr(resumed, name) == getattr(chain, name), name


@pytest.mark.parametrize("found", [None, b"", b"junk", SMALL[2][1], rewritten(3, writer="ff" * 16)])
def test_a_cursor_that_names_another_record_stops_the_reader(found: bytes | None) -> None:
    with pytest.raises(StageStopped, match="Restore the topic") as stopped:
        LogChain().resume(cursor_at(3), found)
    assert stopped.value.stop_reason is StopReason.LOG_DIVERGED


def test_chain_and_fold_accept_the_same_records() -> None:
    chain, state = LogChain(), LogState()
    mixed = sorted([*SMALL, (5, late_writer(SMALL, 0)), (25, b"junk"), (31, late_writer(SMALL, 2))])
    for offset, value in mixed:
        assert (chain.offer(offset, value) is None) == (state.offer(offset, value) is None)
    assert (chain.digest, chain.foreign) == (state.digest, state.foreign) == (record_digest(SMALL[-1][1]), 3)


# --- records ---------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(logs())
def test_records_come_back_as_they_were_encoded(records: Records) -> None:
    prev = GENESIS_PREV
    for _, value in records:
        record = decode_record(value)
        assert encode_record(record.header_line, record.carried, record.lines) == value
        assert record.header.prev == prev
        assert frontier_of(record.header).root().hex() == record.header.root
        prev = record.digest


def test_a_frontier_that_does_not_fit_the_size_is_refused() -> None:
    header = RIGHT.header.model_copy(update={"frontier": "00" * 32 * 5})
    with pytest.raises(InvalidRecord, match="frontier"):
        frontier_of(header)
    assert frontier_of(decode_record(SMALL[0][1]).header) == Frontier()


# --- books -----------------------------------------------------------------------------------------------------------


def test_books_are_kept_by_the_price_book_that_each_record_names() -> None:
    first = PriceBook(
        version=1, currency="USD", meters=DEFAULT_METERS, prices=(UnitPrice(meter="requests", amount="1"),)
    )
    second = first.model_copy(update={"version": 2, "prices": (UnitPrice(meter="requests", amount="10"),)})
    accounts = Accounts({1: first, 2: second})
    log = LogBuilder()
    for version in (0, 1, 2, 2):
        record = log.batch(2)
        header_line = orjson.dumps(orjson.loads(record.header_line) | {"price_book": version})
        accounts.add(decode_record(encode_record(header_line, record.carried, record.lines)))
    agent, customer = accounts.agents[log.agent], accounts.customers["acme"]
    assert (agent.events, plain(agent.spend)) == (8, str(2 + 20 + 20))
    assert {meter: plain(quantity) for meter, quantity in agent.usage.items()} == {"requests": "8"}
    assert (customer.events, plain(customer.spend)) == (8, "42")
    record = log.batch(1)
    unknown = orjson.dumps(orjson.loads(record.header_line) | {"price_book": 3})
    with pytest.raises(KeyError):
        accounts.add(decode_record(encode_record(unknown, record.carried, record.lines)))
