"""Makes every golden message of version 1; `python -m tests.contract.golden_generator` writes them into the package.

The formats are frozen: a file that changes is a new version of a format, not a new golden file. Everything here follows
from constants, so the same code gives the same bytes; a test holds the repository's files to that. Expectations are
written down by hand beside each message; nothing is asked of the code that is to be tested by them.
"""

import hashlib
import hmac
from base64 import b64encode
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import Any, Final

import orjson
from nacl.signing import SigningKey

import meterproof_schemas
from meterproof_proofs.checkpoint import Checkpoint, sign_checkpoint
from meterproof_proofs.frontier import Frontier
from meterproof_proofs.note import Signer
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.batch import (
    Algorithm,
    BatchHeader,
    decode_batch,
    encode_batch,
    encode_header,
    encode_signatures,
    header_digest,
    root_of_lines,
    signed_bytes,
)
from meterproof_schemas.checkpoint_record import (
    CheckpointHeader,
    CheckpointRecord,
    RecordsCheckpoint,
    encode_checkpoint_record,
)
from meterproof_schemas.effect import Effect
from meterproof_schemas.event import entry_of, identity_of
from meterproof_schemas.instant import format_instant_ms
from meterproof_schemas.keys import KeyEntry, encode_registry, key_id_of
from meterproof_schemas.limits import BATCH_BYTES_MAX, FUTURE_TOLERANCE_MS, LINE_BYTES_MAX
from meterproof_schemas.log_record import (
    Kind,
    Limits,
    Operator,
    RecordHeader,
    Source,
    encode_record,
    encode_record_header,
    make_genesis,
    record_digest,
)
from meterproof_schemas.partitioner import partition_of
from meterproof_schemas.price_book import DEFAULT_METERS, PriceBook, UnitPrice, encode_price_book
from meterproof_schemas.reasons import DUPLICATE, Reason
from meterproof_schemas.rejection import encode_rejection, make_rejection
from tests.contract.golden_budgets import budget_files

FOLDER: Final = Path(meterproof_schemas.__file__).parent / "golden"

NOW_MS: Final = 1_769_860_800_000
"""2026-01-31T12:00:00Z."""
HOUR_MS: Final = 3_600_000
HORIZON_MS: Final = 24 * HOUR_MS
AUDIENCE: Final = "golden"
TOPIC: Final = "usage.batches"
PARTITIONS: Final = 4
PARTITION: Final = 1
INSTANCE: Final = "0123456789abcdef" * 2


def instant(offset_ms: int = 0) -> str:
    """The golden present, shifted."""
    return format_instant_ms(NOW_MS + offset_ms)


@cache
def agent(number: int, partition: int = PARTITION, prefix: str = "team-a/agent") -> str:
    """The `number`-th agent of a partition."""
    names = (f"{prefix}-{candidate}" for candidate in count())
    return next(islice((name for name in names if partition_of(name, PARTITIONS) == partition), number, None))


