"""Event proofs: one file that shows what became of one usage event, with no call to anybody and no neighbour's data.

```text
meterproof/event-proof@v1
event <the event's line, verbatim>
batch-header <the producer's batch header, verbatim>
batch-signatures <the batch's signatures line>
batch-index <line of the event in its batch, from 0>
<base64 of a hash of the path from the event to the batch's signed root; as many lines as it takes>
record-header <header of the log record, verbatim>
                                                              (empty line; all below is a c2sp.org/tlog-proof file)
c2sp.org/tlog-proof@v1
index <n>
...
```
Every line ends with LF, and the whole has exactly one spelling.

An **accepted** event has no `record-header`: the tlog-proof shows SHA-256(event line) as an entry of the log. Of an
event that was **not accepted** (a duplicate, or refused with a reason) the log holds the verdict only: `record-header`
is there, and the tlog-proof shows SHA-256(record header LF batch header LF signatures LF) as an entry of the log's
second tree, whose origin is the log's with `/records`. Where the event's line is not at hand, `event` is `entry
<SHA-256 of the line in hexadecimal>`. Of a source record that was refused as a whole it is `source-record <SHA-256 of
its value in hexadecimal>`; then there is no `batch-index`, and the batch's header and signatures are there only if the
log record carries them.
"""

import base64
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from meterproof_proofs.canonical_base64 import decode_base64
from meterproof_proofs.checkpoint import Checkpoint
from meterproof_proofs.errors import BadProof, MalformedEventProof, MalformedTlogProof
from meterproof_proofs.note import SignedNote, Verifier
from meterproof_proofs.producer_key import ProducerKey
from meterproof_proofs.tlog_proof import TlogProof
from meterproof_proofs.tree import HASH_BYTES, check_hash, check_hashes, leaf_hash, verify_inclusion

RECORDS_SUFFIX: Final = "/records"
"""What the origin of the log of record headers has behind the origin of its log."""

ACCEPTED: Final = "accepted"
"""Verdict of an event that counts."""

MAX_EVENT_PROOF_BYTES: Final = 4 * 1024 * 1024
"""Longest file accepted."""

_FIRST_LINE: Final = b"meterproof/event-proof@v1"
_PAYLOAD_TYPE: Final = b"application/vnd.meterproof.batch-header.v1+json"
_BATCH_LINES_MAX: Final = 1_000
_SIGNATURES_MAX: Final = 8
_PATH_MAX: Final = 10
_ED25519: Final = "ed25519"
_ALGORITHMS: Final = (_ED25519, "hmac-sha256")
_HEX_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,2}", re.ASCII)
_CARRIED_NAMES: Final = ("batch-header", "batch-signatures", "record-header")

Subject = Literal["event", "entry", "source-record"]


@dataclass(frozen=True, slots=True)
class ProvedEvent:
    """What a proof showed."""

    verdict: str
    """`accepted`, `duplicate`, or the reason of the refusal."""
    origin: str
    """The log whose checkpoint covers it."""
    index: int
    """Entry of that log: the event's position, or the number of the log record with its verdict."""
    checkpoint: Checkpoint
    producer: str | None
    """Who sent it, as the batch's header says; None for a source record."""
    signed_by: tuple[str, ...]
    """Ids of the producer's keys whose signatures verified; empty when no producer's key was given."""
    unverified: tuple[str, ...]
    """Signatures that no key given could verify, by key id or name: they prove nothing."""


