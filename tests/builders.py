"""Events, keys and signed batches for tests, made with the contract's own encoders.

Everything is a function of its arguments: the same arguments give the same bytes.
"""

import hashlib
from base64 import b64encode
from dataclasses import dataclass
from typing import Any, Final

import orjson
from nacl.signing import SigningKey

from meterproof_schemas.batch import (
    BatchHeader,
    encode_batch,
    encode_header,
    encode_signatures,
    header_digest,
    root_of_lines,
    signed_bytes,
)
from meterproof_schemas.event import EVENT_TYPE
from meterproof_schemas.instant import format_instant_ms
from meterproof_schemas.keys import KeyEntry, KeyRegistry, encode_registry, key_id_of, parse_registry
from meterproof_schemas.limits import (
    BATCH_BYTES_MAX,
    BATCH_LINES_MAX,
    FUTURE_TOLERANCE_MS,
    HORIZON_MS_DEFAULT,
    LINE_BYTES_MAX,
)
from meterproof_schemas.log_record import Limits, make_genesis
from meterproof_schemas.partitioner import partition_of

NOW_MS: Final = 1_767_225_600_000
"""2026-01-01T00:00:00Z, in milliseconds: the present of tests that need no real one."""
DEPLOYMENT: Final = "test"
SOURCE_TOPIC: Final = "usage.batches"


@dataclass(frozen=True)
class SigningPair:
    """A producer's key: the private half, and the entry of the registry that allows the public half to speak."""

    signing_key: SigningKey
    entry: KeyEntry

    @property
    def key_id(self) -> str:
        """The id under which the registry lists it."""
        return self.entry.key_id


def make_key(name: str = "gateway", *, producer: str | None = None, **entry: Any) -> SigningPair:
    """An Ed25519 key derived from `name`, allowed to speak for everything unless `entry` says otherwise."""
    signing_key = SigningKey(hashlib.sha256(f"test key {name}".encode()).digest())
    public = bytes(signing_key.verify_key)
    fields: dict[str, Any] = {"sources": ("*",), "agents": ("*",), "customers": ("*",)} | entry
    return SigningPair(
        signing_key,
        KeyEntry(
            key_id=key_id_of(public),
            algorithm="ed25519",
            public_key=b64encode(public).decode(),
            producer=producer or name,
            **fields,
        ),
    )


def make_registry_file(*keys: SigningPair) -> bytes:
    """A registry file that lists these keys."""
    return encode_registry([key.entry for key in keys])


def make_registry(*keys: SigningPair) -> KeyRegistry:
    """The registry that lists these keys."""
    return parse_registry(make_registry_file(*keys))


def agent_in(partition: int, partitions: int, number: int = 0) -> str:
    """The `number`-th agent name whose events belong to `partition`."""
    found = -1
    candidate = 0
    while True:
        name = f"agent-{candidate}"
        candidate += 1
        if partition_of(name, partitions) == partition:
            found += 1
            if found == number:
                return name


def make_event(
    event_id: str = "e1",
    *,
    source: str = "gateway/chat",
    subject: str = "agent-0",
    customer: str = "acme",
    time_ms: int = NOW_MS,
    usage: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    **attributes: Any,
) -> bytes:
    """One event line; `data` and `attributes` add or replace fields."""
    document = {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": EVENT_TYPE,
        "time": format_instant_ms(time_ms),
        "subject": subject,
        "data": {"customer": customer, "usage": {"requests": 1} if usage is None else usage} | (data or {}),
    } | attributes
    return orjson.dumps(document)


def make_batch(
    lines: list[bytes],
    key: SigningPair,
    *,
    also: tuple[SigningPair, ...] = (),
    partition: int = 0,
    sequence: int = 0,
    previous: str | None = None,
    instance: str = "00" * 16,
    audience: str = DEPLOYMENT,
    topic: str = SOURCE_TOPIC,
    sent_ms: int = NOW_MS,
    **header: Any,
) -> bytes:
    """The value of one signed batch, right in every point; `header` replaces fields of line 0 before it is signed.

    `also` adds signatures. Without `previous` a sequence above 0 names the digest of nothing in particular.
    """
    fields: dict[str, Any] = {
        "v": 1,
        "audience": audience,
        "topic": topic,
        "partition": partition,
        "producer": key.entry.producer,
        "instance": instance,
        "sequence": sequence,
        "previous": (previous or header_digest(b"")) if sequence else None,
        "count": len(lines),
        "root": root_of_lines(lines).hex(),
        "sent_at": format_instant_ms(sent_ms),
    } | header
    header_line = encode_header(BatchHeader.model_construct(**fields))
    signed = signed_bytes(header_line)
    signatures = encode_signatures(
        [(pair.key_id, "ed25519", pair.signing_key.sign(signed).signature) for pair in (key, *also)]
    )
    return encode_batch(header_line, signatures, lines)


def make_limits(
    *,
    horizon_ms: int = HORIZON_MS_DEFAULT,
    future_tolerance_ms: int = FUTURE_TOLERANCE_MS,
    corrections: bool = False,
) -> Limits:
    """The contract's limits with this horizon and tolerance."""
    return Limits(
        line_bytes_max=LINE_BYTES_MAX,
        batch_bytes_max=BATCH_BYTES_MAX,
        batch_lines_max=BATCH_LINES_MAX,
        future_tolerance_ms=future_tolerance_ms,
        horizon_ms=horizon_ms,
        corrections=corrections,
    )


def make_genesis_record(
    *,
    partition: int = 0,
    partitions: int = 1,
    epoch: str = "0f" * 16,
    source_topic: str = SOURCE_TOPIC,
    deployment: str = DEPLOYMENT,
    limits: Limits | None = None,
) -> bytes:
    """The value of a log's first record."""
    return make_genesis(
        name="meter.example.com/test",
        epoch=epoch,
        deployment=deployment,
        source_topic=source_topic,
        partition=partition,
        partitions=partitions,
        limits=limits or make_limits(),
        created_ms=NOW_MS,
    )