def pretty(document: Any) -> bytes:
    """An index file."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


# --- events ----------------------------------------------------------------------------------------------------------


def document(event_id: str = "e-1", *, data: dict[str, Any] | None = None, **attributes: Any) -> dict[str, Any]:
    """A valid event; `data` and `attributes` add or replace fields."""
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": "gateway/eu-1",
        "type": "meterproof.usage.v1",
        "time": instant(),
        "subject": agent(0),
        "data": {"customer": "acme", "usage": {"requests": 1}} | (data or {}),
    } | attributes


def line(event_id: str = "e-1", **fields: Any) -> bytes:
    """The line of a valid event."""
    return orjson.dumps(document(event_id, **fields))


def without(*path: str) -> bytes:
    """A valid event but for one missing field."""
    whole = document()
    inner: Any = whole
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return orjson.dumps(whole)


def quantity(spelled: str) -> bytes:
    """An event whose quantity is spelled so."""
    return line().replace(b'"requests":1', b'"requests":' + spelled.encode())


def nested(depth: int) -> bytes:
    """An event whose deepest value is `depth` levels deep, the event itself being level 1."""
    return line(x_nested=0).replace(b'"x_nested":0', b'"x_nested":' + b"[" * (depth - 1) + b"]" * (depth - 1))


def padded(size: int) -> bytes:
    """An event of so many bytes."""
    return line(x_padding="p" * (size - len(line(x_padding=""))))


FULL_DATA: Final[dict[str, Any]] = {
    "customer": "acme",
    "usage": {"requests": 1, "input_tokens": 1234, "output_tokens": 567, "seconds": "0.731"},
    "operation": "chat.completions",
    "surface": "llm",
    "status": "ok",
    "status_code": 200,
    "provider": "openai",
    "model": "gpt-4o-mini",
    "latency": {"total_us": 731000, "queue_us": 1000, "upstream_us": 729000, "first_token_us": 210000},
    "request_bytes": 4096,
    "response_bytes": 2048,
    "session": "session-7",
    "user": "user-42",
    "run": "run-9",
    "parent": "e-0",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "cost": {"amount": "0.000525", "currency": "USD"},
    "tags": {"team": "search", "project": "assistant", "cost_centre": "4711"},
    "governance": {"residency": "eu", "purpose": "support", "consent": "contract"},
    "request_signature": "sig1=:MEUCIQ==:",
    "receipt": "receipt-1",
    "salt": "000102030405060708090a0b0c0d0e0f",
}


def valid_events() -> dict[str, bytes]:
    """Lines that every reader must accept, by file name."""
    backwards = document()
    backwards["data"] = dict(reversed(backwards["data"].items()))
    return {
        "minimal": line(),
        "full": line(data=FULL_DATA),
        "names-in-another-order": orjson.dumps(dict(reversed(backwards.items()))),
        "spaces-between-tokens": line().replace(b",", b" , ").replace(b'":', b'" :  '),
        "escapes-in-names-and-values": line().replace(b'"id":"e-1"', b'"\\u0069d":"e\\u002d1\\/\\"\\\\"'),
        "unknown-fields": line(
            data={"x_float": 1.5, "x_list": [None, True, {}]}, x_extension={"a": 1}, dataschema="urn:s"
        ),
        "same-name-at-different-depths": line(data={"id": "inner", "x": {"id": "innermost"}}),
        "nulls-in-optional-fields": line(
            data=dict.fromkeys(("operation", "surface", "model", "tags", "cost", "corrects"))
        ),
        "depth-16": nested(16),
        "line-of-64-kib": padded(LINE_BYTES_MAX),
        "id-of-256-bytes": line("i" * 256),
        "id-of-256-bytes-in-64-characters": line("\N{FOX FACE}" * 64),
        "names-beyond-ascii": line(
            "\u00e9-\u4e2d", data={"customer": "M\u00fcller & S\u00f6hne"}, subject=agent(0, prefix="\u00e9quipe")
        ),
        "quantity-integer-0": quantity("0"),
        "quantity-integer-2^63-1": quantity("9223372036854775807"),
        "quantity-string-integer": quantity('"42"'),
        "quantity-string-18-digits-12-decimals": quantity('"999999999999999999.999999999999"'),
        "quantity-string-leading-zeros": quantity('"007.50"'),
        "meters-64": line(data={"usage": {f"meter_{number}": number for number in range(64)}}),
        "meter-name-of-64-characters": line(data={"usage": {"m" * 64: 1}}),
        "tags-64": line(data={"tags": {f"tag {number}": "value" for number in range(64)}}),
        "time-milliseconds": line(time="2026-01-31T12:00:00.001Z"),
        "time-nanoseconds": line(time="2026-01-31T12:00:00.123456789Z"),
        "time-leap-day": line(time="2024-02-29T23:59:59.999Z"),
        "time-year-1": line(time="0001-01-01T00:00:00.000Z"),
        "time-year-9999": line(time="9999-12-31T23:59:59.999999999Z"),
        "time-before-1970": line(time="1969-12-31T23:59:59.999Z"),
        "correction-void": line("e-2", data={"corrects": {"id": "e-1", "kind": "void"}}),
        "correction-replace": line(
            "e-2", data={"corrects": {"id": "e-1", "kind": "replace"}, "usage": {"requests": 2}}
        ),
        "correction-with-its-line": correction("void", "e-2", line()),
        "correction-negative-quantities": line(
            "e-2", data={"corrects": {"id": "e-1", "kind": "replace"}, "usage": {"requests": -1, "seconds": "-0.5"}}
        ),
        "correction-quantity-2^63-1-negative": line(
            "e-2", data={"corrects": {"id": "e-1", "kind": "replace"}, "usage": {"requests": -(2**63 - 1)}}
        ),
    }


def hostile_events() -> dict[str, tuple[Reason, str, bytes]]:
    """Lines that every reader must refuse, by file name: (reason, fault, bytes)."""
    malformed = Reason.MALFORMED_EVENT
    plain = line()
    cases: dict[str, tuple[Reason, str, bytes]] = {}

    def add(name: str, fault: str, content: bytes, reason: Reason = malformed) -> None:
        assert name not in cases
        cases[name] = (reason, fault, content)

    # Numbers.
    for name, spelled in {
        "float": "1.5",
        "float-integral": "1.0",
        "float-zero": "0.0",
        "exponent": "1e3",
        "exponent-1e400": "1e400",
        "integer-2^63": "9223372036854775808",
        "integer-minus-2^63": "-9223372036854775808",
        "integer-2^64": "18446744073709551616",
        "integer-of-400-digits": "1" * 400,
        "integer-with-leading-zero": "01",
        "integer-with-plus": "+1",
        "integer-hexadecimal": "0x10",
        "literal-nan": "NaN",
        "literal-infinity": "Infinity",
        "string-exponent": '"1e3"',
        "string-1e400": '"1e400"',
        "string-nan": '"NaN"',
        "string-infinity": '"Infinity"',
        "string-19-digits": '"1234567890123456789"',
        "string-13-decimals": '"1.1234567890123"',
        "string-no-digits-before-point": '".5"',
        "string-no-digits-after-point": '"1."',
        "string-plus": '"+1"',
        "string-space": '" 1"',
        "string-underscore": '"1_000"',
        "string-line-feed-after": '"1\\n"',
        "string-other-digits": '"\\u0661"',
        "string-empty": '""',
        "boolean": "true",
        "null": "null",
        "list": "[1]",
        "object": '{"value":1}',
    }.items():
        add(f"quantity-{name}", f"quantity {spelled[:24]}", quantity(spelled))
    add("quantity-negative-integer", "negative outside a correction", quantity("-1"))
    add("quantity-negative-string", "negative outside a correction", quantity('"-1.5"'))
    add("quantity-negative-zero-string", "negative sign outside a correction", quantity('"-0"'))
    add("cost-float", "money as a float", line(data={"cost": {"amount": 0.1, "currency": "USD"}}))
    add(
        "cost-currency-lower-case",
        "currency is not three capitals",
        line(data={"cost": {"amount": "1", "currency": "usd"}}),
    )
    add("status-code-float", "status code as a float", line(data={"status_code": 200.0}))
    add("latency-negative", "a negative duration", line(data={"latency": {"total_us": -1}}))
    # Names that occur twice.
    add("twice-top", "id twice", plain.replace(b'"id":"e-1"', b'"id":"e-1","id":"e-2"'))
    add("twice-top-equal-values", "id twice with one value", plain.replace(b'"id":"e-1"', b'"id":"e-1","id":"e-1"'))
    add(
        "twice-escaped-spelling",
        "id twice, once as \\u0069d",
        plain.replace(b'"id":"e-1"', b'"id":"e-1","\\u0069d":"e-2"'),
    )
    add("twice-data", "data twice", plain[:-1] + b',"data":{"customer":"acme","usage":{"requests":2}}}')
    add(
        "twice-customer",
        "data.customer twice",
        plain.replace(b'"customer":"acme"', b'"customer":"acme","customer":"other"'),
    )
    add("twice-meter", "a meter twice", plain.replace(b'"requests":1', b'"requests":1,"requests":2'))
    add("twice-in-unknown-field", "twice in a field that no rule reads", plain[:-1] + b',"x":{"y":[{"a":1,"a":1}]}}')
    # Bytes.
    add("byte-order-mark", "a byte order mark", b"\xef\xbb\xbf" + plain)
    add("utf-16", "UTF-16", plain.decode().encode("utf-16"))
    add("utf-16-without-mark", "UTF-16, little endian", plain.decode().encode("utf-16-le"))
    add("utf-32", "UTF-32", plain.decode().encode("utf-32"))
    add("latin-1", "not UTF-8", line("\u00e9").decode().encode("latin-1"))
    add("invalid-utf-8", "a byte that UTF-8 never has", plain.replace(b"e-1", b"e-\xff"))
    add("overlong-utf-8", "an overlong spelling of /", plain.replace(b"gateway/", b"gateway\xc0\xaf"))
    add("surrogate-in-utf-8", "a surrogate spelled in UTF-8", plain.replace(b"e-1", b"e-\xed\xa0\x80"))
    add("lone-surrogate-escaped", "a lone surrogate", plain.replace(b"e-1", b"e-\\ud83d"))
    add("depth-17", "nested 17 deep", nested(17))
    add("depth-1000", "nested 1,000 deep", nested(1000))
    add("too-large", "64 KiB and one byte", padded(LINE_BYTES_MAX + 1), Reason.TOO_LARGE)
    add("empty", "an empty line", b"")
    add("spaces-only", "spaces", b"   ")
    add("carriage-return-at-end", "CR at the end", plain + b"\r")
    add("carriage-return-between-tokens", "CR between tokens", plain.replace(b',"source"', b',\r"source"'))
    add("tab-between-tokens", "tab between tokens", plain.replace(b',"source"', b',\t"source"'))
    add("line-feed-between-tokens", "LF between tokens", plain.replace(b',"source"', b',\n"source"'))
    add("form-feed-between-tokens", "white space that JSON does not have", plain.replace(b',"source"', b',\f"source"'))
    for code in (0x00, 0x1F, 0x7F, 0x85):
        raw = chr(code).encode()
        add(f"id-with-u+{code:04x}-raw", f"U+{code:04X} in a name", plain.replace(b"e-1", b"e-" + raw))
        add(
            f"id-with-u+{code:04x}-escaped",
            f"U+{code:04X} in a name, escaped",
            plain.replace(b"e-1", b"e-\\u%04x" % code),
        )
    add("subject-with-line-feed-escaped", "LF in a name, escaped", plain.replace(b"team-a/", b"team-a\\n/"))
    # Not an object, or not one.
    add("not-json", "not JSON", b"requests=1")
    add("cut-off", "cut off", plain[:-1])
    add("trailing-comma", "a trailing comma", plain[:-1] + b",}")
    add("comment", "a comment", plain[:-1] + b"/* */}")
    add("single-quotes", "single quotes", plain.replace(b'"', b"'"))
    add("two-objects", "two objects on one line", plain + plain)
    add("in-a-list", "a list of events", b"[" + plain + b"]")
    add("a-string", "a string", b'"event"')
    add("null", "null", b"null")
    # Fields.
    for name in ("specversion", "id", "source", "type", "time", "subject", "data"):
        add(f"missing-{name}", f"no {name}", without(name))
        add(f"null-{name}", f"{name} is null", orjson.dumps(document() | {name: None}))
    for name in ("customer", "usage"):
        add(f"missing-data-{name}", f"no data.{name}", without("data", name))
    add("name-in-capitals", "ID instead of id", plain.replace(b'"id"', b'"ID"'))
    add("id-number", "id is a number", plain.replace(b'"e-1"', b"1"))
    add("id-empty", "an empty id", line(""))
    add("id-of-257-bytes", "id of 257 bytes", line("i" * 257))
    add("id-of-257-bytes-in-65-characters", "id of 257 bytes", line("\N{FOX FACE}" * 64 + "i"))
    add("source-empty", "an empty source", line(source=""))
    add("source-of-258-bytes-in-129-characters", "source of 258 bytes", line(source="\u00e9" * 129))
    add("subject-empty", "an empty subject", line(subject=""))
    add("subject-of-257-bytes", "subject of 257 bytes", line(subject="s" * 257))
    add("customer-empty", "an empty customer", line(data={"customer": ""}))
    add("customer-number", "customer is a number", line(data={"customer": 7}))
    add("customer-of-258-bytes-in-129-characters", "customer of 258 bytes", line(data={"customer": "\u00e9" * 129}))
    add("specversion-0.3", "another specversion", line(specversion="0.3"))
    add("specversion-number", "specversion is a number", line(specversion=1))
    add("type-other", "another type", line(type="com.example.usage.v1"))
    add("type-v2", "a later version", line(type="meterproof.usage.v2"))
    add(
        "data-a-string",
        "data is a string",
        plain.replace(b'"data":{"customer":"acme","usage":{"requests":1}}', b'"data":"usage"'),
    )
    add(
        "data-base64",
        "data_base64 instead of data",
        plain.replace(b'"data":{"customer":"acme","usage":{"requests":1}}', b'"data_base64":"e30="'),
    )
    for name, spelled in {
        "without-milliseconds": "2026-01-31T12:00:00Z",
        "with-centiseconds": "2026-01-31T12:00:00.12Z",
        "with-10-fraction-digits": "2026-01-31T12:00:00.1234567890Z",
        "with-offset": "2026-01-31T12:00:00.000+01:00",
        "with-offset-zero": "2026-01-31T12:00:00.000+00:00",
        "without-zone": "2026-01-31T12:00:00.000",
        "with-small-t": "2026-01-31t12:00:00.000Z",
        "with-small-z": "2026-01-31T12:00:00.000z",
        "with-space": "2026-01-31 12:00:00.000Z",
        "with-comma": "2026-01-31T12:00:00,000Z",
        "basic-format": "20260131T120000.000Z",
        "week-date": "2026-W05-6T12:00:00.000Z",
        "leap-second": "2016-12-31T23:59:60.000Z",
        "24-00": "2026-01-31T24:00:00.000Z",
        "february-29": "2026-02-29T12:00:00.000Z",
        "february-30": "2024-02-30T12:00:00.000Z",
        "april-31": "2026-04-31T12:00:00.000Z",
        "month-13": "2026-13-01T12:00:00.000Z",
        "year-0": "0000-01-01T00:00:00.000Z",
        "year-10000": "10000-01-01T00:00:00.000Z",
        "other-digits": "2026-01-31T12:00:00.\u0661\u0662\u0663Z",
        "line-feed-after": "2026-01-31T12:00:00.000Z\n",
        "empty": "",
    }.items():
        add(f"time-{name}", f"time {spelled!a}", line(time=spelled))
    add("time-number", "time is a number", line(time=1769860800000))
    # Usage.
    add("usage-empty", "no meter", line(data={"usage": {}}))
    add("usage-list", "usage is a list", line(data={"usage": [{"requests": 1}]}))
    add("usage-null", "usage is null", line(data={"usage": None}))
    add("meters-65", "65 meters", line(data={"usage": {f"meter_{number}": number for number in range(65)}}))
    for name, spelled in {
        "capital": "Requests",
        "digit-first": "1requests",
        "hyphen": "input-tokens",
        "space": "input tokens",
        "empty": "",
        "of-65-characters": "m" * 65,
        "beyond-ascii": "r\u00e9quests",
        "line-feed-after": "requests\n",
    }.items():
        add(f"meter-name-{name}", f"meter name {spelled[:24]!a}", line(data={"usage": {spelled: 1}}))
    # Optional fields.
    add("surface-unknown", "a surface that is not listed", line(data={"surface": "web"}))
    add("status-unknown", "a status that is not listed", line(data={"status": "OK"}))
    add("status-code-1000", "status code 1000", line(data={"status_code": 1000}))
    add("status-code-string", "status code as a string", line(data={"status_code": "200"}))
    add(
        "traceparent-capitals",
        "traceparent in capitals",
        line(data={"traceparent": "00-" + "A" * 32 + "-" + "b" * 16 + "-01"}),
    )
    add("salt-short", "salt of 15 bytes", line(data={"salt": "00" * 15}))
    add("salt-capitals", "salt in capitals", line(data={"salt": "AB" * 16}))
    add("salt-with-spaces", "salt with spaces", line(data={"salt": "ab " * 10 + "ab"}))
    add("tags-65", "65 tags", line(data={"tags": {f"tag {number}": "value" for number in range(65)}}))
    add("tags-number", "a tag's value is a number", line(data={"tags": {"team": 1}}))
    add("tags-empty-name", "a tag without a name", line(data={"tags": {"": "value"}}))
    add("receipt-of-4097-characters", "receipt of 4,097 characters", line(data={"receipt": "r" * 4097}))
    add("correction-unknown-kind", "a kind that is not listed", line(data={"corrects": {"id": "e-0", "kind": "undo"}}))
    add("correction-without-id", "no id", line(data={"corrects": {"kind": "void"}}))
    add("correction-without-kind", "no kind", line(data={"corrects": {"id": "e-0"}}))
    add("correction-line-a-number", "line is a number", line(data={"corrects": {"id": "e", "kind": "void", "line": 1}}))
    add("correction-a-string", "corrects is a string", line(data={"corrects": "e-0"}))
    return cases


# --- keys ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GoldenKey:
    """A key of the golden registry, with its private half. TEST ONLY."""

    name: str
    seed: bytes
    entry: KeyEntry

    def sign(self, header_line: bytes) -> tuple[str, Algorithm, bytes]:
        """A signature over line 0."""
        if self.entry.algorithm == "hmac-sha256":
            return self.entry.key_id, "hmac-sha256", hmac.digest(secret_file(self), signed_bytes(header_line), "sha256")
        return self.entry.key_id, "ed25519", SigningKey(self.seed).sign(signed_bytes(header_line)).signature


def golden_key(name: str, *, producer: str = "gateway", **fields: Any) -> GoldenKey:
    """A key derived from its name; speaks for everything unless `fields` say otherwise."""
    seed = hashlib.sha256(f"meterproof golden key {name}, for tests only".encode()).digest()
    public = bytes(SigningKey(seed).verify_key)
    allowed = {"sources": ("*",), "agents": ("*",), "customers": ("*",)} | fields
    if fields.get("algorithm") == "hmac-sha256":
        entry = KeyEntry(key_id=name, secret_file=f"{name}.test-only-secret", producer=producer, **allowed)
    else:
        entry = KeyEntry(
            key_id=key_id_of(public),
            algorithm="ed25519",
            public_key=b64encode(public).decode(),
            producer=producer,
            **allowed,
        )
    return GoldenKey(name, seed, entry)


def secret_file(key: GoldenKey) -> bytes:
    """What the secret's file holds, and the secret: it is taken as it stands, without white space around it."""
    return key.seed.hex().encode()


