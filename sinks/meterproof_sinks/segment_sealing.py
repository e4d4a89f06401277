"""Sealing a segment that has ended: both files compressed, and a manifest that says what is in them.

At every moment one of the two forms is whole and on the device, and the manifest decides which one counts.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import ValidationError

from meterproof_schemas.log_record import Genesis
from meterproof_sinks.audit_errors import DamagedAudit
from meterproof_sinks.audit_segment import Segment
from meterproof_sinks.disk import NEW_SUFFIX, Disk
from meterproof_sinks.segment_compression import CompressionFault, SealedFile, chunks_of, compress, open_compressed
from meterproof_sinks.segment_manifest import NO_MANIFEST, LogEnd, SealedFiles, SegmentManifest
from meterproof_sinks.segment_reader import read_segment


@dataclass(frozen=True, slots=True)
class EndedSegment:
    """A segment to which nothing is appended any more, and whose plain files are on the device."""

    segment: Segment
    first_log_offset: int
    """Of its first record."""
    end: LogEnd
    """Where the log is behind it."""


def seal(ended: EndedSegment, genesis: Genesis, before: SegmentManifest | None, disk: Disk) -> SegmentManifest:
    """Seal a segment; `before` is the manifest before it, None for a log's first segment.

    1. Compress both files beside themselves, and sync. 2. Read them back: they hold the plain bytes. 3. Rename them,
    and sync the folder. 4. The manifest, in the same way: from here on the compressed files count. 5. Remove the plain
    files, and sync the folder.

    A crash before 4 leaves the segment as it was, and one after it a sealed segment; `heal` removes what is too much.

    Raises:
        DamagedAudit: what was compressed cannot be read back.
        OSError: the disk refuses.
    """
    segment, end = ended.segment, ended.end
    targets = segment.sealed_events, segment.sealed_records
    sealed = [
        _compress(plain, target, disk) for plain, target in zip((segment.events, segment.records), targets, strict=True)
    ]  # 1, 2
    for target in targets:  # 3
        disk.rename(_beside(target), target)
    disk.sync_folder(segment.folder)
    manifest = SegmentManifest(
        origin=genesis.origin,
        number=0 if before is None else before.number + 1,
        previous=NO_MANIFEST if before is None else before.digest,
        first=segment.first,
        last=end.size - 1,
        first_log_offset=ended.first_log_offset,
        files=SealedFiles(events=sealed[0], records=sealed[1]),
        end=end,
        genesis=genesis,
    )
    disk.replace(segment.manifest, manifest.content)  # 4
    _remove_plain(segment, disk)  # 5
    return manifest


def heal(segment: Segment, disk: Disk) -> None:
    """Finish, or undo, the sealing of a segment that a crash cut off.

    Raises:
        OSError: the disk refuses.
    """
    if segment.is_sealed:
        _remove_plain(segment, disk)
    elif segment.events.exists() and segment.records.exists():
        for path in (segment.sealed_events, segment.sealed_records):
            if path.exists():
                disk.remove(path)


def check_sealed(segment: Segment, manifest: SegmentManifest) -> None:
    """Return if a sealed segment's compressed files are those that its manifest, or what was erased since, states.

    Raises:
        DamagedAudit: they are not; where the lines show it, with the line.
        OSError: a file cannot be read.
    """
    events = [manifest.files.events, *erasures_of(segment)]
    for path, states in ((segment.sealed_events, events), (segment.sealed_records, [manifest.files.records])):
        try:
            found = _file_digest(path)
        except FileNotFoundError:
            raise DamagedAudit(path, None, segment.first, "is missing") from None
        if found not in [state.zst_sha256 for state in states]:
            for _ in read_segment(segment, last=False):  # raises where the lines show it
                pass
            fault = f"has SHA-256 {found}, but {segment.manifest.name} states {states[-1].zst_sha256}"
            raise DamagedAudit(path, None, segment.first, fault)


def erasures_of(segment: Segment) -> list[SealedFile]:
    """What a sealed segment's events file became by each erasure since it was sealed, oldest first.

    Raises:
        DamagedAudit: a line is not as it was written.
        OSError: the file cannot be read.
    """
    try:
        lines = segment.erasures.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    states = []
    for number, line in enumerate(lines, 1):
        try:
            state = SealedFile.model_validate_json(line)
        except ValidationError as error:
            raise DamagedAudit(segment.erasures, number, segment.first, "does not say what was erased") from error
        if encode_sealed_file(state) != line:
            raise DamagedAudit(segment.erasures, number, segment.first, "is not spelled as it is written")
        states.append(state)
    return states


def note_erasure(segment: Segment, sealed: SealedFile, disk: Disk) -> None:
    """Note what a sealed segment's events file is about to become; on the device when it returns.

    Raises:
        OSError: the disk refuses.
    """
    lines = b"".join(encode_sealed_file(state) for state in (*erasures_of(segment), sealed))
    disk.replace(segment.erasures, lines)


def _compress(plain: Path, target: Path, disk: Disk) -> SealedFile:
    beside = _beside(target)
    if beside.exists():
        disk.remove(beside)
    with plain.open("rb") as file:
        sealed = compress(chunks_of(file), beside, disk)
    read_back(beside, sealed)
    return sealed


def encode_sealed_file(state: SealedFile) -> bytes:
    """A line of a segment's erasures."""
    return orjson.dumps(state.model_dump(), option=orjson.OPT_APPEND_NEWLINE)


def read_back(file: Path, sealed: SealedFile) -> None:
    """Return if a compressed file gives the lines that went into it.

    Raises:
        DamagedAudit: it does not.
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open_compressed(file) as compressed:
            for chunk in chunks_of(compressed):
                digest.update(chunk)
    except CompressionFault as error:
        raise DamagedAudit(file, None, None, f"was just written and cannot be decompressed: {error}") from error
    if digest.hexdigest() != sealed.sha256:
        raise DamagedAudit(file, None, None, "was just written and does not hold the lines that went into it")


def _remove_plain(segment: Segment, disk: Disk) -> None:
    there = [path for path in (segment.events, segment.records) if path.exists()]
    for path in there:
        disk.remove(path)
    if there:
        disk.sync_folder(segment.folder)


def _beside(target: Path) -> Path:
    return target.with_name(target.name + NEW_SUFFIX)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
