"""Makes the JSON Schemas of version 1 from the models: `python -m tests.contract.json_schema_generator` writes them.

A schema says less than the validator: what it cannot say stands in its `$comment`.
"""

from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import BaseModel, TypeAdapter

import meterproof_schemas
from meterproof_schemas.batch import BatchHeader, Signatures
from meterproof_schemas.budget import Alert, BudgetFile, Marker, PartialSum
from meterproof_schemas.checkpoint_record import CheckpointHeader
from meterproof_schemas.delivery import Delivery
from meterproof_schemas.event import MeterName, Name, UsageEvent
from meterproof_schemas.keys import RegistryFile
from meterproof_schemas.log_record import RecordHeader
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.rejection import RejectionHeader

FOLDER: Final = Path(meterproof_schemas.__file__).parent / "jsonschema"

_BYTES: Final = (
    "Not said here: one line of UTF-8 without byte order mark, raw control characters or names that occur twice in one "
    "object; nesting at most 16 deep; integers spelled without point and exponent; dates that exist."
)
_MODELS: Final[dict[str, tuple[type[BaseModel], str]]] = {
    "usage-event": (
        UsageEvent,
        _BYTES + " At most 65,536 bytes; id, source, subject and data.customer at most 256 bytes, not characters.",
    ),
    "batch-header": (BatchHeader, _BYTES + " At most 4,096 bytes; previous is null for sequence 0 and only there."),
    "batch-signatures": (Signatures, _BYTES + " At most 4,096 bytes; key ids differ."),
    "log-record-header": (RecordHeader, "Line 0 of a record; what its fields must add up to, fold says."),
    "checkpoint-header": (CheckpointHeader, "Line 0 of a checkpoint record; the signed note follows."),
    "rejection-header": (RejectionHeader, "Line 0 of a rejection; the payload follows."),
    "price-book": (PriceBook, "Not said here: meters differ, prices name declared meters, granularity is above 0."),
    "key-registry": (RegistryFile, "Not said here: an ed25519 key's id is the SHA-256 of its 32 raw bytes."),
    "budgets": (BudgetFile, "Not said here: names differ, zones exist, limits are above 0."),
    "budget-sum": (PartialSum, "One kind of record of usage.budget-state."),
    "budget-marker": (Marker, "The other kind of record of usage.budget-state."),
    "budget-alert": (Alert, "One record of usage.alerts."),
    "delivery": (Delivery, "One record of usage.deliveries."),
}


def json_schemas() -> dict[str, bytes]:
    """Every schema by its file name."""
    schemas: dict[str, bytes] = {}
    for name, (model, comment) in _MODELS.items():
        schema: dict[str, Any] = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"urn:meterproof:schema:{name}:v1",
            "$comment": comment,
        } | model.model_json_schema()
        if name == "usage-event":
            data = schema["$defs"]["UsageData"]
            _name_members(data["properties"]["usage"], TypeAdapter(MeterName).json_schema())
            _name_members(data["properties"]["tags"]["anyOf"][0], TypeAdapter(Name).json_schema())
            _only_corrections_are_negative(data)
        schemas[f"{name}.v1.json"] = orjson.dumps(schema, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return schemas


def _name_members(schema: dict[str, Any], name: dict[str, Any]) -> None:
    """Say of an object that *every* name in it must be spelled so; pydantic says what those that are must hold."""
    (schema["additionalProperties"],) = schema.pop("patternProperties").values()
    schema["propertyNames"] = name


def _only_corrections_are_negative(data: dict[str, Any]) -> None:
    """Add the one rule of the validator that spans two fields."""
    data |= {
        "if": {"properties": {"corrects": {"type": "null"}}},
        "then": {
            "properties": {
                "usage": {
                    "additionalProperties": {
                        "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[^-]"}]
                    }
                }
            }
        },
    }


def write(folder: Path = FOLDER) -> None:
    """Write all schemas, and remove what is none any more."""
    schemas = json_schemas()
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in schemas:
            path.unlink()
    for name, content in schemas.items():
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    write()