REVOKED_MS: Final = NOW_MS
KEYS: Final = {
    key.name: key
    for key in (
        golden_key("gateway"),
        golden_key("gateway-second", comment="the same producer's other key: rotation overlaps"),
        golden_key(
            "narrow", producer="narrow", sources=("gateway/*",), agents=("team-a/*",), customers=("acme", "acme-*")
        ),
        golden_key("revoked", revoked_at=format_instant_ms(REVOKED_MS)),
        golden_key("expired", valid_until=instant(-1), comment="valid until a millisecond before the golden present"),
        golden_key("future", valid_from=instant(1), comment="valid from a millisecond after the golden present"),
        golden_key("meterbox", producer="meterbox"),
        golden_key("shared", producer="shared", algorithm="hmac-sha256"),
    )
}
UNKNOWN_KEY: Final = golden_key("unknown", comment="in no registry")


def registry_file() -> bytes:
    """The golden key registry."""
    return encode_registry([key.entry for key in KEYS.values()])


# --- batches ---------------------------------------------------------------------------------------------------------


def header(lines: list[bytes], **fields: Any) -> BatchHeader:
    """A right header for these lines but for `fields`, which are not validated."""
    whole: dict[str, Any] = {
        "v": 1,
        "audience": AUDIENCE,
        "topic": TOPIC,
        "partition": PARTITION,
        "producer": "gateway",
        "instance": INSTANCE,
        "sequence": 0,
        "previous": None,
        "count": len(lines),
        "root": root_of_lines(lines).hex(),
        "sent_at": instant(),
    } | fields
    return BatchHeader.model_construct(**whole)


