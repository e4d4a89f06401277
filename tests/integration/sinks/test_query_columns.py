"""What the shipped queries tell beside their totals: each column is what is counted here from the lines themselves."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meterproof_schemas.correction import correction_line
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.rollups import Rollups
from tests.builders import make_event, make_genesis_record, make_limits
from tests.integration.sinks.clickhouse_folder import new_sink, opened
from tests.integration.sinks.test_shipped_queries import _answer
from tests.rated_log import RatedLog, costs

pytestmark = pytest.mark.clickhouse

_TOKENS = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
_PARTS = {"queue": "queue_us", "upstream": "upstream_us", "first_token": "first_token_us"}
_EVENTS = 120


@pytest.fixture(scope="module")
def log() -> RatedLog:
    """Events of two days, each with a time of its own, so that there is one busiest minute; then corrections."""
    made = RatedLog(seed=3, genesis_value=make_genesis_record(limits=make_limits(corrections=True)))
    made.clock_ms += 2 * 3_600_000  # so that midnight lies between the events
    draw = random.Random(7)
    lines = []
    for number in range(_EVENTS):
        data: dict[str, Any] = {
            "customer": draw.choice(("acme", "globex")),
            "usage": {"requests": 1, **{name: draw.randrange(1, 1000) for name in _TOKENS}},
            "operation": draw.choice(("chat", "search")),
            "provider": "openai",
            "model": draw.choice(("gpt-5", "gpt-5-mini")),
            "status": draw.choice(("ok", "ok", "error", "rate_limited")),
            "session": f"s{draw.randrange(6)}",
            "traceparent": f"00-{draw.randrange(1, 40):032x}-{draw.randrange(1, 2**60):016x}-01",
        }
        if draw.random() < 0.7:
            said = {name: draw.randrange(10**6) for name in _PARTS.values() if draw.random() < 0.8}
            data["latency"] = {"total_us": draw.randrange(10**6), **said}
        time_ms = made.clock_ms - draw.randrange(300) * 60_000 - number
        agent, source = draw.choice(made.names), draw.choice(("gateway", "tools"))
        lines.append(make_event(f"c{number}", source=source, subject=agent, time_ms=time_ms, data=data))
    for first in range(0, len(lines), 40):
        made.batch(lines[first : first + 40])
    made.batch(
        [
            correction_line(lines[0], correction_id="v0", kind="void", salt="0" * 32),
            correction_line(lines[0], correction_id="v0.again", kind="void", salt="0" * 32),
        ]
    )
    assert made.state.position == _EVENTS + 2
    return made


@pytest.fixture
async def clickhouse(tmp_path: Path, log: RatedLog) -> Any:
    with opened(tmp_path / "clickhouse") as database:
        await new_sink(database).write(0, log.genesis, log.records)
        Rollups(database).refresh()
        yield database


class _Event(dict[str, Any]):
    """A line as JSON, and what the log's definition says that it costs."""

    cost: Decimal


def _standing(log: RatedLog) -> list[_Event]:
    """The events that count: all but the voided one and what speaks of it."""
    found = []
    lines = [line for _, record in log.records for line in record.lines]
    for line, cost in zip(lines, costs(log.records), strict=True):
        event = _Event(json.loads(line))
        event.cost = cost
        if event["id"] != "c0" and "corrects" not in event["data"]:
            found.append(event)
    return found


def _by(events: list[_Event], *keys: Callable[[_Event], str]) -> dict[tuple[str, ...], list[_Event]]:
    groups: defaultdict[tuple[str, ...], list[_Event]] = defaultdict(list)
    for event in events:
        groups[tuple(key(event) for key in keys)].append(event)
    return groups


def _said(name: str) -> Callable[[_Event], str]:
    return lambda event: str(event["data"][name])


def _p95(values: Iterator[int]) -> int | None:
    ordered = sorted(values)
    return ordered[int(Decimal("0.95") * len(ordered))] if ordered else None


