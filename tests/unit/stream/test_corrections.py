"""Whatever is sent, taken back, replaced, sent again and corrected twice: every total is that of what still stands."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproof_schemas.accounts import Accounts
from meterproof_schemas.books_in_force import BooksInForce
from meterproof_schemas.budget import parse_budgets
from meterproof_schemas.correction import correction_line
from meterproof_schemas.effect import Effect
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.fold import LogState, fold
from meterproof_schemas.instant import format_instant_ms
from meterproof_schemas.log_record import LogRecord, decode_record, encode_record, encode_record_header
from meterproof_schemas.price_book import DEFAULT_METERS, PriceBook, UnitPrice
from meterproof_schemas.reasons import Reason
from meterproof_stream.budget_ledger import BudgetLedger
from meterproof_stream.judge import Judgement, judge, judge_quarantined
from meterproof_stream.kept_state import KeptState
from meterproof_stream.record_builder import InForce, append_record
from meterproof_stream.rocksdb_index import RocksdbIndex
from tests.builders import (
    NOW_MS,
    make_batch,
    make_event,
    make_genesis_record,
    make_key,
    make_limits,
    make_registry,
)

METERS: Final = frozenset(meter.name for meter in DEFAULT_METERS)
KEYS: Final = {"gateway": make_key("gateway"), "shop": make_key("shop")}
REGISTRY: Final = make_registry(*KEYS.values())
GENESIS: Final = make_genesis_record(limits=make_limits(corrections=True))
HORIZON_MS: Final = make_limits().horizon_ms


def book_of(version: int, amount: str) -> PriceBook:
    prices = (
        UnitPrice(meter="requests", amount=amount),
        UnitPrice(meter="seconds", amount="0.333333333333"),
    )
    return PriceBook(version=version, currency="USD", meters=DEFAULT_METERS, prices=prices)


BOOK: Final = book_of(1, "0.25")
BUDGETS: Final = parse_budgets(
    orjson.dumps(
        {
            "version": 1,
            "budgets": [
                {"name": "a", "scope": "agent", "subject": "*", "window": "hour", "limit": "2", "currency": "USD"},
                {"name": "c", "scope": "customer", "subject": "*", "window": "day", "limit": "9", "currency": "USD"},
                {"name": "t", "scope": "team", "subject": "*", "window": "month", "limit": "9", "meters": ["requests"]},
            ],
        }
    )
)


@dataclass
class Log:
    """A log as the sequencer makes it, and what it holds."""

    genesis: bytes = GENESIS
    books: dict[int, PriceBook] = field(default_factory=lambda: {1: BOOK})
    values: list[bytes] = field(default_factory=list)
    state: LogState = field(init=False)
    sequences: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self.values.append(self.genesis)
        self.state = fold([(0, self.genesis)])

    def take(self, lines: list[bytes], *, append_ms: int = NOW_MS, producer: str = "gateway") -> Judgement:
        """Judge a batch of these lines and append its record."""
        sequence = self.sequences[producer]
        self.sequences[producer] += 1
        instance = producer.encode().hex().ljust(32, "0")
        judgement = judge(
            make_batch(lines, KEYS[producer], sequence=sequence, instance=instance),
            partition=0,
            offset=self.state.next_source_offset,
            append_ms=append_ms,
            state=self.state,
            registry=REGISTRY,
            meters=METERS,
            books=self.books,
        )
        in_force = InForce(REGISTRY.digest, max(self.books, default=0), "ab" * 16, 1)
        built = append_record(
            self.state,
            judgement,
            log_offset=len(self.values),
            source_offset=self.state.next_source_offset,
            in_force=in_force,
        )
        self.values.append(built.value)
        return judgement

    @property
    def effects(self) -> list[str]:
        return [effect for record in self.records for effect in record.header.effects.values()]

    @property
    def records(self) -> list[LogRecord]:
        return [decode_record(value) for value in self.values]

    def totals(self) -> dict[str, Any]:
        """What readers make of it; zeros mean nothing."""
        accounts = Accounts(self.books)
        folded = fold(enumerate(self.values), LogState(accounts=accounts))
        assert folded.counts == self.state.counts
        assert len(folded.index) == len(self.state.index)
        assert list(folded.books) == list(self.state.books)
        ledger = BudgetLedger("log", HORIZON_MS, BUDGETS, self.books.__getitem__)
        for record in self.records:
            ledger.take(record)
        _, sums = ledger.drain(self.state.position, NOW_MS)
        return {
            "accounts": {
                (kind, name): (
                    account.events,
                    account.spend,
                    {meter: quantity for meter, quantity in account.usage.items() if quantity},
                )
                for kind, group in (("agent", accounts.agents), ("customer", accounts.customers))
                for name, account in group.items()
                if account.events
            },
            "budgets": {
                key: (
                    stated.events,
                    Decimal(stated.spend),
                    {meter: Decimal(quantity) for meter, quantity in (stated.usage or {}).items() if quantity != "0"},
                )
                for key, stated in sums
                if stated.events
            },
        }


def event(name: str = "e", **fields: Any) -> bytes:
    return make_event(name, source=fields.pop("source", "gateway"), data={"tags": {"team": "red"}}, **fields)


def void(line: bytes, name: str = "c", **changes: Any) -> bytes:
    return changed(correction_line(line, correction_id=name, kind="void", salt="0" * 32), **changes)


def replace(line: bytes, usage: dict[str, Any], name: str = "c", **changes: Any) -> bytes:
    return changed(correction_line(line, correction_id=name, kind="replace", salt="0" * 32, usage=usage), **changes)


def changed(line: bytes, **changes: Any) -> bytes:
    document = json.loads(line)
    document["data"] |= changes.pop("data", {})
    return orjson.dumps(document | changes)


events = st.fixed_dictionaries(
    {
        "name": st.sampled_from("abcd"),
        "source": st.sampled_from(["gateway", "shop"]),
        "subject": st.sampled_from(["agent-0", "agent-1"]),
        "customer": st.sampled_from(["acme", "globex"]),
        "age_ms": st.sampled_from([0, 60_000, 3_600_000, 40 * 3_600_000]),
        "usage": st.fixed_dictionaries(
            {}, optional={"requests": st.integers(0, 9), "seconds": st.sampled_from(["0.5", "1.5", "0.000000000001"])}
        ).filter(bool),
    }
)
steps = st.one_of(
    st.fixed_dictionaries({"kind": st.just("event"), "event": events}),
    st.fixed_dictionaries({"kind": st.just("again"), "which": st.integers(0, 30)}),
    st.fixed_dictionaries({"kind": st.just("unsent"), "event": events}),
    st.fixed_dictionaries(
        {"kind": st.sampled_from(["void", "replace"]), "which": st.integers(0, 30), "quantity": st.integers(0, 9)}
    ),
)


@dataclass
class Model:
    """What a reader would count who saw the lines one by one, and knew of every event whether it stands."""

    first: dict[tuple[str, str], bytes] = field(default_factory=dict)
    standing: dict[tuple[str, str], bytes] = field(default_factory=dict)
    gone: set[tuple[str, str]] = field(default_factory=set)

    def take(self, line: bytes) -> None:
        document = json.loads(line)
        key = document["source"], document["id"]
        if key in self.first or document["time"] < format_instant_ms(NOW_MS - HORIZON_MS):
            return
        self.first[key] = line
        corrects = document["data"].get("corrects")
        if corrects is None:
            self.standing[key] = line
            return
        target = document["source"], corrects["id"]
        if target not in self.gone and self.first.get(target) == corrects["line"].encode():
            self.gone.add(target)
            before = json.loads(self.standing.pop(target))
            if corrects["kind"] == "replace":
                data = before["data"] | {"usage": document["data"]["usage"]}
                self.standing[target] = orjson.dumps(before | {"data": data})


@dataclass
class Sender:
    """Turns what was drawn into lines."""

    sent: list[tuple[str, bytes]] = field(default_factory=list)
    number: int = 0

    def line(self, step: dict[str, Any]) -> tuple[str, bytes] | None:
        """Producer and line; None where there is nothing to send again or to correct."""
        self.number += 1
        if "event" in step:
            drawn = dict(step["event"])
            age_ms = drawn.pop("age_ms")
            source, line = drawn["source"], event(drawn.pop("name"), time_ms=NOW_MS - age_ms, **drawn)
            if step["kind"] == "unsent":
                line = void(changed(line, id=f"unsent-{self.number}"), f"c{self.number}")
        elif not self.sent:
            return None
        else:
            source, line = self.sent[step["which"] % len(self.sent)]
            if step["kind"] != "again":
                data = json.loads(line)["data"]
                if "corrects" in data:
                    return None
                usage = dict.fromkeys(data["usage"], step["quantity"])
                name = f"c{self.number}"
                line = void(line, name) if step["kind"] == "void" else replace(line, usage, name)
        self.sent.append((source, line))
        return source, line


@settings(max_examples=150)
@given(st.lists(st.lists(steps, min_size=1, max_size=6), min_size=1, max_size=6))
def test_every_total_is_that_of_what_stands(batches: list[list[dict[str, Any]]]) -> None:
    log, model, sender = Log(), Model(), Sender()
    for batch in batches:
        by_producer: dict[str, list[bytes]] = {}
        for step in batch:
            if (made := sender.line(step)) is not None:
                by_producer.setdefault(made[0], []).append(made[1])
        for producer, lines in by_producer.items():
            log.take(lines, producer=producer)
            for line in lines:
                model.take(line)
    plain = Log()
    for line in model.standing.values():
        plain.take([line])
    assert log.totals() == plain.totals()


WRONG: Final[dict[str, dict[str, Any]]] = {
    "no line": {"data": {"corrects": {"id": "e", "kind": "void"}}},
    "no event": {"data": {"corrects": {"id": "e", "kind": "void", "line": "{}"}}},
    "another id": {"data": {"corrects": {"id": "f", "kind": "void", "line": event().decode()}}},
    "a correction": {"data": {"corrects": {"id": "c", "kind": "void", "line": void(event()).decode()}}},
    "another customer": {"data": {"customer": "globex"}},
    "another source": {"source": "shop"},
    "another agent": {"subject": "agent-9"},
    "another time": {"time": "2025-12-31T23:59:59.000Z"},
    "another model": {"data": {"model": "m"}},
    "another status": {"data": {"status": "error"}},
    "an attribute more": {"of-another": "version"},
    "a void of more than there was": {"data": {"usage": {"requests": 2}}},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_correction_says_again_all_that_it_does_not_put_right(name: str) -> None:
    log = Log()
    judgement = log.take([event(), void(event(), **WRONG[name])])
    assert [reason for _, reason, _ in judgement.not_accepted] == [Reason.CORRECTION_NOT_ALLOWED]
    assert judgement.rejections[0].header.detail.startswith(("data.", "source", "subject", "time", "of-another"))


def test_a_replacement_names_the_same_meters() -> None:
    judgement = Log().take([event(), replace(event(), {"seconds": 1})])
    assert [reason for _, reason, _ in judgement.not_accepted] == [Reason.CORRECTION_NOT_ALLOWED]


def test_each_effect_is_stated() -> None:
    log = Log()
    log.take([event("a"), event("b")])
    log.take(
        [
            void(event("a"), "c1"),
            void(event("a"), "c2"),
            void(event("b", usage={"requests": 7}), "c3"),
            void(event("z"), "c4"),
            replace(event("b"), {"requests": 5}, "c5"),
        ]
    )
    assert log.effects == ["applied", "already_corrected", "other_content", "unknown_target", "applied"]
    assert log.state.counts["correction:applied"] == 2
    assert log.totals()["accounts"]["customer", "acme"] == (1, Decimal("1.25"), {"requests": 5})


def test_a_correction_may_come_with_its_event_but_not_before_it() -> None:
    log = Log()
    log.take([void(event("b"), "c1"), event("a"), void(event("a"), "c2"), event("b")])
    assert log.effects == ["unknown_target", "applied"]


def test_a_correction_sent_again_is_a_duplicate() -> None:
    log = Log()
    log.take([event(), void(event())])
    judgement = log.take([void(event())])
    assert [verdict for _, verdict, _ in judgement.not_accepted] == ["duplicate"]


def test_an_event_that_was_set_aside_is_not_there_to_be_corrected() -> None:
    """Whoever sends it again sends another correction of it, under an id of its own."""
    log = Log()
    batch = make_batch([event()], KEYS["gateway"])
    due = log.state.next_source_offset
    aside = judge_quarantined(batch, partition=0, offset=due, append_ms=NOW_MS, state=log.state, why="crashes")
    in_force = InForce(REGISTRY.digest, 1, "ab" * 16, 1)
    log.values.append(append_record(log.state, aside, log_offset=1, source_offset=due, in_force=in_force).value)
    log.take([void(event(), "c1")])
    log.take([event(), void(event(), "c2")])
    assert log.effects == ["unknown_target", "applied"]
    assert not log.totals()["accounts"]


def test_another_key_of_the_same_source_may_correct(tmp_path: Path) -> None:
    """After a rotation of keys, and after a restart: who may report for the source may correct."""
    log = Log()
    log.take([event("a"), event("b")])
    state = fold(enumerate(log.values), KeptState(tmp_path / "p0"))
    state.close()
    index = RocksdbIndex.open(tmp_path / "p0")
    assert index is not None
    log.state = KeptState.resume_at(tmp_path / "p0", index, log.records[-1])
    log.take([void(event("a"), "c1"), replace(event("b"), {"requests": 3}, "c2")], producer="shop")
    log.take([void(event("b"), "c3")])
    assert log.effects == ["applied", "applied", "already_corrected"]
    log.state.close()


def test_after_the_horizon_it_is_too_late() -> None:
    log = Log()
    log.take([event()])
    judgement = log.take([void(event())], append_ms=NOW_MS + HORIZON_MS + 1)
    assert [reason for _, reason, _ in judgement.not_accepted] == [Reason.TOO_LATE]


def test_an_event_whose_price_is_in_doubt_is_left_as_it_is() -> None:
    log = Log()
    log.take([event("a"), event("b", usage={"seconds": 1})])
    log.books[2] = book_of(2, "0.5")
    log.take([void(event("a"), "c1"), void(event("b", usage={"seconds": 1}), "c2")])
    assert log.effects == ["other_price", "applied"], "the second costs the same by both books"
    log.take([event("d", time_ms=NOW_MS + 3_600_000)], append_ms=NOW_MS + 3_600_000)
    log.take([void(event("d", time_ms=NOW_MS + 3_600_000), "c3")], append_ms=NOW_MS + 3_600_000)
    assert log.effects[2:] == ["applied"], "only the second book was in force since"
    log.totals()


@pytest.mark.parametrize(
    "stated", [None, (), ((1, Effect.UNKNOWN_TARGET),), ((0, Effect.APPLIED),), ((7, Effect.APPLIED),)]
)
def test_a_record_that_states_another_effect_diverges(stated: tuple[tuple[int, Effect], ...] | None) -> None:
    log = Log()
    log.take([event("a", subject="agent-0"), void(event("a"))])
    record = log.records[1]
    other = record.header.model_copy(update={"corrections": stated})
    value = encode_record(encode_record_header(other), record.carried, record.lines)
    with pytest.raises(StageStopped, match="effect"):
        fold([(0, GENESIS), (1, value)])


def test_a_state_on_disk_knows_what_was_corrected_and_the_books_since(tmp_path: Path) -> None:
    log = Log()
    log.take([event("a"), event("b"), void(event("a"), "c1")])
    log.books[2] = book_of(2, "0.5")
    log.take([event("d")])
    state = fold(enumerate(log.values), KeptState(tmp_path / "p0"))
    state.close()
    index = RocksdbIndex.open(tmp_path / "p0")
    assert index is not None
    log.state = KeptState.resume_at(tmp_path / "p0", index, log.records[index.cursor["log_offset"]])
    assert list(log.state.books) == [(NOW_MS, 1), (NOW_MS, 2)]
    log.take([void(event("a"), "c2"), void(event("b"), "c3")])
    assert log.effects == ["applied", "already_corrected", "other_price"]
    log.state.close()


def test_books_in_force_since() -> None:
    books = BooksInForce(100)
    record = Log()
    record.take([event()])
    header = record.records[1].header
    for clock_ms, version in ((10, 1), (20, 2), (20, 3), (30, 1)):
        books.add(header.model_copy(update={"clock_ms": clock_ms, "price_book": version}))
    assert [books.since(clock_ms) for clock_ms in (5, 10, 11, 20, 21, 30, 31)] == [
        {1, 2, 3}, {1, 2, 3}, {1, 2, 3}, {1, 2, 3}, {1, 3}, {1, 3}, {1},
    ]  # fmt: skip
    books.add(header.model_copy(update={"clock_ms": 131, "price_book": 2}))
    assert [tuple(run) for run in books] == [(30, 1), (131, 2)]
