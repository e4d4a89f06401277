"""Batches come back as they were encoded, or are refused for a reason."""

import random
from types import ModuleType
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproof_proofs.tree import root_of
from meterproof_schemas import batch as batch_module
from meterproof_schemas.batch import (
    BatchHeader,
    Signatures,
    decode_batch,
    encode_batch,
    encode_header,
    encode_signatures,
    header_digest,
    root_of_lines,
)
from meterproof_schemas.errors import InvalidBatch
from meterproof_schemas.event import entry_of
from meterproof_schemas.limits import BATCH_BYTES_MAX, BATCH_LINES_MAX
from meterproof_schemas.reasons import Reason
from meterproof_schemas.strict_json import parse_object
from tests.builders import make_batch, make_event, make_key, make_registry
from tests.native_part import native_part
from tests.unit.schemas.documents import NAMES, damaged

KEY = make_key()
LINES = st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), min_size=1, max_size=20)


@given(LINES, st.integers(0, 2**63 - 1), st.integers(0, 1000))
def test_round_trip(lines: list[bytes], sequence: int, partition: int) -> None:
    value = make_batch(lines, KEY, sequence=sequence, partition=partition)
    batch = decode_batch(value)
    assert batch.lines == lines
    assert (batch.header.sequence, batch.header.partition, batch.header.count) == (sequence, partition, len(lines))
    assert encode_header(batch.header) == batch.header_line
    assert encode_batch(batch.header_line, batch.signatures_line, batch.lines) == value
    registry = make_registry(KEY)
    assert registry.authorities(batch.header_line, batch.signatures, batch.header.producer, 0) == [KEY.entry]
    assert batch.header.root == root_of([entry_of(line) for line in lines]).hex()


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_batch_or_refused(value: bytes) -> None:
    with pytest.raises(InvalidBatch) as refusal:
        decode_batch(value)
    assert refusal.value.reason is Reason.MALFORMED_BATCH


@given(st.data())
def test_every_changed_byte_is_refused_or_shows(data: st.DataObject) -> None:
    """A changed batch has no structure, or does not verify, or its lines do not give the root that was signed."""
    value = make_batch([make_event("e-1"), make_event("e-2")], KEY)
    at = data.draw(st.integers(0, len(value) - 1))
    changed = value[:at] + bytes([value[at] ^ data.draw(st.integers(1, 255))]) + value[at + 1 :]
    registry = make_registry(KEY)
    try:
        batch = decode_batch(changed)
        registry.authorities(batch.header_line, batch.signatures, batch.header.producer, 0)
    except InvalidBatch:
        return
    original = decode_batch(value)
    if batch.lines == original.lines:
        # Base64 has a few spellings of one signature, and a line of signatures may be spaced otherwise.
        assert batch.header_line == original.header_line
        assert batch.signatures_line != original.signatures_line
    else:
        assert root_of_lines(batch.lines).hex() != batch.header.root


def test_limits_in_lines_and_bytes() -> None:
    assert len(decode_batch(make_batch([b"x"] * BATCH_LINES_MAX, KEY)).lines) == BATCH_LINES_MAX
    with pytest.raises(InvalidBatch, match="count"):
        decode_batch(make_batch([b"x"] * (BATCH_LINES_MAX + 1), KEY))
    room = BATCH_BYTES_MAX - len(make_batch([b""], KEY))
    assert len(decode_batch(make_batch([b"x" * room], KEY)).lines[0]) == room
    with pytest.raises(InvalidBatch) as refusal:
        decode_batch(make_batch([b"x" * (room + 1)], KEY))
    assert refusal.value.reason is Reason.TOO_LARGE


def test_header_fields_are_bounded_and_typed() -> None:
    right: dict[str, Any] = decode_batch(make_batch([b"x"], KEY)).header.model_dump()
    wrong: dict[str, list[Any]] = {
        "v": [0, 2, "1", True, 1.0],
        "audience": ["", "a" * 257, "a\n", 1],
        "topic": ["", None],
        "partition": [-1, 0.0, "0"],
        "producer": ["", "\x85"],
        "instance": ["", "0" * 31, "0" * 33, "A" * 32],
        "sequence": [-1, 2**63, True],
        "previous": ["", "0" * 63, "A" * 64],
        "count": [0, 1001, "1"],
        "root": [None, "0" * 63, "G" * 64],
        "sent_at": ["2026-01-01", "2026-02-30T00:00:00.000Z", None],
    }
    assert set(wrong) == set(right)
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match=name):
                BatchHeader.model_validate(right | {name: value})
        with pytest.raises(ValueError, match=name):
            BatchHeader.model_validate({field: value for field, value in right.items() if field != name})


def test_a_header_is_named_by_its_digest() -> None:
    assert header_digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_eight_signatures_fit_in_their_line() -> None:
    header_line = decode_batch(make_batch([b"x"], KEY)).header_line
    signatures = encode_signatures([(f"{number:064d}", "ed25519", b"\xff" * 64) for number in range(8)])
    assert len(decode_batch(encode_batch(header_line, signatures, [b"x"])).signatures) == 8


