"""Budget files, and the records that track budgets."""

from decimal import Decimal
from fractions import Fraction
from math import floor
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproof_schemas.budget import (
    Alert,
    Marker,
    PartialSum,
    SumHead,
    alert_key,
    decode_alert,
    decode_budget_state,
    encode,
    kinds_of,
    marker_key,
    parse_budgets,
    read_sum_head,
    state_key,
)
from meterproof_schemas.errors import InvalidRecord, InvalidRegistry

BUDGET: dict[str, Any] = {
    "name": "daily",
    "scope": "agent",
    "subject": "team-a/*",
    "window": "day",
    "zone": "Europe/Berlin",
    "limit": "25",
    "currency": "USD",
    "thresholds": ["50", "99.5"],
}


def parse(*budgets: dict[str, Any], **top: Any) -> Any:
    return parse_budgets(orjson.dumps({"version": 1, "budgets": list(budgets)} | top))


def test_a_budget_file_is_read() -> None:
    (budget,) = parse(BUDGET)
    assert budget.model_dump(mode="json", exclude_none=True) == BUDGET
    assert [budget.reached_at(threshold) for threshold in budget.thresholds] == [Decimal("12.5"), Decimal("24.875")]
    (defaults,) = parse({name: value for name, value in BUDGET.items() if name not in {"zone", "thresholds"}})
    assert (defaults.zone, defaults.thresholds) == ("UTC", ("50", "80", "100"))
    assert parse() == ()


def test_thresholds_are_exact_for_the_largest_limit() -> None:
    (budget,) = parse(BUDGET | {"limit": "999999999999999999.999999999999", "thresholds": ["33.333333333333"]})
    exact = Fraction(budget.limit) * Fraction("33.333333333333") / 100
    assert Fraction(budget.reached_at("33.333333333333")) == exact


AMOUNTS = st.from_regex(r"[0-9]{1,6}(\.[0-9]{1,12})?", fullmatch=True)


@given(AMOUNTS.filter(Fraction), st.lists(AMOUNTS, min_size=1, max_size=3), st.data())
def test_a_threshold_is_reached_from_its_exact_amount_on(
    limit: str, thresholds: list[str], data: st.DataObject
) -> None:
    (budget,) = parse(BUDGET | {"limit": limit, "thresholds": thresholds})
    ((kind, watched),) = kinds_of([budget]).items()
    amounts = [Fraction(limit) * Fraction(threshold) / 100 for threshold in thresholds]
    near = data.draw(st.sampled_from([floor(amount * 10**12) for amount in amounts]))
    used = near + data.draw(st.integers(-2, 2))
    (watch,) = watched.watches
    assert watch.reached(used) == sum(amount <= Fraction(used, 10**12) for amount in amounts)
    assert kind == (budget.scope, budget.window, budget.zone)


SUMS = st.builds(
    PartialSum,
    v=st.just(1),
    log=st.just(f"meter.example.com/\u00fc/{'0f' * 16}/p0"),
    scope=st.sampled_from(["agent", "tag:cost-centre"]),
    subject=st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=20),
    window=st.just("day"),
    zone=st.just("Europe/Berlin"),
    start=st.just("2026-01-31T23:00:00.000000Z"),
    position=st.integers(0, 2**63 - 1),
    events=st.integers(0, 2**63 - 1),
    spend=st.sampled_from(["0", "-1.5", "99999999999999999999999999.999999999999"]),
    currency=st.sampled_from([None, "USD"]),
    definition=st.just("0" * 64),
    usage=st.sampled_from([None, {}, {"requests": "-0.5", "a.b": "7"}]),
    event_time=st.sampled_from([None, "2026-01-31T23:00:00.000Z"]),
    append_ms=st.none() | st.integers(0, 2**63 - 1),
)


@given(SUMS)
def test_a_sum_that_is_written_quickly_has_the_bytes_of_one_that_is_written_slowly(stored: PartialSum) -> None:
    quick = SumHead(**stored.model_dump())
    assert encode(quick) == encode(stored)
    assert (state_key(quick), quick.key) == (state_key(stored), stored.key)
    assert read_sum_head(encode(quick)) == quick


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "budgets.0.name"),
        ({"scope": "galaxy"}, "budgets.0.scope"),
        ({"subject": "x" * 257}, "budgets.0.subject"),
        ({"window": "year"}, "budgets.0.window"),
        ({"zone": "Mars/Olympus"}, "not a time zone"),
        ({"zone": "../../etc/passwd"}, "not a time zone"),
        ({"limit": 25}, "budgets.0.limit"),
        ({"limit": "-1"}, "budgets.0.limit"),
        ({"limit": "0.00"}, "always reached"),
        ({"currency": "usd"}, "budgets.0.currency"),
        ({"thresholds": []}, "budgets.0.thresholds"),
        ({"thresholds": [50]}, "budgets.0.thresholds"),
        ({"x": 1}, "budgets.0.x"),
    ],
)
def test_a_faulty_budget_is_refused_and_the_fault_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRegistry, match=message):
        parse(BUDGET | change)


def test_a_faulty_file_is_refused() -> None:
    for version in (2, True, 1.0, "1"):
        with pytest.raises(InvalidRegistry, match="version"):
            parse(BUDGET, version=version)
    with pytest.raises(InvalidRegistry, match="one name"):
        parse(BUDGET, BUDGET)


def test_records_come_back_and_have_keys_of_their_own() -> None:
    common: dict[str, Any] = {"log": "meter.example.com/x/p0", "position": 7}
    scope: dict[str, Any] = {"scope": "agent", "subject": "a|b", "window": "day", "zone": "UTC"}
    start = "2026-01-31T00:00:00.000000Z"
    partial = PartialSum(
        v=1, **common, **scope, start=start, events=7, spend="-1.5", currency="USD", definition="0" * 64
    )
    marker = Marker(v=1, marker=True, **common, epoch="0" * 32, log_offset=3, digest="1" * 64, definition="0" * 64)
    alert = Alert(
        v=1,
        **common,
        **scope,
        start=start,
        budget="daily",
        threshold="50",
        limit="25",
        spend="12.5",
        currency="USD",
        event_time=start,
        append_ms=5,
    )
    assert decode_budget_state(partial.model_dump_json().encode()) == partial
    assert decode_budget_state(marker.model_dump_json().encode()) == marker
    assert decode_alert(alert.model_dump_json().encode()) == alert
    assert state_key(partial) == f"meter.example.com/x/p0|agent:a|b|day|UTC|{start}".encode()
    assert marker_key(partial.log) == b"meter.example.com/x/p0|marker"
    assert alert_key(alert) == f"daily|agent:a|b|day|UTC|{start}|50".encode()
    for change in ({"v": 2}, {"x": 1}, {"position": -1}):
        for record in (partial, marker):
            with pytest.raises(InvalidRecord):
                decode_budget_state(orjson.dumps(record.model_dump() | change))
        with pytest.raises(InvalidRecord):
            decode_alert(orjson.dumps(alert.model_dump() | change))
