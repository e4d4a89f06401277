"""Budgets against an independent count: many logs, late events, crashes, replays, and writers that wake up late.

What is independent: the expected figures are made of the events as they were drawn, with fractions and the calendar.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import ceil
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproof_schemas import window
from meterproof_schemas.budget import (
    Alert,
    Budget,
    Marker,
    PartialSum,
    alert_key,
    decode_budget_state,
    definition_of,
    encode,
    marker_key,
    parse_budgets,
    parse_state_key,
    read_sum_head,
    state_key,
)
from meterproof_schemas.log_record import LogRecord, RecordHeader, Source, encode_record
from meterproof_schemas.price_book import DEFAULT_METERS, PriceBook, UnitPrice
from meterproof_schemas.scopes import home_partition
from meterproof_stream.budget_ledger import BudgetLedger
from meterproof_stream.raised_alerts import RaisedAlerts
from meterproof_stream.scope_totals import ScopeTotals, WindowForgotten
from meterproof_stream.stored_budgets import StoredBudgets
from tests.builders import NOW_MS, agent_in, make_event

LOGS = 3
HORIZON_MS = 24 * 3_600_000
DAY_MS = 24 * 3_600_000
PRICE = Fraction("0.25")
BOOK = PriceBook(
    version=1,
    currency="USD",
    meters=DEFAULT_METERS,
    prices=(UnitPrice(meter="requests", amount="0.25"), UnitPrice(meter="output_tokens", amount="0.000001")),
)
FILE = {
    "version": 1,
    "budgets": [
        {"name": "agents", "scope": "agent", "subject": "*", "window": "day", "limit": "3", "currency": "USD"},
        {
            "name": "customers",
            "scope": "customer",
            "subject": "*",
            "window": "month",
            "zone": "Europe/Berlin",
            "limit": "7.5",
            "currency": "USD",
        },
        {"name": "teams", "scope": "team", "subject": "red*", "window": "hour", "limit": "20", "meters": ["requests"]},
        {
            "name": "tokens",
            "scope": "all",
            "subject": "*",
            "window": "day",
            "zone": "America/Sao_Paulo",
            "limit": "900",
            "meters": ["input_tokens", "output_tokens"],
            "thresholds": ["33.5", "100"],
        },
    ],
}
BUDGETS = parse_budgets(orjson.dumps(FILE))
DEFINITION = definition_of(BUDGETS)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def origin(log: int) -> str:
    return f"meter.example.com/test/{'0f' * 16}/p{log}"


@dataclass
class Log:
    """The records of one log, and how much was used in it."""

    number: int
    records: list[LogRecord] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def append(self, events: list[dict[str, Any]], append_ms: int) -> None:
        first = len(self.events)
        self.events.extend(events)
        lines = [
            make_event(
                f"l{self.number}-{first + number}",
                subject=event["agent"],
                customer=event["customer"],
                time_ms=event["time_ms"],
                usage=event["usage"],
                data={"tags": {"team": event["team"]}} if event["team"] else None,
            )
            for number, event in enumerate(events)
        ]
        clock_ms = max(append_ms, self.records[-1].header.clock_ms if self.records else 0)
        header = RecordHeader(
            v=1,
            kind="batch",
            prev="0" * 64,
            source=Source(offset=len(self.records), count=1, digest="0" * 64),
            append_ms=append_ms,
            clock_ms=clock_ms,
            reason=None,
            not_accepted=(),
            first=first,
            size=first + len(lines),
            root="0" * 64,
            frontier="",
            registry="0" * 64,
            price_book=1,
            writer="0" * 32,
            generation=1,
        )
        self.records.append(LogRecord(encode_record(b"", None, lines), f"{len(self.records):064x}", b"", header, None))


def make_logs(rng: random.Random, events: int, days: float = 0.9, jumps_ms: Sequence[int] = ()) -> list[Log]:
    """Logs with events around a change of month, most of them late by anything that the horizon allows.

    `jumps_ms` are what the broker's clock jumps by now and then; events that would be too late then are left out.
    """
    logs = [Log(number) for number in range(LOGS)]
    now_ms = NOW_MS - 3_600_000
    while events > 0:
        now_ms += rng.choice([0, 1_000, 600_000, round(days * DAY_MS / 20), *jumps_ms])
        count = min(events, rng.randint(1, 5))
        events -= count
        log = rng.choice(logs)
        oldest_ms = max([now_ms, *(record.header.clock_ms for record in log.records[-1:])]) - HORIZON_MS + 1
        if oldest_ms > now_ms:
            continue
        log.append(
            [
                {
                    "agent": agent_in(log.number, LOGS, rng.randint(0, 1)),
                    "customer": rng.choice(["acme", "glo|bex"]),
                    "team": rng.choice([None, "red", "redder", "blue"]),
                    "time_ms": max(oldest_ms, now_ms - rng.choice([0, 1, 3_600_000, rng.randint(0, HORIZON_MS - 1)])),
                    "usage": {
                        "requests": rng.randint(0, 3),
                        **({"output_tokens": f"{rng.randint(0, 99)}.5"} if rng.random() < 0.5 else {}),
                        **({"input_tokens": rng.randint(0, 99)} if rng.random() < 0.5 else {}),
                    },
                }
                for _ in range(count)
            ],
            now_ms,
        )
    return logs


def window_start_us(time_ms: int, window: str, zone: str) -> int:
    """By the calendar, for the dates and zones above: none of them changes its clocks at midnight then."""
    local = (EPOCH + timedelta(milliseconds=time_ms)).astimezone(ZoneInfo(zone))
    local = local.replace(minute=0, second=0, microsecond=0)
    if window != "hour":
        local = local.replace(hour=0)
    if window == "month":
        local = local.replace(day=1)
    return round(local.timestamp()) * 1_000_000


Name = tuple[str, str, int]
"""(budget, subject, start in microseconds)."""


def expected(logs: list[Log]) -> dict[Name, Fraction]:
    """What counts against each budget, per subject and window."""
    used: defaultdict[Name, Fraction] = defaultdict(Fraction)
    for log in logs:
        for event in log.events:
            usage = {meter: Fraction(quantity) for meter, quantity in event["usage"].items()}
            billed = Fraction(ceil(usage.get("output_tokens", Fraction(0))))  # whole tokens are charged
            cost = usage.get("requests", Fraction(0)) * PRICE + billed / 10**6
            tokens = usage.get("input_tokens", Fraction(0)) + usage.get("output_tokens", Fraction(0))
            time_ms = event["time_ms"]
            used["agents", event["agent"], window_start_us(time_ms, "day", "UTC")] += cost
            used["customers", event["customer"], window_start_us(time_ms, "month", "Europe/Berlin")] += cost
            if event["team"] in {"red", "redder"}:
                used["teams", event["team"], window_start_us(time_ms, "hour", "UTC")] += usage["requests"]
            used["tokens", "*", window_start_us(time_ms, "day", "America/Sao_Paulo")] += tokens
    return used


def expected_alerts(logs: list[Log]) -> set[tuple[str, str, int, str]]:
    limits = {budget.name: budget for budget in BUDGETS}
    return {
        (name, subject, start, threshold)
        for (name, subject, start), amount in expected(logs).items()
        for threshold in limits[name].thresholds
        if amount >= Fraction(limits[name].limit) * Fraction(threshold) / 100
    }


class Topics:
    """`usage.budget-state` and `usage.alerts`, as they would stand on Kafka."""

    def __init__(self) -> None:
        self.stood: list[list[tuple[int, bytes, bytes]]] = [[] for _ in range(LOGS)]
        """With their offsets."""
        self.ends = [0] * LOGS
        self.alerts: list[list[tuple[bytes, bytes]]] = [[] for _ in range(LOGS)]

    def compact(self, log: int) -> None:
        """Keep the last record of each key, as Kafka may at any time."""
        last = {key: offset for offset, key, _ in self.stood[log]}
        self.stood[log] = [record for record in self.stood[log] if last[record[1]] == record[0]]

    def put(self, log: int, key: bytes, value: bytes) -> int:
        offset = self.ends[log]
        self.stood[log].append((offset, key, value))
        self.ends[log] += 1
        return offset

    @property
    def state(self) -> list[list[tuple[bytes, bytes]]]:
        return [[(key, value) for _, key, value in records] for records in self.stood]

    def raise_(self, raised: RaisedAlerts, alerts: list[Alert]) -> None:
        for alert in raised.new(alerts):
            home = home_partition(alert.scope, alert.subject, LOGS)
            self.alerts[home].append((alert_key(alert), encode(alert)))

    def all_alerts(self) -> list[tuple[bytes, Alert]]:
        return [(key, Alert.model_validate_json(value)) for records in self.alerts for key, value in records]


class Writer:
    """A budget stage's hold on one log: restored from the topic, and written back to it step by step."""

    def __init__(self, topics: Topics, log: Log) -> None:
        self.topics, self.log = topics, log
        self.partition = log.number
        self.ledger = BudgetLedger(origin(log.number), HORIZON_MS, BUDGETS, lambda _: BOOK)
        hints = [
            marker for _, value in topics.state[log.number] if isinstance(marker := decode_budget_state(value), Marker)
        ]
        clock_ms = hints[-1].clock_ms or 0 if hints else 0
        floor = hints[-1].floor or 0 if hints else 0
        stored = StoredBudgets(origin(log.number), DEFINITION, lambda key: self.ledger.is_over(key, clock_ms))
        for offset, key, value in topics.stood[log.number]:
            if offset >= floor:
                stored.offer(offset, key, value)
        self.next = 0 if stored.marker is None else stored.marker.log_offset + 1
        self.ledger.restore(stored.sums())
        for sum_key, position, definition in stored.last():
            self.ledger.seen(sum_key, position, definition)
        self.raised = RaisedAlerts(topics.alerts[log.number])
        self.looked = topics.ends[log.number]

    def take(self, records: int) -> None:
        for record in self.log.records[self.next : self.next + records]:
            self.ledger.take(record)
            self.next += 1

    def look(self) -> None:
        """Notice what stands on the topic since the last look."""
        for offset, key, value in self.topics.stood[self.partition]:
            if offset < self.looked:
                continue
            named, head = parse_state_key(key), read_sum_head(value)
            if named is not None and head is not None:
                assert named[0] == origin(self.partition)
                self.ledger.seen(named[1], head.position, head.definition)
        self.looked = self.topics.ends[self.partition]

    def flush(self) -> Iterator[None]:
        """Every single write of a flush: whoever iterates may stop anywhere."""
        if not self.next:
            return
        last = self.log.records[self.next - 1]
        alerts, sums = self.ledger.drain(last.header.size, last.header.clock_ms)
        for alert in alerts:
            self.topics.raise_(self.raised, [alert])
            yield
        for key, total in sums:
            self.ledger.written(key, self.topics.put(self.partition, state_key(total), encode(total)))
            yield
        marker = Marker(
            v=1,
            marker=True,
            log=origin(self.partition),
            epoch="0f" * 16,
            log_offset=self.next - 1,
            digest=last.digest,
            position=last.header.size,
            definition=DEFINITION,
            clock_ms=last.header.clock_ms,
            floor=self.ledger.floor,
        )
        self.topics.put(self.partition, marker_key(origin(self.partition)), encode(marker))

    def flush_whole(self) -> None:
        for _ in self.flush():
            pass


