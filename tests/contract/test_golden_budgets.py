"""The golden messages of budgets are read, and written again byte for byte."""

from typing import Any

import orjson
import pytest

from meterproof_schemas.budget import (
    Alert,
    Marker,
    PartialSum,
    alert_key,
    decode_alert,
    decode_budget_state,
    encode,
    is_marker_key,
    marker_key,
    parse_budgets,
    parse_state_key,
    read_sum_head,
    state_key,
)
from meterproof_schemas.scopes import home_partition
from tests.contract.golden_generator import FOLDER
from tests.contract.test_json_schema import validator

INDEX: dict[str, Any] = orjson.loads((FOLDER / "budgets/index.json").read_bytes())


@pytest.mark.parametrize("name", INDEX["keys"])
def test_records_are_read_and_written_again(name: str) -> None:
    content, key = (FOLDER / "budgets" / name).read_bytes(), INDEX["keys"][name].encode()
    if name.startswith("alert"):
        alert = decode_alert(content)
        assert isinstance(alert, Alert)
        assert (encode(alert), alert_key(alert)) == (content, key)
        assert validator("budget-alert").is_valid(orjson.loads(content))
        return
    stored = decode_budget_state(content)
    assert encode(stored) == content
    assert is_marker_key(key) == isinstance(stored, Marker)
    head = read_sum_head(content)
    if isinstance(stored, PartialSum):
        assert state_key(stored) == key
        assert parse_state_key(key) == (stored.log, stored.key)
        assert head is not None
        assert {field: getattr(head, field) for field in head.__struct_fields__} == stored.model_dump()
        assert (encode(head), state_key(head), head.key) == (content, key, stored.key)
        assert validator("budget-sum").is_valid(orjson.loads(content))
    else:
        assert (marker_key(stored.log), head, parse_state_key(key)) == (key, None, None)
        assert validator("budget-marker").is_valid(orjson.loads(content))


def test_the_file_is_read() -> None:
    content = (FOLDER / "budgets/budgets.json").read_bytes()
    budgets = parse_budgets(content)
    assert [budget.scope for budget in budgets] == ["agent", "customer", "team", "all", "tag:cost.centre"]
    assert [budget.unit for budget in budgets] == ["USD", "USD", "input_tokens+output_tokens", "USD", "seconds"]
    assert validator("budgets").is_valid(orjson.loads(content))


def test_alerts_stand_in_their_homes() -> None:
    for name, partition in INDEX["homes"].items():
        scope, _, subject = name.partition("|")
        assert home_partition(scope, subject, INDEX["partitions"]) == partition
