"""Golden messages of budgets: the file, partial sums, markers and alerts, written down by hand with their keys."""

from typing import Any, Final

import orjson

_ORIGIN: Final = f"meter.example.com/golden/{'0f' * 16}/p2"
_DEFINITION: Final = "5d" * 32
_START: Final = "2026-03-28T23:00:00.000000Z"
_SUM: Final[dict[str, Any]] = {
    "v": 1,
    "log": _ORIGIN,
    "scope": "agent",
    "subject": "team-a/planner",
    "window": "day",
    "zone": "Europe/Berlin",
    "start": _START,
    "position": 1207,
    "events": 31,
    "spend": "-0.000000000001",
    "currency": "USD",
    "definition": _DEFINITION,
}
_MARKER: Final[dict[str, Any]] = {
    "v": 1,
    "marker": True,
    "log": _ORIGIN,
    "epoch": "0f" * 16,
    "log_offset": 40,
    "digest": "ab" * 32,
    "position": 1207,
    "definition": _DEFINITION,
}
_ALERT: Final[dict[str, Any]] = {
    "v": 1,
    "budget": "agents-daily",
    "scope": "agent",
    "subject": "team-a/planner",
    "window": "day",
    "zone": "Europe/Berlin",
    "start": _START,
    "threshold": "99.5",
    "limit": "25",
    "spend": "24.875000000001",
    "currency": "USD",
    "log": _ORIGIN,
    "position": 1206,
    "event_time": "2026-03-29T00:59:59.999Z",
    "append_ms": 1774745999999,
}
_WHOSE: Final = f"{_ORIGIN}|agent:team-a/planner|day|Europe/Berlin|{_START}"

RECORDS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "sum-of-an-agent": (_WHOSE, _SUM),
    "sum-without-price-book": (_WHOSE, _SUM | {"spend": "0", "currency": None}),
    "sum-of-a-customer": (
        f"{_ORIGIN}|customer:a|b|month|UTC|2026-03-01T00:00:00.000000Z",
        _SUM
        | {"scope": "customer", "subject": "a|b", "window": "month", "zone": "UTC"}
        | {"start": "2026-03-01T00:00:00.000000Z", "event_time": "2026-03-29T00:59:59.999Z"}
        | {"append_ms": 1774745999999},
    ),
    "sum-of-a-tag-in-meters": (
        f"{_ORIGIN}|tag:cost.centre:4:2|hour|UTC|2026-03-29T00:00:00.000000Z",
        _SUM
        | {"scope": "tag:cost.centre", "subject": "4:2", "window": "hour", "zone": "UTC"}
        | {"start": "2026-03-29T00:00:00.000000Z"}
        | {"usage": {"input_tokens": "9223372036854775807", "seconds": "0.5"}}
        | {"event_time": "2026-03-29T00:59:59.999Z", "append_ms": 1774745999999},
    ),
    "marker-without-clock": (f"{_ORIGIN}|marker", _MARKER),
    "marker": (f"{_ORIGIN}|marker", _MARKER | {"clock_ms": 1774745999999, "floor": 31}),
    "alert-of-an-agent": (f"agents-daily|agent:team-a/planner|day|Europe/Berlin|{_START}|99.5", _ALERT),
    "alert-of-a-team-in-meters": (
        f"team-tokens|team:red|day|Europe/Berlin|{_START}|100",
        _ALERT
        | {"budget": "team-tokens", "scope": "team", "subject": "red", "threshold": "100", "limit": "1000000"}
        | {"spend": "1000000.5", "currency": None, "meters": ["input_tokens", "output_tokens"]},
    ),
}
"""By name: the Kafka key, and the fields in their order."""

FILE: Final[dict[str, Any]] = {
    "version": 1,
    "budgets": [
        {
            "name": "agents-daily",
            "scope": "agent",
            "subject": "team-a/*",
            "window": "day",
            "zone": "Europe/Berlin",
            "limit": "25",
            "currency": "USD",
            "thresholds": ["50", "99.5"],
        },
        {"name": "customers", "scope": "customer", "subject": "*", "window": "month", "limit": "1", "currency": "USD"},
        {"name": "team-tokens", "scope": "team", "subject": "red", "window": "day", "limit": "1000000"}
        | {"meters": ["input_tokens", "output_tokens"]},
        {"name": "everything", "scope": "all", "subject": "*", "window": "minute", "limit": "0.5", "currency": "USD"},
        {"name": "cost", "scope": "tag:cost.centre", "subject": "4*", "window": "hour", "limit": "3"}
        | {"meters": ["seconds"]},
    ],
}

HOMES: Final = {
    "agent|team-a/planner": 3,
    "agent|planner": 1,
    "customer|a|b": 3,
    "customer|acme": 0,
    "team|red": 3,
    "team|blue": 2,
    "tag:cost.centre|4:2": 2,
    "all|*": 3,
}
"""By scope and subject: the partition of four in which its alerts stand, by another implementation of murmur2."""


def budget_files() -> dict[str, bytes]:
    """Every file of the folder `budgets`, by its path."""
    files = {f"budgets/{name}.record": orjson.dumps(fields) for name, (_, fields) in RECORDS.items()}
    files["budgets/budgets.json"] = orjson.dumps(FILE, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    keys = {f"{name}.record": key for name, (key, _) in RECORDS.items()}
    index = {"partitions": 4, "keys": keys, "homes": HOMES}
    files["budgets/index.json"] = orjson.dumps(index, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return files
