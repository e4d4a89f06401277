"""Give up the oldest sealed segments of a log after their time, unless a hold forbids it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meterproof_schemas.instant import format_instant_ms
from meterproof_sinks.audit_folder import CHECKPOINT_FILE, RECORDS_TLOG_FOLDER, TLOG_FOLDER
from meterproof_sinks.audit_segment import Segment
from meterproof_sinks.audit_tree import read_signed
from meterproof_sinks.disk import Disk
from meterproof_sinks.given_up import GivenUp, beginning_of, note_given_up
from meterproof_sinks.legal_holds import Hold
from meterproof_sinks.segment_manifest import SegmentManifest, read_manifests
from meterproof_sinks.segment_reader import read_segment


@dataclass(slots=True)
class RetainedLog:
    """What was given up of one log, or would be."""

    kept_from: int
    """First position that is kept."""
    segments: int = 0
    """Given up now."""
    events: int = 0
    """In them."""
    bytes: int = 0
    """Freed."""
    stopped_by: str | None = None
    """Why no more was given up, though it is old enough."""


@dataclass(frozen=True, slots=True)
class RetentionRequest:
    """What to give up, and who wants it."""

    before_ms: int
    """Segments whose last record came in before this, by the ingest clock, in milliseconds since 1970 UTC."""
    by: str
    reason: str
    now_ms: int


def give_up(
    folder: Path,
    request: RetentionRequest,
    holds: Sequence[Hold],
    *,
    dry_run: bool = False,
    disk: Disk | None = None,
) -> RetainedLog:
    """Give up what is old enough of a log, in whose folder nobody else seals or publishes meanwhile.

    1. Oldest first, choose sealed segments that are old enough, up to the first one that must be kept: the newest
       sealed one, one that a published checkpoint of either tree does not cover, or one with a line under a hold.
    2. Note durably what is given up, by whom and why: from here on it counts as given up.
    3. Remove the files. A crash leaves some; the next start of the writer, or the next run of this, removes them.

    Args:
        folder: the log's.
        request: what to give up.
        holds: those in force.
        dry_run: only say what would be given up; then others may write meanwhile.
        disk: the file operations.

    Raises:
        DamagedAudit: a manifest, or a segment that is looked through because of a hold, is not as it was written.
        OSError: a file cannot be read or removed.

    """
    disk = disk or Disk()
    beginning = beginning_of(folder)
    if not dry_run:
        remove_given_up(folder, disk)
    retained = RetainedLog(kept_from=0 if beginning is None else beginning.end.size)
    chosen: SegmentManifest | None = None
    manifests = [one for one in read_manifests(folder) if one.first >= retained.kept_from]
    covered = _covered(folder)
    for manifest in manifests:  # 1
        if manifest.end.clock_ms >= request.before_ms:
            break
        segment = Segment(folder, manifest.first)
        retained.stopped_by = _kept_because(segment, manifest, manifests[-1], covered, holds)
        if retained.stopped_by is not None:
            break
        chosen = manifest
        retained.segments += 1
        retained.events += manifest.end.size - manifest.first
        retained.bytes += segment.size
    if chosen is None:
        return retained
    retained.kept_from = chosen.end.size
    if not dry_run:
        noted = GivenUp(
            below=chosen.end.size,
            records=chosen.end.records,
            segments=retained.segments,
            at=format_instant_ms(request.now_ms),
            by=request.by,
            reason=request.reason,
        )
        note_given_up(folder, noted, disk)  # 2
        remove_given_up(folder, disk)  # 3
    return retained


def remove_given_up(folder: Path, disk: Disk) -> None:
    """Remove what is still there of segments that were given up.

    Raises:
        DamagedAudit: it is not said clearly what was given up.
        OSError: the disk refuses.
    """
    beginning = beginning_of(folder)
    if beginning is None:
        return
    removed = False
    for manifest in read_manifests(folder):
        if manifest.end.size <= beginning.end.size:
            segment = Segment(folder, manifest.first)
            for file in (segment.sealed_events, segment.sealed_records):
                if file.is_file():
                    disk.remove(file)
                    removed = True
    if removed:
        disk.sync_folder(folder)


def _kept_because(
    segment: Segment,
    manifest: SegmentManifest,
    newest: SegmentManifest,
    covered: tuple[int, int],
    holds: Sequence[Hold],
) -> str | None:
    """Why a segment must be kept; None if it need not."""
    if manifest == newest:
        return "the newest sealed segment is always kept"
    if manifest.end.size > covered[0] or manifest.end.records > covered[1]:
        return "no published checkpoint covers it yet"
    everything = next((hold for hold in holds if hold.customer is None), None)
    if everything is not None:
        return str(everything)
    if holds:
        for stored in read_segment(segment, last=False):
            lines = stored.value[len(stored.head) : -1].split(b"\n") if stored.events else []
            for position, line in enumerate(lines, stored.position):
                found = next((hold for hold in holds if hold.covers(line)), None)
                if found is not None:
                    return f"position {position}: {found}"
    return None


def _covered(folder: Path) -> tuple[int, int]:
    """Events and records that the published checkpoints cover."""
    signed = [read_signed(folder / tlog / CHECKPOINT_FILE) for tlog in (TLOG_FOLDER, RECORDS_TLOG_FOLDER)]
    events, records = (0 if one is None else one.checkpoint.size for one in signed)
    return events, records