@dataclass(frozen=True, slots=True)
class EventProof:
    """A proof as it stands in its file: well formed, but nothing of it verified. To believe it, use `verify`."""

    subject: Subject
    content: bytes
    """The event's line for `event`; else 32 bytes: the digest of the line, or of the source record."""
    carried: tuple[bytes, bytes] | None
    """The batch's header and signatures lines; None for a source record that no known key vouched for."""
    index: int | None
    """Line of the event in its batch, from 0; None for a source record."""
    path: tuple[bytes, ...]
    """PATH(index, batch) of RFC 6962 section 2.1.1."""
    record_header: bytes | None
    """Header line of the log record that holds the verdict; None of an accepted event."""
    tlog_proof: TlogProof

    def __post_init__(self) -> None:
        """Refuse what `parse` would not give back."""
        if self.subject == "event":
            _check_line(self.content, "event")
        else:
            check_hash(self.content, self.subject)
            if self.record_header is None:
                raise MalformedEventProof("an accepted event is shown by its line")
        if (self.index is None) != (self.subject == "source-record"):
            raise MalformedEventProof("an event has a place in its batch, and a source record none")
        if self.index is None and self.path:
            raise MalformedEventProof("a path without a place in a batch")
        if self.index is not None and (self.carried is None or not 0 <= self.index < _BATCH_LINES_MAX):
            raise MalformedEventProof(f"an event has a place in a batch of at most {_BATCH_LINES_MAX} lines")
        if len(self.path) > _PATH_MAX:
            raise MalformedEventProof(f"a path in a batch has at most {_PATH_MAX} hashes")
        check_hashes(self.path, "batch path hash")
        for line, what in zip((*(self.carried or ()), self.record_header or b""), _CARRIED_NAMES, strict=False):
            _check_line(line, what)
        if self.carried is not None and self.record_header is None:
            signatures = read_signatures(self.carried[1])
            if canonical_signatures(signatures) != self.carried[1]:
                raise MalformedEventProof(
                    "the batch's signatures are not spelled compactly, and nothing else binds them"
                )
        if self.tlog_proof.extra is not None:
            raise MalformedEventProof("extra data in the tlog-proof, which nothing would vouch for")

    @property
    def entry(self) -> bytes:
        """SHA-256 of the event's line, or of the source record."""
        return hashlib.sha256(self.content).digest() if self.subject == "event" else self.content

    @property
    def logged(self) -> bytes:
        """The entry of the tree that the proof is about: the event's own, or that of the record's head."""
        if self.record_header is None:
            return self.entry
        return hashlib.sha256(b"\n".join([self.record_header, *(self.carried or ()), b""])).digest()

    def format(self) -> bytes:
        """Return the bytes of the file; `parse` reads exactly them back."""
        shown = self.content if self.subject == "event" else self.content.hex().encode()
        lines = [_FIRST_LINE, self.subject.encode() + b" " + shown]
        if self.carried is not None:
            lines += [b"batch-header " + self.carried[0], b"batch-signatures " + self.carried[1]]
        if self.index is not None:
            lines += [b"batch-index %d" % self.index, *(base64.b64encode(one) for one in self.path)]
        if self.record_header is not None:
            lines.append(b"record-header " + self.record_header)
        return b"\n".join([*lines, b"", b""]) + self.tlog_proof.format()

    @classmethod
    def parse(cls, content: bytes) -> "EventProof":
        """Read a proof strictly: `parse(content).format() == content` for everything it accepts.

        Raises:
            MalformedEventProof: says what is wrong, and in which line.
        """
        if len(content) > MAX_EVENT_PROOF_BYTES:
            raise MalformedEventProof(f"{len(content)} bytes; at most {MAX_EVENT_PROOF_BYTES} are accepted")
        head, separator, rest = content.partition(b"\n\n")
        if not separator:
            raise MalformedEventProof("no empty line before the tlog-proof")
        lines = _Lines(head.split(b"\n"))
        if lines.take() != _FIRST_LINE:
            raise MalformedEventProof(f"the first line is not {_FIRST_LINE.decode()}", 1)
        subject, shown = lines.take_named(b"event", b"entry", b"source-record")
        if subject != "event":
            shown = _digest(shown, lines.number)
        carried: tuple[bytes, bytes] | None = None
        if lines.peek().startswith(b"batch-header "):
            carried = lines.take_named(b"batch-header")[1], lines.take_named(b"batch-signatures")[1]
        index: int | None = None
        path: list[bytes] = []
        if subject != "source-record":
            number = _text(lines.take_named(b"batch-index")[1], lines.number)
            if not _NUMBER.fullmatch(number):
                raise MalformedEventProof("must be a number below 1000 without leading zeros", lines.number)
            index = int(number)
            while lines.left and not lines.peek().startswith(b"record-header "):
                one = decode_base64(_text(lines.take(), lines.number))
                if one is None or len(one) != HASH_BYTES:
                    raise MalformedEventProof("not the canonical standard base64 of a 32-byte hash", lines.number)
                path.append(one)
        record_header = lines.take_named(b"record-header")[1] if lines.left else None
        if lines.left:
            raise MalformedEventProof("a line too many before the empty one", lines.number + 1)
        try:
            tlog_proof = TlogProof.parse(rest)
        except MalformedTlogProof as error:
            line = None if error.line is None else error.line + lines.number + 1
            raise MalformedEventProof(error.problem, line) from error
        return cls(cast("Subject", subject), shown, carried, index, tuple(path), record_header, tlog_proof)

    def verify(
        self,
        verifiers: Iterable[Verifier],
        *,
        producer_keys: Collection[ProducerKey] = (),
        origin: str | None = None,
    ) -> ProvedEvent:
        """Return what the proof shows if it holds; raise if not.

        1. The log's checkpoint is signed by its key. 2. The event's entry, or the record header with its verdict, is in
        that log. 3. The event is in the batch. 4. The batch's header is signed by one of the producer's keys, and every
        signature by one of them verifies.

        Args:
            verifiers: keys of logs. A key named like the log is the only one for it.
            producer_keys: producers' keys; without any, step 4 is left out, and then nothing shows who sent the event.
                An accepted event must be signed by a key that was valid when its batch says that it was sent. The log
                judges by the time of arrival, which its record of the event states and a proof does not hold: whoever
                has a stolen key and the log's consent can state an earlier time. `meterproof verify` judges as the log.
            origin: the log that is meant, without `/records`; None for any that the keys sign for.

        Raises:
            ProofError: one of its kinds, saying which step fails.
        """
        stated = Checkpoint.parse(SignedNote.parse(self.tlog_proof.checkpoint).text).origin
        expected = stated if origin is None else origin + (RECORDS_SUFFIX if self.record_header is not None else "")
        if (self.record_header is not None) != stated.endswith(RECORDS_SUFFIX):
            raise BadProof(self._claim, f"{stated!r} is the log of something else")
        trusted = keys_of_log(verifiers, stated)
        checkpoint = self.tlog_proof.verify(leaf_hash(self.logged), trusted, origin=expected)  # 1, 2
        verdict = ACCEPTED if self.record_header is None else self._verdict(self.record_header)
        producer, signed_by = None, tuple[str, ...]()
        unverified = _names_unknown(self.tlog_proof.checkpoint, trusted)
        if self.carried is not None:
            header = read_fields(self.carried[0], "the batch's header")
            if self.index is not None:
                self._check_place(header, stated.removesuffix(RECORDS_SUFFIX))  # 3
            producer = str(header.get("producer"))
            sent_at = header.get("sent_at") if self.record_header is None else None
            signed_by, unknown = _verify_signatures(self.carried, producer, producer_keys, sent_at)  # 4
            unverified = (*unverified, *unknown)
        return ProvedEvent(verdict, stated, self.tlog_proof.index, checkpoint, producer, signed_by, unverified)

    @property
    def _claim(self) -> str:
        return f"what became of {self.entry.hex()}"

    def _verdict(self, record_header: bytes) -> str:
        """What a record's header says of the subject."""
        header = read_fields(record_header, "the record's header")
        if header.get("v") != 1:
            raise BadProof(self._claim, "the record's header is of another version than 1")
        if self.index is None:
            source = header.get("source")
            digest = source.get("digest") if isinstance(source, dict) else None
            if digest != self.content.hex() or not isinstance(header.get("reason"), str):
                raise BadProof(self._claim, "the record does not say that this source record was refused")
            return str(header["reason"])
        told = header.get("not_accepted")
        for one in told if isinstance(told, list) else ():
            if isinstance(one, list) and len(one) == 3 and (one[0], one[2]) == (self.index, self.entry.hex()):
                return str(one[1])
        raise BadProof(self._claim, f"the record does not say that line {self.index} with this digest was not accepted")

    def _check_place(self, header: Mapping[str, Any], origin: str) -> None:
        """Check that the event is in the batch, and the batch was made for this log's partition."""
        count, root, partition = header.get("count"), header.get("root"), header.get("partition")
        if header.get("v") != 1 or type(count) is not int or type(root) is not str or not _HEX_DIGEST.fullmatch(root):
            raise BadProof(self._claim, "its batch's header states no count and root, or is of another version than 1")
        if origin.rpartition("/")[2] != f"p{partition}":
            raise BadProof(self._claim, f"its batch was signed for partition {partition}, not for log {origin!r}")
        try:
            verify_inclusion(
                leaf=leaf_hash(self.entry), index=self.index or 0, size=count, proof=self.path, root=bytes.fromhex(root)
            )
        except BadProof as error:
            raise BadProof(f"that it is line {self.index} of its batch", error.problem) from error