def batch(lines: list[bytes], *keys: GoldenKey, header_line: bytes | None = None, **fields: Any) -> bytes:
    """A signed batch, by the key `gateway` unless others are named."""
    header_line = encode_header(header(lines, **fields)) if header_line is None else header_line
    return encode_batch(
        header_line, encode_signatures([key.sign(header_line) for key in keys or (KEYS["gateway"],)]), lines
    )


@dataclass(frozen=True)
class Step:
    """One source record of a golden case and what must become of it."""

    content: bytes
    reason: Reason | None = None
    lines: tuple[str, ...] = ()
    """Where the batch is admitted: `accepted`, `duplicate` or a reason for each line."""
    append_ms: int = NOW_MS


def _accepted(count: int) -> tuple[str, ...]:
    return ("accepted",) * count


@cache
def valid_batches() -> dict[str, list[Step]]:
    """Batches that must be admitted, by case; records of one case follow one another on one partition."""
    one, three = [line()], [line(f"e-{number}") for number in range(3)]
    thousand = [line(f"e-{number}") for number in range(1000)]
    gateway, second, narrow = KEYS["gateway"], KEYS["gateway-second"], KEYS["narrow"]
    first_header = encode_header(header(three))
    full = line(data=FULL_DATA)
    return {
        "one-event": [Step(batch(one), lines=_accepted(1))],
        "three-events": [Step(batch(three), lines=_accepted(3))],
        "thousand-events": [Step(batch(thousand), lines=_accepted(1000))],
        "full-event": [Step(batch([full]), lines=_accepted(1))],
        "two-signatures": [Step(batch(one, gateway, second), lines=_accepted(1))],
        "signature-by-unknown-key-too": [Step(batch(one, UNKNOWN_KEY, gateway), lines=_accepted(1))],
        "revoked-key-beside-valid-key": [Step(batch(one, KEYS["revoked"], second), lines=_accepted(1))],
        "revoked-key-before-revocation": [
            Step(batch(one, KEYS["revoked"]), lines=_accepted(1), append_ms=REVOKED_MS - 1)
        ],
        "expiring-key-in-its-last-millisecond": [
            Step(batch(one, KEYS["expired"]), lines=_accepted(1), append_ms=NOW_MS - 2)
        ],
        "new-key-in-its-first-millisecond": [
            Step(batch(one, KEYS["future"]), lines=_accepted(1), append_ms=NOW_MS + 1)
        ],
        "narrow-key-within-its-names": [
            Step(
                batch([line(), line("e-2", data={"customer": "acme-eu"})], narrow, producer="narrow"),
                lines=_accepted(2),
            )
        ],
        "hmac": [Step(batch(one, KEYS["shared"], producer="shared"), lines=_accepted(1))],
        "line-that-is-no-event": [
            Step(batch([line(), b"", quantity("1.5")]), lines=("accepted", *["malformed_event"] * 2))
        ],
        "line-above-64-kib": [Step(batch([padded(LINE_BYTES_MAX + 1), line()]), lines=("too_large", "accepted"))],
        "line-of-another-partition": [
            Step(batch([line(subject=agent(0, PARTITION + 1)), line()]), lines=("wrong_partition", "accepted"))
        ],
        "line-of-another-source": [
            Step(
                batch([line(source="billing/eu-1"), line()], narrow, producer="narrow"),
                lines=("key_not_allowed", "accepted"),
            )
        ],
        "line-of-another-agent": [
            Step(
                batch([line(subject=agent(0, prefix="team-b/agent")), line()], narrow, producer="narrow"),
                lines=("key_not_allowed", "accepted"),
            )
        ],
        "line-of-another-customer": [
            Step(
                batch([line(data={"customer": "acm"}), line()], narrow, producer="narrow"),
                lines=("key_not_allowed", "accepted"),
            )
        ],
        "line-with-undeclared-meter": [
            Step(batch([line(data={"usage": {"goats": 1}}), line()]), lines=("unknown_meter", "accepted"))
        ],
        "correction": [
            Step(
                batch([line(), line("e-2", data={"corrects": {"id": "e-1", "kind": "void"}})]),
                lines=("accepted", "correction_not_allowed"),
            )
        ],
        "time-at-its-limits": [
            Step(
                batch(
                    [
                        line("future", time=instant(FUTURE_TOLERANCE_MS)),
                        line("too-future", time=instant(FUTURE_TOLERANCE_MS)[:-1] + "001Z"),
                        line("late", time=instant(-HORIZON_MS)),
                        line("too-late", time=instant(-HORIZON_MS - 1)[:-1] + "999Z"),
                    ]
                ),
                lines=("accepted", "in_future", "accepted", "too_late"),
            )
        ],
        "same-event-twice-in-a-batch": [
            Step(
                batch([line(), line(), line(time=instant(1)), line(source="gateway/eu-2")]),
                lines=("accepted", "duplicate", "conflicting_id", "accepted"),
            )
        ],
        "repeated": [
            Step(batch(three), lines=_accepted(3)),
            Step(batch(three), lines=("duplicate",) * 3, append_ms=NOW_MS + 1),
        ],
        "series": [
            Step(batch(three), lines=_accepted(3)),
            Step(batch(one, sequence=1, previous=header_digest(first_header)), lines=("duplicate",)),
        ],
        "same-events-cut-otherwise": [
            Step(batch(three), lines=_accepted(3)),
            Step(
                batch([*three[1:], line("e-9")], sequence=1, previous=header_digest(first_header)),
                lines=("duplicate", "duplicate", "accepted"),
            ),
        ],
    }