def follow(topics: Topics, rng: random.Random) -> ScopeTotals:
    """Every record of every partition, in any interleaving, some of it twice; alerts as they fall due."""
    totals = ScopeTotals(BUDGETS, HORIZON_MS, LOGS)
    homes = {partition: RaisedAlerts(topics.alerts[partition]) for partition in range(LOGS)}
    ways = [iter(records) for records in topics.state]
    while ways:
        way = rng.choice(ways)
        record = next(way, None)
        if record is None:
            ways.remove(way)
            continue
        stored = decode_budget_state(record[1])
        if isinstance(stored, PartialSum):
            for _ in range(rng.choice([1, 1, 2])):
                changed = totals.offer(stored)
                for home, alert in totals.reached(homes, [] if changed is None else [changed]):
                    topics.raise_(homes[home], [alert])
    return totals


def newest(topics: Topics) -> dict[Name, Fraction]:
    """What any reader makes of the topic: the highest position per key and log, added up."""
    best: dict[bytes, PartialSum] = {}
    for records in topics.state:
        for key, value in records:
            stored = decode_budget_state(value)
            if isinstance(stored, PartialSum) and (key not in best or stored.position > best[key].position):
                best[key] = stored
    used: defaultdict[Name, Fraction] = defaultdict(Fraction)
    for stored in best.values():
        for budget in BUDGETS:
            if (budget.scope, budget.window, budget.zone) == (stored.scope, stored.window, stored.zone):
                usage = stored.exact_usage()
                used[budget.name, stored.subject, stored.key.start_us] += (
                    Fraction(stored.spend)
                    if budget.meters is None
                    else sum((Fraction(usage.get(meter, 0)) for meter in budget.meters), Fraction(0))
                )
    return used