FIELDS = st.fixed_dictionaries(
    {
        "v": st.sampled_from([1, 1, 1, 0, 2, True, 1.0]),
        "audience": NAMES,
        "topic": NAMES,
        "partition": st.one_of(st.integers(-1, 9), st.sampled_from([2**31, 2**31 + 1, 2**64])),
        "producer": NAMES,
        "instance": st.sampled_from(["0f" * 16, "0F" * 16, "0f" * 15, "0g" * 16, " f" * 16]),
        "sequence": st.sampled_from([0, 1, 2**63 - 1, 2**63, -1]),
        "previous": st.sampled_from([None, "0f" * 32, "0f" * 31, "0F" * 32]),
        "count": st.integers(0, BATCH_LINES_MAX + 1),
        "root": st.sampled_from(["0f" * 32, "0f" * 33, "0F" * 32, "\u0661f" * 32]),
        "sent_at": st.sampled_from(["2026-01-01T00:00:00.000Z", "2026-02-30T00:00:00.000Z", "2026-01-01", ""]),
    }
)


@settings(max_examples=300)
@given(FIELDS, st.randoms(use_true_random=False), st.booleans())
def test_what_is_accepted_at_once_is_what_the_models_accept(
    fields: dict[str, Any], rng: random.Random, damage: bool
) -> None:
    line = orjson.dumps(fields) if fields["partition"] < 2**64 else b"{}"
    if damage:
        line = damaged(line, rng)
    at_once = batch_module._usual_header(line)
    if at_once is not None:
        assert at_once == BatchHeader.model_validate(parse_object(line))


def test_the_usual_spelling_is_accepted_at_once() -> None:
    batch = decode_batch(make_batch([b"x"], KEY))
    assert batch_module._usual_header(batch.header_line) == batch.header
    assert batch_module._usual_signatures(batch.signatures_line) == batch.signatures
    assert Signatures.model_validate(parse_object(batch.signatures_line)).signatures == batch.signatures


@settings(max_examples=300)
@given(st.randoms(use_true_random=False))
def test_signatures_accepted_at_once_are_what_the_models_accept(rng: random.Random) -> None:
    line = damaged(decode_batch(make_batch([b"x"], KEY)).signatures_line, rng)
    at_once = batch_module._usual_signatures(line)
    if at_once is not None:
        assert at_once == Signatures.model_validate(parse_object(line)).signatures


@pytest.fixture(scope="module")
def native() -> ModuleType:
    return native_part("meterproof_schemas._usual_batch")


def assert_read_alike(native: ModuleType, value: bytes) -> bool:
    """The native reader takes it as the Python one does, or says nothing; whether it takes it."""
    found = native.read_usual_batch(value)
    if found is None:
        return False
    read, decoded = decode_batch(value), batch_module._decoded(value)
    assert read == decoded
    assert list(read.header.__dict__.items()) == list(decoded.header.__dict__.items())
    assert [list(one.__dict__.items()) for one in read.signatures] == [
        list(one.__dict__.items()) for one in decoded.signatures
    ]
    assert encode_header(read.header) == read.header_line
    return True


@settings(max_examples=400)
@given(FIELDS, st.randoms(use_true_random=False), st.sampled_from(["", "header", "signatures", "all"]))
def test_the_native_reader_takes_what_the_python_one_takes(
    native: ModuleType, fields: dict[str, Any], rng: random.Random, damage: str
) -> None:
    header = orjson.dumps(fields) if fields["partition"] < 2**64 else b"{}"
    signatures = encode_signatures([("0f" * 32, "ed25519", bytes(rng.randrange(256) for _ in range(64)))])
    if damage == "header":
        header = damaged(header, rng)
    if damage == "signatures":
        signatures = damaged(signatures, rng)
    value = encode_batch(header, signatures, [b"x"] * rng.choice([fields["count"], fields["count"], 0, 1]))
    assert_read_alike(native, damaged(value, rng) if damage == "all" else value)


@pytest.mark.parametrize(("sequence", "partition"), [(0, 0), (10, 10), (2**63 - 1, 2**31)])
def test_the_native_reader_takes_the_usual_spelling(native: ModuleType, sequence: int, partition: int) -> None:
    value = make_batch([make_event("e-1"), make_event("e-2")], KEY, sequence=sequence, partition=partition)
    assert assert_read_alike(native, value)
    for end in range(len(value)):  # nothing behind the end is looked at
        assert native.read_usual_batch(value[:end]) is None
    for at in range(value.index(b"\n", value.index(b"\n") + 1)):
        for byte in b'"\\\n\x7f\x1f 0a':
            assert_native_or_refused(native, value[:at] + bytes([byte]) + value[at + 1 :])


def assert_native_or_refused(native: ModuleType, value: bytes) -> None:
    try:
        batch_module._decoded(value)
    except InvalidBatch:
        assert native.read_usual_batch(value) is None
    else:
        assert_read_alike(native, value)


def test_the_native_reader_takes_bytes_alone(native: ModuleType) -> None:
    assert native.read_usual_batch(b"") is None
    with pytest.raises(TypeError):
        native.read_usual_batch("")
