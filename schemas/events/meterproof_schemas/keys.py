"""Who may report what: the registry of producers' keys, a file with public keys only.

```json
{"version": 1, "keys": [{"key_id": "…", "algorithm": "ed25519", "public_key": "base64", "producer": "gateway",
  "sources": ["*"], "agents": ["team-a/*"], "customers": ["acme"], "valid_from": "2026-01-01T00:00:00.000Z"}]}
```
A pattern is a name, a prefix followed by `*`, or `*` alone; nothing is allowed that is not written out.
"""

import hashlib
import hmac
from base64 import b64decode
from binascii import a2b_base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meterproof_schemas.batch import Algorithm, Signature, signed_bytes
from meterproof_schemas.ed25519_checks import Ed25519Check, Signed, library_check
from meterproof_schemas.errors import InvalidBatch, InvalidRegistry, first_fault
from meterproof_schemas.event import Name, VersionOne
from meterproof_schemas.instant import Instant, parse_instant_us
from meterproof_schemas.reasons import Reason
from meterproof_schemas.strict_json import NotStrictJson, parse_object

PUBLIC_KEY_BYTES: Final = 32
SECRET_BYTES_MIN: Final = 32
"""A shared secret shorter than its HMAC's output is weaker than the HMAC."""

Patterns = Annotated[tuple[Name, ...], Field(min_length=1, strict=False)]


def key_id_of(public_key: bytes) -> str:
    """The id of an Ed25519 key: SHA-256 of its 32 raw bytes, in hexadecimal."""
    return hashlib.sha256(public_key).hexdigest()


class KeyEntry(BaseModel):
    """One key of the registry and what it may speak for."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    key_id: Name
    algorithm: Algorithm
    public_key: str | None = None
    """Base64 of the 32 raw bytes; for ed25519 only."""
    secret_file: str | None = Field(default=None, repr=False)
    """File that holds a shared secret (hmac-sha256 only): such a signature proves nothing to a third party."""
    producer: Name
    sources: Patterns
    agents: Patterns
    customers: Patterns
    valid_from: Instant | None = None
    valid_until: Instant | None = None
    revoked_at: Instant | None = None
    comment: str | None = None

    def state_at(self, append_ms: int) -> Literal["valid", "revoked", "outside_validity"]:
        """Judged by the broker's append time: `valid_from` ≤ t < `valid_until`, revoked from `revoked_at` on."""
        instant_us = append_ms * 1000
        if self.revoked_at is not None and instant_us >= parse_instant_us(self.revoked_at):
            return "revoked"
        if self.valid_from is not None and instant_us < parse_instant_us(self.valid_from):
            return "outside_validity"
        if self.valid_until is not None and instant_us >= parse_instant_us(self.valid_until):
            return "outside_validity"
        return "valid"

    def speaks_for(self, source: str, agent: str, customer: str) -> str | None:
        """None when the key may report this; else the field that it may not."""
        if not matches(self.sources, source):
            return "source"
        if not matches(self.agents, agent):
            return "subject"
        if not matches(self.customers, customer):
            return "data.customer"
        return None


@lru_cache(maxsize=65536)
def matches(patterns: tuple[str, ...], name: str) -> bool:
    """Whether a name equals a pattern or starts with a pattern's part before its final `*`."""
    return any(name == pattern or (pattern[-1] == "*" and name.startswith(pattern[:-1])) for pattern in patterns)


