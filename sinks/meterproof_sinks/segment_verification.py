"""Verify segments of one log at the same time, in processes of their own.

A segment is followed from where the manifest of the one before says that the log is behind it. That is taken as stated
for the while: whoever puts the outcomes together goes on only with one that began where the log was found to be. So
nothing is believed that would not be believed of a pass from the first byte; and where anything does not hold, the
segment is followed again by that pass, which says what and where.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from meterproof_proofs.published_files import FileComparison
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.chain import LogChain
from meterproof_schemas.log_record import Genesis
from meterproof_sinks.audit_errors import AuditFault
from meterproof_sinks.audit_segment import Segment, split_record
from meterproof_sinks.record_verification import RecordVerification
from meterproof_sinks.seen_corrections import Seen
from meterproof_sinks.segment_manifest import LogEnd, frontier_of
from meterproof_sinks.segment_reader import read_segment
from meterproof_sinks.tree_stretch import TreeStretch
from meterproof_sinks.verification_inputs import OnProgress, VerificationInputs
from meterproof_sinks.verification_report import COUNTS, LogReport

_PROGRESS_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class SegmentTask:
    """A segment to follow from a stated beginning."""

    segment: Segment
    last: bool
    """Whether it is the log's last."""
    start: LogEnd
    """Where the log is said to be before it."""
    genesis: Genesis
    wanted: frozenset[int]
    """Sizes whose roots are asked for."""
    comparison: FileComparison | None
    """The published files of the full tiles in it; None if the log is not published."""


@dataclass(frozen=True, slots=True)
class SegmentOutcome:
    """What a segment leads to, all of which held."""

    start: LogEnd
    """Where it was taken to begin."""
    genesis: Genesis
    """What the log's first record was taken to fix."""
    end: LogEnd
    """Behind it."""
    events: TreeStretch
    heads: list[bytes]
    """The second tree's entries."""
    seen: list[Seen]
    """What its records tell of corrections, in order."""
    counts: dict[str, int]
    """`COUNTS` of it alone."""
    lines: tuple[str, str]
    """SHA-256 of its lines, of events and of records."""


def verify_segment(task: SegmentTask, inputs: VerificationInputs, on_progress: OnProgress) -> SegmentOutcome | None:
    """Follow a segment; None if anything of it does not hold, or cannot be read."""
    start, report, chain, heads = task.start, LogReport(task.segment.folder), LogChain(), list[bytes]()
    start.resume(chain, task.genesis)
    stretch = TreeStretch(start.size, frontier_of(start.size, start.frontier).hashes, task.wanted, task.comparison)
    seen: list[Seen] = []
    verification = RecordVerification(chain, stretch, heads.append, inputs.producers, report, seen.append)
    digests, unreported = (hashlib.sha256(), hashlib.sha256()), 0
    try:
        for stored in read_segment(task.segment, last=task.last):
            record = verification.verify(stored)
            for digest, lines in zip(digests, split_record(stored.log_offset, record), strict=True):
                digest.update(lines)
            unreported += len(stored.value)
            if unreported >= _PROGRESS_BYTES:
                on_progress(unreported)
                unreported = 0
    except (AuditFault, OSError):
        return None
    on_progress(unreported)
    counts = {name: getattr(report, name) for name in COUNTS}
    events, records = (digest.hexdigest() for digest in digests)
    records_frontier = frontier_of(start.records, start.records_frontier)
    records_frontier.extend(leaf_hashes(heads))
    end = LogEnd.of(chain, b"".join(stretch.tree.hashes).hex(), records_frontier)
    return SegmentOutcome(start, task.genesis, end, stretch, heads, seen, counts, (events, records))