def without_zeros(used: dict[Name, Fraction]) -> dict[Name, Fraction]:
    return {name: amount for name, amount in used.items() if amount}


FATES = ("flush", "flush", "crash", "crash while flushing", "paused")


def lived(topics: Topics, log: Log, rng: random.Random, fates: Sequence[str] = FATES) -> int:
    """Everything of a log through writers that crash, are replaced while paused, and wake up; how often one woke up."""
    owner, zombies, woken = Writer(topics, log), [], 0
    while owner.next < len(log.records):
        owner.take(rng.randint(1, 3))
        match rng.choice(fates):
            case "flush":
                owner.flush_whole()
            case "crash":
                owner = Writer(topics, log)
            case "crash while flushing":
                for _ in owner.flush():
                    if rng.random() < 0.3:
                        break
                owner = Writer(topics, log)
            case "paused":
                zombies.append(owner)
                owner = Writer(topics, log)
        for zombie in list(zombies):
            if rng.random() < 0.4:
                for _ in zombie.flush():
                    if rng.random() < 0.2:
                        zombies.remove(zombie)  # the rest of its words died with it
                        break
                woken += 1
        owner.look()
        if rng.random() < 0.5:
            owner.flush_whole()
            owner.look()
            topics.compact(log.number)
    owner.flush_whole()
    for zombie in zombies:
        zombie.flush_whole()
        woken += 1
    if rng.random() < 0.5:  # else the last word is a late writer's, and readers have to know better
        owner.look()
        owner.flush_whole()
        topics.compact(log.number)
    return woken


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_spend_and_alerts_are_those_of_the_events_whatever_crashes_and_whoever_wakes_up_late(
    seed: int, events: int
) -> None:
    rng = random.Random(seed)
    logs, topics = make_logs(rng, events), Topics()
    woken = sum(lived(topics, log, rng) for log in logs)
    totals = follow(topics, rng)
    follow(topics, rng)  # another home, or the same after a restart
    assert without_zeros(newest(topics)) == without_zeros(expected(logs))
    for (name, subject, start_us), amount in expected(logs).items():
        budget = next(budget for budget in BUDGETS if budget.name == name)
        if budget.scope != "agent":
            key = next(
                key
                for key in totals._totals
                if key[:3] == (budget.scope, subject, budget.window) and key.start_us == start_us
            )
            assert Fraction(budget.used(totals.spend(key), totals.usage(key))) == amount
    raised = topics.all_alerts()
    assert woken or len({key for key, _ in raised}) == len(raised), "only a late writer can say an alert again"
    assert len({(key, encode(alert)) for key, alert in raised}) == len({key for key, _ in raised})
    assert {
        (alert.budget, alert.subject, window_us(alert.start), alert.threshold) for _, alert in raised
    } == expected_alerts(logs)