@cache
def hostile_batches() -> dict[str, list[Step]]:
    """Batches of which a record must be refused as a whole, by case."""
    one, three = [line()], [line(f"e-{number}") for number in range(3)]
    malformed, unsigned = Reason.MALFORMED_BATCH, Reason.BAD_SIGNATURE
    gateway, second = KEYS["gateway"], KEYS["gateway-second"]
    good = batch(one)
    header_line, signatures_line, event_line, _ = good.split(b"\n")
    key_id, algorithm, raw = gateway.sign(header_line)
    changed = bytes([raw[0] ^ 1]) + raw[1:]

    def signed(*signatures: tuple[str, Algorithm, bytes], header: bytes = header_line) -> bytes:
        return encode_batch(header, encode_signatures(list(signatures)), one)

    def header_with(old: bytes, new: bytes) -> bytes:
        assert old in header_line
        return batch(one, header_line=header_line.replace(old, new))

    def signatures_with(old: bytes, new: bytes) -> bytes:
        assert old in signatures_line
        return encode_batch(header_line, signatures_line.replace(old, new), one)

    too_large = batch([line(f"e-{number}", x_padding="p" * 60_000) for number in range(9)])
    too_large = batch(
        [line(f"e-{number}", x_padding="p" * 60_000) for number in range(8)]
        + [line("e-8", x_padding="p" * (60_000 - len(too_large) + BATCH_BYTES_MAX + 1))]
    )
    over_header_alone = SigningKey(gateway.seed).sign(header_line).signature
    altered, digest_line = event_line.replace(b"acme", b"acne"), entry_of(event_line).hex().encode()
    respaced = header_line.replace(b'"count":1', b'"count": 1')
    confused = hmac.digest(bytes(SigningKey(gateway.seed).verify_key), signed_bytes(header_line), "sha256")
    singles: dict[str, tuple[Reason, bytes]] = {
        # Structure.
        "empty": (Reason.UNREADABLE_RECORD, b""),
        "not-a-batch": (malformed, b"hello\n"),
        "no-trailing-line-feed": (malformed, good[:-1]),
        "two-trailing-line-feeds": (malformed, good + b"\n"),
        "carriage-returns": (malformed, good.replace(b"\n", b"\r\n")),
        "header-only": (malformed, header_line + b"\n"),
        "no-events": (malformed, encode_batch(header_line, signatures_line, [])),
        "header-cut-off": (malformed, encode_batch(header_line[:-9], signatures_line, one)),
        "header-unknown-field": (malformed, header_with(b'{"v":1', b'{"v":1,"x":1')),
        "header-name-twice": (malformed, header_with(b'{"v":1', b'{"v":1,"v":1')),
        "header-version-2": (malformed, header_with(b'{"v":1', b'{"v":2')),
        "header-version-true": (malformed, header_with(b'{"v":1', b'{"v":true')),
        "header-version-float": (malformed, header_with(b'{"v":1', b'{"v":1.0')),
        "header-above-4-kib": (malformed, header_with(b'{"v":1', b'{"v":1' + b" " * 4096)),
        "header-float": (malformed, header_with(b'"count":1', b'"count":1.0')),
        "header-missing-root": (malformed, header_with(b'"root":"' + root_of_lines(one).hex().encode() + b'",', b"")),
        "header-root-in-capitals": (malformed, batch(three, root=root_of_lines(three).hex().upper())),
        "header-impossible-date": (malformed, batch(one, sent_at="2026-02-30T00:00:00.000Z")),
        "count-too-high": (malformed, batch(one, count=2)),
        "count-too-low": (malformed, batch(three, count=2)),
        "count-0": (malformed, batch(one, count=0)),
        "lines-1001": (malformed, batch([line(f"e-{number}") for number in range(1001)])),
        "sequence-0-with-previous": (malformed, batch(one, previous="0" * 64)),
        "sequence-1-without-previous": (malformed, batch(one, sequence=1)),
        "sequence-negative": (malformed, batch(one, sequence=-1, previous="0" * 64)),
        "sequence-2^63": (malformed, batch(one, sequence=2**63, previous="0" * 64)),
        "signatures-none": (malformed, signed()),
        "signatures-nine": (malformed, signed(*[(f"key-{number}", algorithm, raw) for number in range(9)])),
        "signatures-two-by-one-key": (malformed, signed((key_id, algorithm, raw), (key_id, algorithm, raw))),
        "signature-unknown-algorithm": (malformed, signatures_with(b'"ed25519"', b'"none"')),
        "signature-not-base64": (malformed, signatures_with(b'"signature":"', b'"signature":"!')),
        "signatures-line-unknown-field": (malformed, signatures_with(b'{"signatures"', b'{"x":1,"signatures"')),
        "too-large": (Reason.TOO_LARGE, too_large),
        # Address.
        "other-audience": (Reason.WRONG_AUDIENCE, batch(one, audience="other")),
        "other-topic": (Reason.WRONG_AUDIENCE, batch(one, topic="staging.usage.batches")),
        "other-partition": (Reason.WRONG_PARTITION, batch(one, partition=PARTITION + 1)),
        # Signatures.
        "signature-changed": (unsigned, signed((key_id, algorithm, changed))),
        "signature-short": (unsigned, signed((key_id, algorithm, raw[:-1]))),
        "signature-of-another-header": (unsigned, encode_batch(respaced, signatures_line, one)),
        "signature-over-header-alone": (unsigned, signed((key_id, algorithm, over_header_alone))),
        "signature-of-another-key": (unsigned, signed((key_id, algorithm, second.sign(header_line)[2]))),
        "one-of-two-signatures-changed": (unsigned, signed(second.sign(header_line), (key_id, algorithm, changed))),
        "hmac-where-key-is-ed25519": (unsigned, signed((key_id, "hmac-sha256", confused))),
        "ed25519-where-key-is-hmac": (unsigned, signed(("shared", "ed25519", raw))),
        "hmac-changed": (unsigned, signed(("shared", "hmac-sha256", b"\0" * 32))),
        "unknown-key": (Reason.UNKNOWN_KEY, batch(one, UNKNOWN_KEY)),
        # Authority.
        "revoked-key": (Reason.REVOKED_KEY, batch(one, KEYS["revoked"])),
        "expired-key": (Reason.KEY_NOT_ALLOWED, batch(one, KEYS["expired"])),
        "future-key": (Reason.KEY_NOT_ALLOWED, batch(one, KEYS["future"])),
        "key-of-another-producer": (Reason.KEY_NOT_ALLOWED, batch(one, KEYS["meterbox"])),
        # Lines.
        "root-of-other-lines": (Reason.BAD_ROOT, batch(one, root=root_of_lines([line("e-2")]).hex())),
        "event-changed": (Reason.BAD_ROOT, encode_batch(header_line, signatures_line, [altered])),
        "events-swapped": (Reason.BAD_ROOT, batch([three[1], three[0]], root=root_of_lines(three[:2]).hex())),
        "event-replaced-by-its-digest": (Reason.BAD_ROOT, batch([digest_line], root=root_of_lines(one).hex())),
    }
    cases = {name: [Step(content, reason)] for name, (reason, content) in singles.items()}
    assert len(too_large) == BATCH_BYTES_MAX + 1
    cases["producer-fork"] = [
        Step(batch(three), lines=_accepted(3)),
        Step(batch([line("e-8")]), Reason.PRODUCER_FORK, append_ms=NOW_MS + 1),
    ]
    return cases