async def test_each_column_is_what_is_counted_from_the_lines(clickhouse: ClickHouse, log: RatedLog) -> None:
    events = _standing(log)
    assert len(events) == _EVENTS - 1

    of_operation = _by(events, _said("operation"))
    for row in _answer(clickhouse, "latency_by_operation"):
        mine = of_operation.pop((row["operation"],))
        timed = [event["data"]["latency"] for event in mine if "latency" in event["data"]]
        assert (row["calls"], row["timed_calls"]) == (len(mine), len(timed))
        for part, member in _PARTS.items():
            assert row[f"p95_{part}_us"] == _p95(one[member] for one in timed if member in one), part
        assert row["rate_limited_calls"] == sum(event["data"]["status"] == "rate_limited" for event in mine)
    assert not of_operation

    of_model = _by(events, _said("provider"), _said("model"))
    rows = _answer(clickhouse, "tokens_by_model")
    assert {
        (row["provider"], row["model"]): [row["calls"], *(Decimal(row[name]) for name in _TOKENS)] for row in rows
    } == {
        model: [len(mine), *(sum(event["data"]["usage"][name] for event in mine) for name in _TOKENS)]
        for model, mine in of_model.items()
    }
    minutes = {
        model: _by(mine, lambda event: f"{event['time'][:16].replace('T', ' ')}:00") for model, mine in of_model.items()
    }
    for row in _answer(clickhouse, "rate_by_provider"):
        mine_by_minute = minutes.pop((row["provider"], row["model"]))
        calls = {minute: len(mine) for (minute,), mine in mine_by_minute.items()}
        tokens = {
            minute: sum(event["data"]["usage"][name] for event in mine for name in _TOKENS)
            for (minute,), mine in mine_by_minute.items()
        }
        assert row["busiest_minute"] == min(minute for minute in calls if calls[minute] == max(calls.values()))
        assert row["heaviest_minute"] == min(minute for minute in tokens if tokens[minute] == max(tokens.values()))
    assert not minutes

    rows = _answer(clickhouse, "top_models")
    assert {(row["provider"], row["model"]): row["calls"] for row in rows} == {
        model: len(mine) for model, mine in of_model.items()
    }
    rows = _answer(clickhouse, "top_operations")
    assert {(row["operation"],): (row["calls"], row["agents"]) for row in rows} == {
        operation: (len(mine), len({event["subject"] for event in mine}))
        for operation, mine in _by(events, _said("operation")).items()
    }
    rows = _answer(clickhouse, "spend_by_session")
    assert {(row["session"],): (row["events"], row["began"][:23], row["ended"][:23]) for row in rows} == {
        session: (len(mine), *(_shown(pick(event["time"] for event in mine)) for pick in (min, max)))
        for session, mine in _by(events, _said("session")).items()
    }
    edges = _by(events, lambda event: str(event["subject"]), lambda event: str(event["source"]))
    rows = _answer(clickhouse, "service_dependencies")
    assert {(row["caller"], row["callee"]): (row["failed_calls"], row["operations"]) for row in rows} == {
        edge: (
            sum(event["data"]["status"] != "ok" for event in mine),
            sorted({event["data"]["operation"] for event in mine}),
        )
        for edge, mine in edges.items()
    }
    rows = _answer(clickhouse, "spend_by_hour")
    assert {(row["hour"][:13].replace(" ", "T"), row["customer"]): row["calls"] for row in rows} == {
        hour: len(mine) for hour, mine in _by(events, lambda event: str(event["time"][:13]), _said("customer")).items()
    }
    days = _by(events, _said("customer"), lambda event: str(event["time"][:10]))
    rows = _answer(clickhouse, "usage_by_customer_and_day")
    assert {(row["customer"], row["day"], row["meter"]): row["events"] for row in rows} == {
        (*day, meter): len(mine) for day, mine in days.items() for meter in ("requests", *_TOKENS)
    }
    dearest = {event["id"]: event for event in events}
    for row in _answer(clickhouse, "dearest_calls"):
        event = dearest[row["id"]]
        assert Decimal(row["cost"]) == event.cost
        assert (row["agent"], row["customer"]) == (event["subject"], event["data"]["customer"])
        assert (row["operation"], row["model"]) == (event["data"]["operation"], event["data"]["model"])
        assert row["event_time"][:23] == _shown(event["time"])


async def test_corrections_are_told_by_what_they_do(clickhouse: ClickHouse, log: RatedLog) -> None:
    (corrected,) = (
        json.loads(line) for _, record in log.records for line in record.lines if json.loads(line)["id"] == "c0"
    )
    rows = _answer(clickhouse, "corrections")
    assert Counter(
        (row["customer"], row["producer"], row["kind"], row["effect"], row["corrections"]) for row in rows
    ) == {
        (corrected["data"]["customer"], "gateway", "void", effect, 1): 1 for effect in ("already_corrected", "applied")
    }
    assert {row["oldest"][:23] for row in rows} == {_shown(corrected["time"])}
    ((newest,),) = clickhouse.rows("SELECT toString(max(append_time)) FROM usage_final")
    assert {row["newest_at"] for row in rows} == {newest}


def _shown(time: str) -> str:
    """An event's time as the queries spell it, to the millisecond."""
    return time.replace("T", " ")[:23]