@settings(max_examples=40)
@given(st.integers(0, 2**32))
def test_windows_hold_what_they_held_when_the_brokers_clock_jumps(seed: int) -> None:
    """Ahead by days, windows are final and forgotten at once; back by days, the ingest clock stands still.

    Nobody is paused here: whoever wakes up when a window is forgotten has the last word about it.
    """
    rng = random.Random(seed)
    logs, topics = make_logs(rng, 40, jumps_ms=(HORIZON_MS + DAY_MS, 9 * DAY_MS, -DAY_MS, -9 * DAY_MS)), Topics()
    for log in logs:
        lived(topics, log, rng, FATES[:-1])
    follow(topics, rng)
    assert without_zeros(newest(topics)) == without_zeros(expected(logs))
    assert {
        (alert.budget, alert.subject, window_us(alert.start), alert.threshold) for _, alert in topics.all_alerts()
    } == expected_alerts(logs)


def window_us(start: str) -> int:
    return round(datetime.fromisoformat(start).timestamp()) * 1_000_000


@settings(max_examples=40)
@given(st.integers(0, 2**32))
def test_an_alert_is_due_with_the_partial_sum_that_reaches_it_and_not_before(seed: int) -> None:
    """The bound on overshoot: at most what one flush of one log adds."""
    rng = random.Random(seed)
    logs, topics = make_logs(rng, 40), Topics()
    for log in logs:
        writer = Writer(topics, log)
        while writer.next < len(log.records):
            writer.take(1)
            writer.flush_whole()
    totals, known = ScopeTotals(BUDGETS, HORIZON_MS, LOGS), RaisedAlerts()
    budgets = {budget.name: budget for budget in BUDGETS}
    for _, value in rng.sample(records := [record for log in topics.state for record in log], len(records)):
        stored = decode_budget_state(value)
        if not isinstance(stored, PartialSum):
            continue
        key = stored.key
        before = (totals.spend(key), totals.usage(key)) if key in totals._totals else None
        changed = totals.offer(stored)
        for _, alert in totals.reached(range(LOGS), [] if changed is None else [changed]):
            if known.new([alert]):
                budget = budgets[alert.budget]
                assert Fraction(alert.spend) >= Fraction(budget.reached_at(alert.threshold))
                assert before is None or budget.used(*before) < budget.reached_at(alert.threshold)
                assert (alert.log, alert.event_time, alert.append_ms) == (
                    stored.log,
                    stored.event_time,
                    stored.append_ms,
                )