def case_index(cases: dict[str, list[Step]]) -> dict[str, Any]:
    """What must become of each record of each case."""
    return {
        name: [
            {"file": f"{name}{suffix(number, steps)}", "append_ms": step.append_ms}
            | ({"reason": step.reason} if step.reason is not None else {"lines": _runs(step.lines)})
            for number, step in enumerate(steps)
        ]
        for name, steps in cases.items()
    }


def _runs(verdicts: tuple[str, ...]) -> list[str] | dict[str, int]:
    """The verdicts, or for a long batch of one verdict its number."""
    return {verdicts[0]: len(verdicts)} if len(verdicts) > 100 and len(set(verdicts)) == 1 else list(verdicts)


def suffix(number: int, steps: list[Step]) -> str:
    """End of the file name of a case's record."""
    return ".batch" if len(steps) == 1 else f".{number}.batch"


# --- a log -----------------------------------------------------------------------------------------------------------

EPOCH: Final = "e0" * 16
WRITER: Final = "a1" * 16
LATE_WRITER: Final = "b2" * 16
PRICE_BOOK: Final = PriceBook(
    version=1,
    currency="USD",
    meters=DEFAULT_METERS,
    prices=(
        UnitPrice(meter="requests", amount="0.001"),
        UnitPrice(meter="input_tokens", model="gpt-4o-mini", amount="0.15", per="1000000"),
        UnitPrice(meter="output_tokens", model="gpt-4o-mini", amount="0.60", per="1000000"),
    ),
)
LIMITS: Final = Limits(
    line_bytes_max=65_536,
    batch_bytes_max=524_288,
    batch_lines_max=1_000,
    future_tolerance_ms=300_000,
    horizon_ms=HORIZON_MS,
    corrections=False,
)
LOG_SEED: Final = hashlib.sha256(b"meterproof golden log key, for tests only").digest()
SIGNER: Final = Signer("meter.example.com/golden", LOG_SEED)


@dataclass
class GoldenLog:
    """A log that is written by hand: verdicts are given, positions and roots follow."""

    limits: Limits = LIMITS

    def __post_init__(self) -> None:
        self.genesis = make_genesis(
            name="meter.example.com/golden",
            epoch=EPOCH,
            deployment=AUDIENCE,
            source_topic=TOPIC,
            partition=PARTITION,
            partitions=PARTITIONS,
            limits=self.limits,
            created_ms=NOW_MS - HOUR_MS,
        )
        self.files: dict[str, bytes] = {}
        self.sources: dict[str, bytes] = {}
        self.source_index: list[dict[str, Any]] = []
        self.frontier = Frontier()
        self.digest, self.clock_ms, self.next_source = record_digest(self.genesis), 0, 0
        self.last_header_line = b""
        self.identities: dict[str, str] = {}
        self.echo("genesis", self.genesis)

    def echo(self, name: str, value: bytes) -> None:
        """Put a physical record on the topic that the chain does not follow (or the genesis)."""
        self.files[f"{len(self.files):02d}-{name}.record"] = value

    def write(
        self,
        name: str,
        source: bytes | None,
        *,
        kind: Kind = "batch",
        append_ms: int,
        verdicts: tuple[str, ...] = (),
        reason: Reason | None = None,
        carried: bool = True,
        offsets: int = 1,
        operator: Operator | None = None,
        effects: tuple[Effect, ...] = (),
    ) -> bytes:
        """Write the record that answers for one source record (or a hole of so many `offsets`)."""
        lines: list[bytes] = []
        not_accepted: list[tuple[int, str, str]] = []
        parsed = decode_batch(source) if source and carried else None
        for number, verdict in enumerate(verdicts):
            assert parsed is not None
            one = parsed.lines[number]
            if verdict == "accepted":
                lines.append(one)
                event = orjson.loads(one)
                self.identities[identity_of(event["source"], event["id"]).hex()] = entry_of(one).hex()
            else:
                not_accepted.append((number, verdict, entry_of(one).hex()))
        first = self.frontier.size
        self.frontier.extend(leaf_hashes([entry_of(one) for one in lines]))
        self.clock_ms = max(self.clock_ms, append_ms)
        header_line = encode_record_header(
            RecordHeader.model_construct(
                v=1,
                kind=kind,
                prev=self.digest,
                source=Source.model_construct(
                    offset=self.next_source,
                    count=offsets,
                    digest=None if source is None else hashlib.sha256(source).hexdigest(),
                ),
                append_ms=append_ms,
                clock_ms=self.clock_ms,
                reason=reason,
                not_accepted=tuple(not_accepted),
                first=first,
                size=self.frontier.size,
                root=self.frontier.root().hex(),
                frontier=b"".join(self.frontier.hashes).hex(),
                registry=hashlib.sha256(registry_file()).hexdigest(),
                price_book=PRICE_BOOK.version,
                writer=WRITER,
                generation=7,
                operator=operator,
                genesis=None,
                corrections=tuple(enumerate(effects, first)) or None,
            )
        )
        value = encode_record(header_line, (parsed.header_line, parsed.signatures_line) if parsed else None, lines)
        self.last_header_line = header_line
        self.digest = record_digest(value)
        file = f"{len(self.sources):02d}-{name}.batch"
        if source is not None:
            self.sources[file] = source
        self.source_index.append(
            {
                "offset": self.next_source,
                "count": offsets,
                "file": None if source is None else file,
                "append_ms": append_ms,
                "record": f"{len(self.files):02d}-{name}.record",
            }
        )
        self.next_source += offsets
        self.echo(name, value)
        return value