def _verify_signatures(
    carried: tuple[bytes, bytes], producer: str, producer_keys: Collection[ProducerKey], sent_at: object
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The ids of the producer's keys that signed a batch, and those of signatures that none of them could verify.

    Args:
        carried: the batch's header and signatures.
        producer: who sent it, as the header says.
        producer_keys: those given.
        sent_at: when the keys must have been valid; None where that does not matter.

    """
    known = {key.key_id: key for key in producer_keys if key.producer in {None, producer}}
    message = signed_bytes(carried[0])
    verified, unknown, outside = [], [], ""
    for key_id, algorithm, signature in read_signatures(carried[1]):
        key = known.get(key_id) if algorithm == _ED25519 else None
        if key is None:
            unknown.append(key_id)
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, message)
        except (InvalidSignature, ValueError):
            raise BadProof("who sent it", f"the signature by key {key_id[:16]}… does not verify") from None
        if sent_at is not None and (fault := key.fault_at(sent_at)) is not None:
            outside = f"key {key_id[:16]}… does not count for a batch of {sent_at}: {fault}"
            unknown.append(key_id)
        else:
            verified.append(key_id)
    if outside and not verified:
        raise BadProof("who sent it", outside)
    if producer_keys and not verified:
        ids = ", ".join(f"{key[:16]}…" for key in unknown)
        raise BadProof("who sent it", f"no key given of producer {producer!r} signed its batch; it is signed as {ids}")
    return tuple(verified), tuple(unknown)


Signatures = tuple[tuple[str, str, bytes], ...]
"""(key id, algorithm, raw signature) of each."""


def read_signatures(line: bytes) -> Signatures:
    """Read a batch's signatures line, in any spelling of its JSON; verifies nothing.

    Raises:
        BadProof: it is none.
    """
    listed = read_fields(line, "the batch's signatures").get("signatures")
    read: list[tuple[str, str, bytes]] = []
    for one in listed if isinstance(listed, list) else ():
        if not isinstance(one, dict) or sorted(one) != ["algorithm", "key_id", "signature"]:
            break
        # In any spelling of base64 that producers may have used; where nothing binds it, `canonical_signatures` does.
        raw = _decoded(one["signature"])
        if not raw or one["algorithm"] not in _ALGORITHMS or not isinstance(one["key_id"], str):
            break
        read.append((one["key_id"], one["algorithm"], raw))
    else:
        if 1 <= len(read) <= _SIGNATURES_MAX and len({key_id for key_id, _, _ in read}) == len(read):
            return tuple(read)
    raise BadProof("the batch's signatures", "they are not a list of key_id, algorithm and base64 signature, one a key")


def _decoded(encoded: object) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else b""
    except ValueError:
        return b""


def canonical_signatures(signatures: Signatures) -> bytes:
    """The one spelling of a signatures line that is taken where no record binds it."""
    listed = [
        {"key_id": key_id, "algorithm": algorithm, "signature": base64.b64encode(raw).decode()}
        for key_id, algorithm, raw in signatures
    ]
    return json.dumps({"signatures": listed}, separators=(",", ":"), ensure_ascii=False).encode()


def keys_of_log(verifiers: Iterable[Verifier], origin: str) -> list[Verifier]:
    """The keys that may sign for a log: those named like it, if any; else all.

    For a second tree, a key that is named like the log itself counts under the second tree's name.
    """
    keys = list(verifiers)
    if origin.endswith(RECORDS_SUFFIX):
        log = origin.removesuffix(RECORDS_SUFFIX)
        keys = list(dict.fromkeys(Verifier(origin, key.public_key) if key.name == log else key for key in keys))
    return [key for key in keys if key.name == origin] or keys


def signed_bytes(header_line: bytes) -> bytes:
    """What a producer signs: the DSSE v1 pre-authentication encoding of (payload type, batch header line)."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE, len(header_line), header_line)


class _Lines:
    """The lines before the empty one, taken in order; lives for one parse."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines
        self.number = 0
        """Of the line taken last, from 1."""

    @property
    def left(self) -> bool:
        return self.number < len(self._lines)

    def take(self) -> bytes:
        if not self.left:
            raise MalformedEventProof("the lines before the empty one end too early", self.number + 1)
        self.number += 1
        return self._lines[self.number - 1]

    def peek(self) -> bytes:
        return self._lines[self.number] if self.left else b""

    def take_named(self, *names: bytes) -> tuple[str, bytes]:
        """The next line's name, which must be one of these, and its content."""
        name, separator, content = self.take().partition(b" ")
        if name not in names or not separator:
            wished = " or ".join(repr(one.decode()) for one in names)
            raise MalformedEventProof(f"must begin with {wished} and a space", self.number)
        return name.decode(), content


def _check_line(line: bytes, what: str) -> None:
    if b"\n" in line:
        raise MalformedEventProof(f"the {what} holds a line feed")


def _digest(encoded: bytes, number: int) -> bytes:
    text = _text(encoded, number)
    if not _HEX_DIGEST.fullmatch(text):
        raise MalformedEventProof("not 64 lower-case hexadecimal digits", number)
    return bytes.fromhex(text)


def _text(content: bytes, number: int) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise MalformedEventProof("not UTF-8", number) from error


def read_fields(line: bytes, what: str) -> Mapping[str, Any]:
    """Read a header's fields; JSON that two readers could understand differently is refused.

    Raises:
        BadProof: it is not one strict JSON object without fractions.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a name occurs twice")
        return dict(pairs)

    def no_float(text: str) -> Any:  # noqa: ANN401 - never returns
        raise ValueError(f"{text} is no integer")

    try:
        fields = json.loads(line, object_pairs_hook=unique, parse_float=no_float, parse_constant=no_float)
    except (ValueError, RecursionError) as error:
        raise BadProof(what, f"it is not one strict JSON object: {error}") from error
    if not isinstance(fields, dict):
        raise BadProof(what, "it is not a JSON object")
    return fields


def _names_unknown(note: bytes, trusted: Collection[Verifier]) -> tuple[str, ...]:
    """The names on a checkpoint's signature lines that no trusted key stands behind."""
    known = {(key.name, key.key_id) for key in trusted}
    return tuple(one.key_name for one in SignedNote.parse(note).signatures if (one.key_name, one.key_id) not in known)