def test_an_agents_alert_names_the_event_that_reached_it() -> None:
    log = Log(0)
    event = {"customer": "acme", "team": None, "time_ms": NOW_MS, "usage": {"requests": 3}}
    log.append([{**event, "agent": "agent-0-0"} for _ in range(5)], NOW_MS)
    topics = Topics()
    writer = Writer(topics, log)
    writer.take(1)
    writer.flush_whole()
    found = {alert.threshold: alert for _, alert in topics.all_alerts()}
    assert {threshold: (alert.position, alert.spend) for threshold, alert in found.items()} == {
        "50": (1, "1.5"),
        "80": (3, "3"),
        "100": (3, "3"),
    }
    assert (found["50"].currency, found["50"].meters, found["50"].append_ms) == ("USD", None, NOW_MS)


def test_final_windows_are_forgotten_and_a_log_that_lags_brings_them_back() -> None:
    ahead, behind = Log(0), Log(1)
    event = {"agent": "a", "customer": "acme", "team": None, "usage": {"requests": 1}}
    ahead.append([{**event, "time_ms": NOW_MS}], NOW_MS)
    ahead.append([{**event, "time_ms": NOW_MS + 70 * DAY_MS}], NOW_MS + 70 * DAY_MS)
    behind.append([{**event, "time_ms": NOW_MS}], NOW_MS)
    topics = Topics()
    writers = [Writer(topics, ahead), Writer(topics, behind)]
    for writer in writers:
        writer.take(9)
        writer.flush_whole()

    def fed(totals: ScopeTotals, log: int) -> None:
        for _, value in topics.state[log]:
            stored = decode_budget_state(value)
            if isinstance(stored, Marker):
                totals.mark(stored)
                totals.forget()
            else:
                totals.offer(stored)

    totals = ScopeTotals(BUDGETS, HORIZON_MS, LOGS)
    fed(totals, 0)
    assert {key.start_us >= (NOW_MS + 30 * DAY_MS) * 1000 for key in totals._totals} == {True}
    with pytest.raises(WindowForgotten) as forgotten:
        fed(totals, 1)
    assert forgotten.value.log == origin(1)
    again = ScopeTotals(BUDGETS, HORIZON_MS, LOGS, {origin(1): 0})
    fed(again, 0)
    fed(again, 1)
    month = next(key for key in again._totals if key.scope == "customer" and key.start_us < NOW_MS * 1000)
    assert again.spend(month) == 2 * BOOK.prices[0].unit_price