class RegistryFile(BaseModel):
    """The file as it is written; `parse_registry` makes a registry of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    version: VersionOne
    keys: Annotated[tuple[KeyEntry, ...], Field(strict=False)]


@dataclass(frozen=True, slots=True)
class KeyRegistry:
    """All keys of a deployment as one file stated them. Immutable: a changed file is a new registry."""

    digest: str
    """SHA-256 of the file: names the registry in force in every log record."""
    entries: dict[str, KeyEntry]
    _public_keys: dict[str, bytes] = field(repr=False)
    _secrets: dict[str, bytes] = field(repr=False)
    _check: Ed25519Check = field(default=library_check, repr=False, compare=False)

    def authorities(
        self, header_line: bytes, signatures: Sequence[Signature], producer: str, append_ms: int
    ) -> list[KeyEntry]:
        """`authorities_of` one batch.

        Raises:
            InvalidBatch: `bad_signature`, `unknown_key`, `revoked_key` or `key_not_allowed`.
        """
        (found,) = self.authorities_of([SignedHeader(header_line, signatures, producer, append_ms)])
        if isinstance(found, InvalidBatch):
            raise found
        return found

    def authorities_of(self, headers: Sequence["SignedHeader"]) -> list[list[KeyEntry] | InvalidBatch]:
        """For each header, the keys whose signatures verify and that may speak for `producer` at `append_ms`.

        Every signature by a known key must verify; signatures by unknown keys are ignored; one authorised must exist.
        Where that is not so, the error says why: `bad_signature`, `unknown_key`, `revoked_key` or `key_not_allowed`.
        """
        known: list[list[tuple[KeyEntry, int]]] = []
        valid: list[bool] = []
        signed: list[Signed] = []
        places: list[int] = []  # of their verdicts in `valid`
        for header_line, signatures, _, _ in headers:
            message = signed_bytes(header_line)
            by_known: list[tuple[KeyEntry, int]] = []
            for signature in signatures:
                entry = self.entries.get(signature.key_id)
                if entry is None:
                    continue
                by_known.append((entry, len(valid)))
                raw = _raw_signature(signature)
                if entry.algorithm != signature.algorithm or raw is None:
                    valid.append(False)
                elif entry.algorithm == "ed25519":
                    places.append(len(valid))
                    valid.append(False)
                    signed.append(Signed(self._public_keys[entry.key_id], raw, message))
                else:
                    secret = self._secrets[entry.key_id]
                    valid.append(hmac.compare_digest(hmac.digest(secret, message, "sha256"), raw))
            known.append(by_known)
        for place, verdict in zip(places, self._check(signed), strict=True):
            valid[place] = verdict
        found: list[list[KeyEntry] | InvalidBatch] = []
        for header, by_known in zip(headers, known, strict=True):
            try:
                found.append(_authorised(header, [(entry, valid[place]) for entry, place in by_known]))
            except InvalidBatch as error:
                found.append(error)
        return found


class SignedHeader(NamedTuple):
    """A batch's header with all that says who may have signed it."""

    header_line: bytes
    signatures: Sequence[Signature]
    producer: str
    append_ms: int
    """The broker's append time."""


def _authorised(header: SignedHeader, known: Sequence[tuple[KeyEntry, bool]]) -> list[KeyEntry]:
    """The keys that are allowed, of the known ones and whether their signatures verify; raises `InvalidBatch`."""
    for entry, verifies in known:
        if not verifies:
            raise InvalidBatch(Reason.BAD_SIGNATURE, f"signature by key {entry.key_id[:16]}… does not verify")
    if not known:
        raise InvalidBatch(Reason.UNKNOWN_KEY, "no signature is by a key of the registry; register the key")
    first = known[0][0]
    if len(known) == 1 and first.producer == header.producer and first.state_at(header.append_ms) == "valid":
        return [first]  # as nearly always
    states = [(entry, entry.state_at(header.append_ms)) for entry, _ in known]
    valid = [entry for entry, state in states if state == "valid"]
    if not valid:
        if any(state == "revoked" for _, state in states):
            raise InvalidBatch(Reason.REVOKED_KEY, f"key {first.key_id[:16]}… was revoked")
        raise InvalidBatch(Reason.KEY_NOT_ALLOWED, f"key {first.key_id[:16]}… is outside its validity")
    authorised = [entry for entry in valid if entry.producer == header.producer]
    if not authorised:
        raise InvalidBatch(Reason.KEY_NOT_ALLOWED, f"key {valid[0].key_id[:16]}… does not speak for this producer")
    return authorised


