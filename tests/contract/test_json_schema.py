"""The JSON Schemas in the package are current, and say what the validator says as far as JSON Schema can."""

from typing import Any

import jsonschema  # type: ignore[import-untyped]
import orjson
import pytest

from meterproof_schemas.batch import decode_batch
from meterproof_schemas.log_record import decode_record
from tests.contract.golden_generator import FOLDER as GOLDEN
from tests.contract.golden_generator import golden_files
from tests.contract.json_schema_generator import FOLDER, json_schemas

EVENTS: dict[str, Any] = orjson.loads((GOLDEN / "events/index.json").read_bytes())
LOG: dict[str, Any] = orjson.loads((GOLDEN / "log/expected.json").read_bytes())

BEYOND_JSON_SCHEMA = {
    # The bytes, not the document.
    *(
        "too-large",
        "depth-17",
        "depth-1000",
        "carriage-return-at-end",
        "carriage-return-between-tokens",
        "tab-between-tokens",
    ),
    *("line-feed-between-tokens", "twice-top", "twice-top-equal-values", "twice-escaped-spelling", "twice-data"),
    *("twice-customer", "twice-meter", "twice-in-unknown-field"),
    # Lengths in bytes, not characters.
    *("id-of-257-bytes-in-65-characters", "source-of-258-bytes-in-129-characters"),
    "customer-of-258-bytes-in-129-characters",
    # 1.0 is an integer to JSON Schema.
    *("quantity-float-integral", "quantity-float-zero", "quantity-exponent", "status-code-float"),
    # The calendar.
    *("time-february-29", "time-february-30", "time-april-31", "time-year-0"),
    # Python's regular expressions let `$` match before a final LF; those of JSON Schema (ECMA 262) do not.
    *("quantity-string-line-feed-after", "time-line-feed-after", "meter-name-line-feed-after"),
}
"""Hostile events that a schema cannot refuse."""


def validator(name: str) -> Any:
    schema = orjson.loads((FOLDER / f"{name}.v1.json").read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_schemas_are_what_the_models_say() -> None:
    made = json_schemas()
    assert {path.name for path in FOLDER.iterdir()} == set(made), "run python -m tests.contract.json_schema_generator"
    assert [name for name, content in made.items() if (FOLDER / name).read_bytes() != content] == []


def test_valid_events_pass() -> None:
    schema = validator("usage-event")
    for name in EVENTS["valid"]:
        assert [
            error.message for error in schema.iter_errors(orjson.loads((GOLDEN / "events" / name).read_bytes()))
        ] == [], name


def test_hostile_events_do_not_pass_but_for_what_a_schema_cannot_say() -> None:
    schema = validator("usage-event")
    passed = set()
    for name in EVENTS["hostile"]:
        try:
            document = orjson.loads((GOLDEN / "events" / name).read_bytes())
        except orjson.JSONDecodeError:
            continue
        if schema.is_valid(document):
            passed.add(name.removeprefix("hostile/").removesuffix(".line"))
    assert passed == BEYOND_JSON_SCHEMA


def test_valid_batches_pass() -> None:
    header, signatures = validator("batch-header"), validator("batch-signatures")
    for path in (GOLDEN / "batches/valid").iterdir():
        batch = decode_batch(path.read_bytes())
        header.validate(orjson.loads(batch.header_line))
        signatures.validate(orjson.loads(batch.signatures_line))


def test_log_and_its_companions_pass() -> None:
    header = validator("log-record-header")
    records = [name for name in LOG["records"] if "no-record" not in name]
    assert len(records) > 10
    for name in records:
        header.validate(orjson.loads(decode_record((GOLDEN / "log" / name).read_bytes()).header_line))
    for name in LOG["rejections"]:
        validator("rejection-header").validate(orjson.loads((GOLDEN / "log" / name).read_bytes().split(b"\n")[0]))
    checkpoint = (GOLDEN / "log" / LOG["checkpoint"]["file"]).read_bytes()
    validator("checkpoint-header").validate(orjson.loads(checkpoint.split(b"\n")[0]))
    validator("price-book").validate(orjson.loads((GOLDEN / "log/price-book.json").read_bytes()))
    validator("key-registry").validate(orjson.loads((GOLDEN / "batches/registry.json").read_bytes()))


@pytest.mark.parametrize("name", json_schemas())
def test_every_schema_is_one_and_refuses_an_empty_object(name: str) -> None:
    assert not validator(name.removesuffix(".v1.json")).is_valid({})


def test_the_schema_of_events_knows_every_field_of_the_full_event() -> None:
    full = orjson.loads(golden_files()["events/valid/full.json"])
    schema = orjson.loads((FOLDER / "usage-event.v1.json").read_bytes())
    assert set(full["data"]) | {"corrects"} == set(schema["$defs"]["UsageData"]["properties"])