def test_events_of_one_record_find_their_days_also_where_clocks_go_back_over_midnight() -> None:
    """In Newfoundland a minute of 7 November 2010 came before the last hour of the 6th."""
    zone = "America/St_Johns"
    budget = FILE["budgets"][0] | {"zone": zone}  # type: ignore[index]
    begin_ms = round(datetime(2010, 11, 7, 1, tzinfo=UTC).timestamp()) * 1000
    times_ms = [begin_ms + 30_000 * number for number in range(600)]
    event = {"agent": "a", "customer": "acme", "team": None, "usage": {"requests": 1}}
    log = Log(0)
    log.append([{**event, "time_ms": time_ms} for time_ms in times_ms], NOW_MS)
    ledger = BudgetLedger(
        origin(0), HORIZON_MS, parse_budgets(orjson.dumps(FILE | {"budgets": [budget]})), lambda _: BOOK
    )
    ledger.take(log.records[0])
    _, sums = ledger.drain(600, NOW_MS)
    days = Counter(window.window_start_us(time_ms * 1000, "day", ZoneInfo(zone)) for time_ms in times_ms)
    assert {key.start_us: stated.events for key, stated in sums} == dict(days)
    assert len(days) == 2


def test_sums_of_other_budgets_do_not_count() -> None:
    log = Log(0)
    log.append([{"agent": "a", "customer": "acme", "team": None, "time_ms": NOW_MS, "usage": {"requests": 1}}], NOW_MS)
    topics = Topics()
    writer = Writer(topics, log)
    writer.take(1)
    writer.flush_whole()
    others: tuple[Budget, ...] = (*BUDGETS, BUDGETS[0].model_copy(update={"name": "more"}))
    totals = ScopeTotals(others, HORIZON_MS, LOGS)
    stored = StoredBudgets(origin(0), definition_of(others), lambda _: False)
    for key, value in topics.state[0]:
        record = decode_budget_state(value)
        assert not isinstance(record, PartialSum) or totals.offer(record) is None
        stored.offer(0, key, value)
    assert (stored.marker, stored.other_budgets, stored.sums()) == (None, True, [])
    assert len(totals) == 0


def test_the_definition_of_budgets_that_existed_before_is_what_it_was() -> None:
    """Or an upgrade would count every log from its beginning."""
    (agents,) = parse_budgets(orjson.dumps({"version": 1, "budgets": [FILE["budgets"][0]]}))  # type: ignore[index]
    assert definition_of([agents]) == "c8d0c66a5c6fdbbc8b5632e246596ce3a889d95a893767d7ceaecdb301b80cd1"


def test_a_start_reads_no_more_than_the_sums_that_can_change_however_long_ago_some_were_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("meterproof_stream.budget_ledger._SPREAD_MIN", 50)
    log, topics = Log(0), Topics()
    event = {"customer": "acme", "team": None, "usage": {"requests": 1}}
    log.append([{**event, "agent": f"idle-{number}", "time_ms": NOW_MS} for number in range(20)], NOW_MS)
    for number in range(200):
        log.append([{**event, "agent": "busy", "time_ms": NOW_MS + number}], NOW_MS + number)
    writer = Writer(topics, log)
    while writer.next < len(log.records):
        writer.take(1)
        writer.flush_whole()
    marker = decode_budget_state(topics.state[0][-1][1])
    assert isinstance(marker, Marker)
    assert marker.floor is not None
    assert topics.ends[0] - marker.floor < 200 < topics.ends[0] // 3
    again = Writer(topics, log)
    assert {key: (total.events, total.spend) for key, total in again.ledger._sums.items()} == {
        key: (total.events, total.spend) for key, total in writer.ledger._sums.items()
    }
    assert not again.ledger.pending