def golden_log() -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files of the log's folder, without `expected.json`, and what that file says."""
    log = GoldenLog()
    first_agent, second_agent = agent(0), agent(1)
    first_lines = [
        line("e-0", data=FULL_DATA),
        line("e-1"),
        line("e-2", subject=second_agent, data={"customer": "globex", "usage": {"requests": 2}}),
    ]
    first = batch(first_lines)
    first_header = decode_batch(first).header_line
    log.write("all-accepted", first, append_ms=NOW_MS, verdicts=_accepted(3))
    before_echo = log.digest

    mixed_lines = {
        line("e-0", data=FULL_DATA): DUPLICATE,
        line("e-1", time=instant(1)): "conflicting_id",
        line("e-3"): "accepted",
        b'{"not":"an event"}': "malformed_event",
        line("e-4", time=instant(-25 * HOUR_MS)): "too_late",
        line("e-5", time=instant(HOUR_MS)): "in_future",
        line("e-6", data={"usage": {"goats": 1}}): "unknown_meter",
        line("e-7", data={"corrects": {"id": "e-1", "kind": "void"}}): "correction_not_allowed",
        line("e-8", subject=agent(0, PARTITION + 1)): "wrong_partition",
        line("e-9", data={"usage": {"requests": "2.5"}}): "accepted",
        padded(LINE_BYTES_MAX + 1): "too_large",
    }
    mixed = batch(list(mixed_lines), sequence=1, previous=header_digest(first_header))
    written = log.write("partly-refused", mixed, append_ms=NOW_MS + 1_000, verdicts=tuple(mixed_lines.values()))

    late = orjson.loads(log.last_header_line) | {"prev": before_echo, "writer": LATE_WRITER}
    log.echo("echo-of-a-late-writer", orjson.dumps(late) + written[len(log.last_header_line) :])

    log.write("wholly-duplicate", first, append_ms=NOW_MS + 2_000, verdicts=(DUPLICATE,) * 3)
    header_line, signatures_line, *_ = batch([line("e-10")], sequence=2, previous="0" * 64).split(b"\n")
    forged = encode_batch(header_line.replace(b'"count":1', b'"count": 1'), signatures_line, [line("e-10")])
    log.write("bad-signature", forged, append_ms=NOW_MS + 3_000, reason=Reason.BAD_SIGNATURE, carried=False)
    fork = batch([line("e-11")], sequence=1, previous=header_digest(first_header))
    log.write("producer-fork", fork, append_ms=NOW_MS + 4_000, reason=Reason.PRODUCER_FORK)
    log.write("hole", None, kind="hole", append_ms=log.clock_ms, offsets=2, carried=False)
    other = batch(
        [
            line(
                "m-0", source="meterbox/1", subject=second_agent, data={"customer": "globex", "usage": {"requests": 10}}
            )
        ],
        KEYS["meterbox"],
        producer="meterbox",
        sequence=2,
        previous="1" * 64,
    )
    log.write("series-that-begins-at-2", other, append_ms=NOW_MS + 5_000, verdicts=_accepted(1))
    log.write(
        "quarantined",
        b"\x00\x01\x02",
        kind="quarantined",
        append_ms=NOW_MS + 6_000,
        reason=Reason.QUARANTINED,
        carried=False,
        operator=Operator(who="operator@example.com", why="made the decoder of an earlier version fail"),
    )
    log.write(
        "unreadable", None, kind="unreadable", append_ms=NOW_MS + 7_000, reason=Reason.UNREADABLE_RECORD, carried=False
    )
    last = batch([line("e-12", data={"usage": {"requests": 4}})], sequence=3, previous="2" * 64)
    log.write("clock-goes-back", last, append_ms=NOW_MS + 6_500, verdicts=_accepted(1))
    end_digest, end_offset = log.digest, len(log.files) - 1
    log.echo("echo-that-is-no-record", b"not a record")

    origin = f"meter.example.com/golden/{EPOCH}/p{PARTITION}"
    note = sign_checkpoint(Checkpoint(origin, log.frontier.size, log.frontier.root()), [SIGNER])
    checkpoint = CheckpointHeader(
        v=1,
        origin=origin,
        size=log.frontier.size,
        log_offset=end_offset,
        digest=end_digest,
        clock_ms=log.clock_ms,
    )
    with_records = checkpoint.model_copy(update={"records": _records_checkpoint(origin, log.files)})
    rejected = {
        "line.rejection": make_rejection(
            Reason.CONFLICTING_ID,
            "id: accepted before with other bytes; the first stands",
            line("e-1", time=instant(1)),
            partition=PARTITION,
            offset=1,
            line=1,
            append_ms=NOW_MS + 1_000,
            producer="gateway",
            first_digest=entry_of(line("e-1")).hex(),
        ),
        "batch.rejection": make_rejection(
            Reason.BAD_SIGNATURE,
            "a signature does not verify",
            forged,
            partition=PARTITION,
            offset=3,
            line=None,
            append_ms=NOW_MS + 3_000,
            producer=None,
        ),
    }
    files = (
        log.files
        | {f"source/{name}": value for name, value in log.sources.items()}
        | {name: encode_rejection(rejection) for name, rejection in rejected.items()}
        | {
            "checkpoint.record": encode_checkpoint_record(CheckpointRecord(checkpoint, note)),
            "checkpoint-with-records.record": encode_checkpoint_record(CheckpointRecord(with_records, note)),
            "price-book.json": encode_price_book(PRICE_BOOK),
        }
    )
    verdicts = {
        "accepted": 7,
        "duplicate": 4,
        "conflicting_id": 1,
        "malformed_event": 1,
        "too_late": 1,
        "in_future": 1,
        "unknown_meter": 1,
        "correction_not_allowed": 1,
        "wrong_partition": 1,
        "too_large": 1,
        "record:bad_signature": 1,
        "record:producer_fork": 1,
        "record:quarantined": 1,
        "record:unreadable_record": 1,
    }
    first_books = {
        "events": 5,
        "usage": {"requests": "9.5", "input_tokens": "1234", "output_tokens": "567", "seconds": "0.731"},
        "spend": "0.0105253",
    }
    second_books = {"events": 2, "usage": {"requests": "12"}, "spend": "0.012"}
    expected = {
        "records": sorted(log.files),
        "source": log.source_index,
        "origin": origin,
        "checkpoint": {
            "file": "checkpoint.record",
            "key": f"{origin}|{log.clock_ms // HOUR_MS}",
            "vkey": SIGNER.verifier.vkey,
            "file_with_records": "checkpoint-with-records.record",
            "records_vkey": Signer(f"{origin}/records", LOG_SEED).verifier.vkey,
        },
        "rejections": {"line.rejection": f"{PARTITION}/1/1", "batch.rejection": f"{PARTITION}/3/-"},
        "fold": {
            "log_offset": end_offset,
            "digest": end_digest,
            "next_source_offset": 11,
            "clock_ms": NOW_MS + 7_000,
            "position": 7,
            "root": log.frontier.root().hex(),
            "frontier": [node.hex() for node in log.frontier.hashes],
            "foreign": 2,
            "counts": verdicts,
            "gaps": {f"gateway {INSTANCE}": [2], f"meterbox {INSTANCE}": [1]},
            "identities": log.identities,
            "agents": {first_agent: first_books, second_agent: second_books},
            "customers": {"acme": first_books, "globex": second_books},
            "currency": "USD",
        },
    }
    return files, expected