def _raw_signature(signature: Signature) -> bytes | None:
    try:
        return a2b_base64(signature.signature, strict_mode=True)
    except ValueError:
        return None


EMPTY_REGISTRY: Final = KeyRegistry(hashlib.sha256(b"").hexdigest(), {}, {}, {})


def parse_registry(content: bytes, *, folder: Path | None = None, check: Ed25519Check = library_check) -> KeyRegistry:
    """Parse a registry file; `folder` is where relative `secret_file` names are looked up, `check` verifies.

    Raises:
        InvalidRegistry: naming the entry and the fault; never quoting a secret.
    """
    try:
        document = parse_object(content, one_line=False)
        keys = RegistryFile.model_validate(document).keys
    except NotStrictJson as error:
        message = f"key registry: {error}"
        raise InvalidRegistry(message) from None
    except ValidationError as error:
        message = f"key registry: {first_fault(error)}"
        raise InvalidRegistry(message) from None
    entries: dict[str, KeyEntry] = {}
    public_keys: dict[str, bytes] = {}
    secrets: dict[str, bytes] = {}
    for entry in keys:
        if entry.key_id in entries:
            message = f"key registry: key {entry.key_id} is listed twice"
            raise InvalidRegistry(message)
        entries[entry.key_id] = entry
        if entry.algorithm == "ed25519":
            public_keys[entry.key_id] = _public_key(entry)
        else:
            secrets[entry.key_id] = _shared_secret(entry, folder)
    return KeyRegistry(hashlib.sha256(content).hexdigest(), entries, public_keys, secrets, check)


def load_registry(path: Path, *, check: Ed25519Check = library_check) -> KeyRegistry:
    """Read and parse a registry file; `check` verifies.

    Raises:
        InvalidRegistry: the file, which it names, is faulty.
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    try:
        return parse_registry(content, folder=path.parent, check=check)
    except InvalidRegistry as error:
        message = f"{path}: {error}"
        raise InvalidRegistry(message) from None


def encode_registry(entries: Sequence[KeyEntry]) -> bytes:
    """The file that lists these keys: indented JSON, ends with LF."""
    keys = [entry.model_dump(exclude_none=True) for entry in entries]
    return orjson.dumps({"version": 1, "keys": keys}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _public_key(entry: KeyEntry) -> bytes:
    if entry.secret_file is not None:
        message = f"key registry: key {entry.key_id}: ed25519 takes public_key and no secret_file"
        raise InvalidRegistry(message)
    try:
        raw = b64decode(entry.public_key or "", validate=True)
    except ValueError:
        raw = b""
    if len(raw) != PUBLIC_KEY_BYTES:
        message = f"key registry: key {entry.key_id}: public_key is not base64 of {PUBLIC_KEY_BYTES} bytes"
        raise InvalidRegistry(message)
    if entry.key_id != key_id_of(raw):
        message = f"key registry: key {entry.key_id}: the id is not the SHA-256 of the public key"
        raise InvalidRegistry(message)
    return raw


def _shared_secret(entry: KeyEntry, folder: Path | None) -> bytes:
    if entry.secret_file is None or entry.public_key is not None:
        message = f"key registry: key {entry.key_id}: hmac-sha256 needs secret_file and no public_key"
        raise InvalidRegistry(message)
    try:
        secret = ((folder or Path()) / entry.secret_file).read_bytes().strip()
    except (OSError, ValueError) as error:
        fault = error.strerror if isinstance(error, OSError) else "not a file name"
        message = f"key registry: key {entry.key_id}: secret_file cannot be read: {fault}"
        raise InvalidRegistry(message) from None
    if len(secret) < SECRET_BYTES_MIN:
        message = f"key registry: key {entry.key_id}: the secret is shorter than {SECRET_BYTES_MIN} bytes"
        raise InvalidRegistry(message)
    return secret
