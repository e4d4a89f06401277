"""The manifest of a sealed segment: what its files hold, where the log was behind it, and which manifest came before.

`<first position>.manifest.json` is one JSON object on one line. `previous` is the SHA-256 of the manifest before it, so
the newest manifest stands for all sealed segments. Manifests are never changed and never removed: what is erased from a
segment afterwards is stated in `<first position>.erasures.jsonl` beside it, a line each time, in the form of
`files.events`. A line is there before the file that it speaks of, so the events file is that of the manifest or of one
of these lines.
"""

from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from meterproof_proofs.errors import ProofError
from meterproof_proofs.frontier import Frontier
from meterproof_proofs.tree_hashing import hashes_in
from meterproof_schemas.batch import Digest
from meterproof_schemas.chain import LogChain
from meterproof_schemas.log_record import Genesis
from meterproof_sinks.audit_errors import DamagedAudit
from meterproof_sinks.audit_segment import Segment
from meterproof_sinks.segment_compression import SealedFile

NO_MANIFEST: Final = "0" * 64
"""`previous` of a log's first manifest."""
_CLOSED: Final = ConfigDict(extra="forbid", frozen=True, strict=True)
_Count = Annotated[int, Field(ge=0)]
_Hashes = Annotated[str, StringConstraints(strict=True, pattern=r"^([0-9a-f]{64})*$")]


class LogEnd(BaseModel):
    """Where a log is behind a record: all that is needed to go on from there."""

    model_config = _CLOSED
    log_offset: _Count
    """Of the record."""
    digest: Digest
    """SHA-256 of the record's value: the `prev` of the next one."""
    next_source_offset: _Count
    clock_ms: _Count
    """Ingest clock."""
    size: _Count
    """Events in the log: the next position."""
    root: Digest
    frontier: _Hashes
    """Largest subtree first."""
    records: _Count
    """Records in the log: the size of its second tree."""
    records_root: Digest
    records_frontier: _Hashes

    @model_validator(mode="after")
    def _roots_follow(self) -> Self:
        trees = ((self.size, self.frontier, self.root), (self.records, self.records_frontier, self.records_root))
        for size, hashes, root in trees:
            try:
                derived = frontier_of(size, hashes).root().hex()
            except ProofError as error:
                raise ValueError(str(error)) from error
            if derived != root:
                raise ValueError(f"the root {root} does not follow from the frontier beside it")
        return self

    @classmethod
    def of(cls, chain: LogChain, frontier: str, records: Frontier) -> "LogEnd":
        """Where a chain is.

        Args:
            chain: that took at least one record.
            frontier: of the first tree, as the last record states it.
            records: frontier of the second tree.

        """
        return cls(
            log_offset=chain.log_offset,
            digest=chain.digest,
            next_source_offset=chain.next_source_offset,
            clock_ms=chain.clock_ms,
            size=chain.position,
            root=frontier_of(chain.position, frontier).root().hex(),
            frontier=frontier,
            records=records.size,
            records_root=records.root().hex(),
            records_frontier=b"".join(records.hashes).hex(),
        )

    def resume(self, chain: LogChain, genesis: Genesis) -> None:
        """Bring a fresh chain to here."""
        chain.genesis = genesis
        chain.log_offset, chain.digest, chain.position = self.log_offset, self.digest, self.size
        chain.next_source_offset, chain.clock_ms = self.next_source_offset, self.clock_ms


class SealedFiles(BaseModel):
    """A segment's two files, as they were sealed."""

    model_config = _CLOSED
    events: SealedFile
    records: SealedFile


class SegmentManifest(BaseModel):
    """What a sealed segment holds."""

    model_config = _CLOSED
    version: Literal[1] = 1
    origin: str
    number: _Count
    """Of the segment in its log, from 0."""
    previous: Digest
    """SHA-256 of the manifest before; zeros in the first."""
    first: _Count
    """First position."""
    last: _Count
    """Last position."""
    first_log_offset: _Count
    """Of its first record on `usage.log`; that of its last one is `end.log_offset`."""
    files: SealedFiles
    end: LogEnd
    genesis: Genesis
    """What the log's first record fixes: a reader needs it where that record was given up."""

    @property
    def content(self) -> bytes:
        """The file."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_APPEND_NEWLINE)

    @property
    def digest(self) -> str:
        """SHA-256 of the file: what the next manifest names."""
        return sha256(self.content).hexdigest()


def frontier_of(size: int, hashes: str) -> Frontier:
    """A frontier from its hashes in hexadecimal.

    Raises:
        ProofError: there are not as many as the size asks for.
    """
    return Frontier.of(size, hashes_in(bytes.fromhex(hashes)))


def read_manifest(segment: Segment) -> SegmentManifest:
    """The manifest of a segment.

    Raises:
        DamagedAudit: it is not as it was written.
        FileNotFoundError: there is none.
    """
    content = segment.manifest.read_bytes()
    try:
        manifest = SegmentManifest.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"])) or "it"
        raise DamagedAudit(segment.manifest, 1, segment.first, f"{place}: {fault['msg']}") from error
    if manifest.content != content:
        raise DamagedAudit(segment.manifest, 1, segment.first, "is not spelled as it is written")
    return manifest


def lines_bytes(segment: Segment) -> int:
    """Bytes of a segment's lines, of both files; of a sealed one as its manifest states them, if it can be read."""
    if segment.is_sealed:
        with suppress(DamagedAudit, OSError):
            files = read_manifest(segment).files
            return files.events.bytes + files.records.bytes
    return segment.size


def follow_manifest(segment: Segment, before: SegmentManifest | None) -> SegmentManifest:
    """The manifest of a segment, checked to continue the one before (None: it is the log's first).

    Raises:
        DamagedAudit: it is not as it was written, or does not continue the one before.
        OSError: it cannot be read.
    """
    manifest = read_manifest(segment)
    due = 0 if before is None else before.end.size
    fault: str | None = None
    if before is not None and manifest.previous != before.digest:
        was = Segment(segment.folder, before.first).manifest.name
        fault = f"names another manifest before it: {was} has SHA-256 {before.digest}; one of the two was changed"
    elif before is None and manifest.previous != NO_MANIFEST:
        fault = "names a manifest before it, and there is none: it was removed"
    elif manifest.number != (0 if before is None else before.number + 1) or manifest.first != due:
        fault = f"is of segment {manifest.number} from position {manifest.first} on, where {due} was due"
    elif before is not None and (manifest.origin, manifest.genesis) != (before.origin, before.genesis):
        fault = f"is of log {manifest.origin}, not {before.origin}"
    elif manifest.first != segment.first or manifest.last != manifest.end.size - 1:
        fault = "states other positions than its name and its end"
    if fault is not None:
        raise DamagedAudit(segment.manifest, 1, segment.first, fault)
    return manifest


def read_manifests(folder: Path) -> list[SegmentManifest]:
    """All manifests of a log, oldest first, each checked to continue the one before.

    Raises:
        DamagedAudit: one does not.
        OSError: one cannot be read.
    """
    manifests: list[SegmentManifest] = []
    for first in sorted(int(path.name[:20]) for path in folder.glob("[0-9]*.manifest.json")):
        manifests.append(follow_manifest(Segment(folder, first), manifests[-1] if manifests else None))
    return manifests