def correction(kind: str, correction_id: str, of: bytes, **usage: Any) -> bytes:
    """A correction of the event of a line, with this usage or the event's own."""
    event = orjson.loads(of)
    corrects = {"id": event["id"], "kind": kind, "line": of.decode()}
    data = event["data"] | {"corrects": corrects} | ({"usage": usage} if usage else {})
    return orjson.dumps(event | {"id": correction_id, "data": data})


def correction_files() -> dict[str, bytes]:
    """The files of a log with corrections, and what they add up to."""
    log = GoldenLog(limits=LIMITS.model_copy(update={"corrections": True}))
    first, second, third = (line(f"e-{number}", data={"usage": {"requests": 10**number}}) for number in range(3))
    log.write("events", batch([first, second, third]), append_ms=NOW_MS, verdicts=_accepted(3))
    corrections = [
        correction("void", "c-0", first),
        correction("replace", "c-1", second, requests=7),
        correction("void", "c-2", second),
        correction("void", "c-3", line("e-2", data={"usage": {"requests": 101}})),
        correction("void", "c-4", line("e-9")),
    ]
    effects = (
        Effect.APPLIED, Effect.APPLIED, Effect.ALREADY_CORRECTED, Effect.OTHER_CONTENT, Effect.UNKNOWN_TARGET,
    )  # fmt: skip
    source = batch(corrections, sequence=1, previous="0" * 64)
    log.write("corrections", source, append_ms=NOW_MS + 1_000, verdicts=_accepted(5), effects=effects)
    expected = {
        "records": sorted(log.files),
        "digest": log.digest,
        "counts": {"accepted": 8, **{f"correction:{name}": count for name, count in Counter(effects).items()}},
        "customers": {"acme": {"events": 2, "usage": {"requests": "107"}, "spend": "0.107"}},
    }
    return log.files | {"expected.json": pretty(expected)}


def _records_checkpoint(origin: str, files: dict[str, bytes]) -> RecordsCheckpoint:
    """The second tree over the log's records but the echoes, signed: what of a record is no event line is hashed."""
    frontier = Frontier()
    for name in sorted(files):
        if "echo" not in name:
            lines = files[name].splitlines(keepends=True)
            head = b"".join(lines[: 1 if len(lines) == 1 else 3])
            frontier.extend(leaf_hashes([hashlib.sha256(head).digest()]))
    name = f"{origin}/records"
    note = sign_checkpoint(Checkpoint(name, frontier.size, frontier.root()), [Signer(name, LOG_SEED)])
    return RecordsCheckpoint(size=frontier.size, frontier=b"".join(frontier.hashes).hex(), note=note.decode())


# --- files -----------------------------------------------------------------------------------------------------------

README: Final = b"""# Golden messages, version 1

Messages of every format, byte for byte, with what a reader must make of them. They are frozen: a format that changes
is a new version with new files beside these, which stay readable.

- `events/index.json`: each file of `events/valid` (entry, identity, partition of four, event time) and of
  `events/hostile` (reason, and the fault in words). A file holds one line without its LF.
- `batches/index.json`: cases of one or more source records, in order, on one partition of an otherwise empty log; for
  each record its append time and the reason for which it is refused as a whole, or the verdict on each line.
  `batches/registry.json` is the key registry in force.
- `log/expected.json`: the physical records of one log in order of their offsets, the source records that they answer
  for, and the state that folding them gives.
- `corrections/expected.json`: the physical records of a log that takes corrections, and what they add up to.
- `budgets/index.json`: the Kafka key of each record of `usage.budget-state` and `usage.alerts`, and the partition of
  four in which the alerts of a scope stand. A file holds one value. `budgets/budgets.json` is a budget file.

The keys are for tests only: their private halves stand in `batches/test-only-seeds.json`.
"""


def golden_files() -> dict[str, bytes]:
    """Every file of the folder by its path."""
    valid, hostile = valid_events(), hostile_events()
    files: dict[str, bytes] = {"README.md": README}
    for name, content in valid.items():
        files[f"events/valid/{name}.json"] = content
    for name, (_, _, content) in hostile.items():
        files[f"events/hostile/{name}.line"] = content
    files["events/index.json"] = pretty(
        {
            "format": "meterproof.usage.v1",
            "partitions": PARTITIONS,
            "valid": {f"valid/{name}.json": _facts(content) for name, content in valid.items()},
            "hostile": {
                f"hostile/{name}.line": {"reason": reason, "fault": fault}
                for name, (reason, fault, _) in hostile.items()
            },
        }
    )
    for folder, cases in (("valid", valid_batches()), ("hostile", hostile_batches())):
        for name, steps in cases.items():
            for number, step in enumerate(steps):
                files[f"batches/{folder}/{name}{suffix(number, steps)}"] = step.content
    files["batches/index.json"] = pretty(
        {
            "audience": AUDIENCE,
            "topic": TOPIC,
            "partition": PARTITION,
            "partitions": PARTITIONS,
            "horizon_ms": HORIZON_MS,
            "future_tolerance_ms": FUTURE_TOLERANCE_MS,
            "corrections": False,
            "meters": [meter.name for meter in DEFAULT_METERS],
            "registry": "registry.json",
            "valid": case_index(valid_batches()),
            "hostile": case_index(hostile_batches()),
        }
    )
    files["batches/registry.json"] = registry_file()
    files["batches/test-only-seeds.json"] = pretty(
        {
            "warning": "Private halves of keys, for tests only. Never register them anywhere.",
            "seeds": {
                key.entry.key_id: key.seed.hex() for key in [*KEYS.values(), UNKNOWN_KEY] if key.name != "shared"
            },
        }
    )
    files["batches/shared.test-only-secret"] = secret_file(KEYS["shared"])
    log_files, expected = golden_log()
    files |= {f"log/{name}": content for name, content in log_files.items()}
    files["log/expected.json"] = pretty(expected)
    files |= {f"corrections/{name}": content for name, content in correction_files().items()}
    return files | budget_files()


def _facts(content: bytes) -> dict[str, Any]:
    """What follows from a valid line, computed without the validator."""
    event = orjson.loads(content)
    return {
        "entry": hashlib.sha256(content).hexdigest(),
        "identity": identity_of(event["source"], event["id"]).hex(),
        "partition": partition_of(event["subject"], PARTITIONS),
        "time": event["time"],
    }


def write(folder: Path = FOLDER) -> None:
    """Write all files, and remove what is no golden file any more."""
    files = golden_files()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in files:
            path.unlink()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    write()
