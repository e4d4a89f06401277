"""A trusted model is the one that validation would make; encoders read both alike."""

import copy
import pickle
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, ValidationError

from meterproof_schemas.batch import BatchHeader, encode_header
from meterproof_schemas.effect import Effect
from meterproof_schemas.instant import format_instant_ms
from meterproof_schemas.log_record import Operator, RecordHeader, Source, encode_record_header
from meterproof_schemas.reasons import Reason
from meterproof_schemas.trusted import trusted

SOURCE: dict[str, Any] = {"offset": 7, "count": 1, "digest": "ab" * 32}
BATCH: dict[str, Any] = {
    "v": 1,
    "audience": "test",
    "topic": "usage.batches",
    "partition": 3,
    "producer": "gateway",
    "instance": "0f" * 16,
    "sequence": 1,
    "previous": "cd" * 32,
    "count": 2,
    "root": "ef" * 32,
    "sent_at": format_instant_ms(1_700_000_000_000),
}


def record_fields(**fields: Any) -> dict[str, Any]:
    return {
        "v": 1,
        "kind": "batch",
        "prev": "00" * 32,
        "source": Source(**SOURCE),
        "append_ms": 5,
        "clock_ms": 6,
        "reason": None,
        "not_accepted": ((0, "duplicate", "12" * 32), (4, Reason.TOO_LATE.value, "34" * 32)),
        "first": 10,
        "size": 12,
        "root": "56" * 32,
        "frontier": "78" * 32 * 2,
        "registry": "9a" * 32,
        "price_book": 0,
        "writer": "bc" * 16,
        "generation": 1,
        "operator": None,
        "genesis": None,
        "corrections": None,
    } | fields


RECORDS = (
    record_fields(),
    record_fields(reason=Reason.BAD_ROOT, not_accepted=(), size=10),
    record_fields(corrections=((9, Effect.APPLIED),)),
    record_fields(kind="hole", source=Source(offset=7, count=3, digest=None), operator=Operator(who="a", why="b")),
)


@pytest.mark.parametrize(
    ("model", "fields"),
    [(Source, SOURCE), (BatchHeader, BATCH), *((RecordHeader, fields) for fields in RECORDS)],
)
def test_equals_the_validated_model_in_every_respect(model: type[BaseModel], fields: dict[str, Any]) -> None:
    assert list(fields) == list(model.model_fields)
    validated = model.model_validate(fields)
    made = trusted(model, dict(fields))
    assert made == validated
    assert hash(made) == hash(validated)
    assert repr(made) == repr(validated)
    assert made.model_dump() == validated.model_dump()
    assert made.model_dump_json() == validated.model_dump_json()
    assert made.model_fields_set == validated.model_fields_set
    assert made.model_copy(update={}) == validated
    assert copy.deepcopy(made) == validated
    assert pickle.loads(pickle.dumps(made)) == validated  # noqa: S301 - our own bytes


def test_stays_frozen() -> None:
    made = trusted(Source, dict(SOURCE))
    with pytest.raises(ValidationError, match="frozen"):
        made.offset = 8


@pytest.mark.parametrize("fields", RECORDS)
def test_a_record_header_is_written_as_its_model_dumps(fields: dict[str, Any]) -> None:
    absent = {name for name in ("operator", "genesis", "corrections") if fields[name] is None}
    line = encode_record_header(trusted(RecordHeader, dict(fields)))
    assert line == encode_record_header(RecordHeader(**fields))
    assert line == orjson.dumps(RecordHeader(**fields).model_dump(exclude=absent))
    assert RecordHeader.model_validate(orjson.loads(line)) == RecordHeader(**fields)


def test_a_batch_header_is_written_as_its_model_dumps() -> None:
    assert encode_header(trusted(BatchHeader, dict(BATCH))) == orjson.dumps(BatchHeader(**BATCH).model_dump())
