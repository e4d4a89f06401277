"""The checkpoints that were the newest when a segment ended: each covers nothing behind that segment.

`<first position>.checkpoint` and `<first position>.records-checkpoint` lie beside the segment's files. A copy that ends
with a segment is proved by them, where the log's own checkpoint asks for lines that the copy has not; and whoever keeps
one can hold a later log to it.
"""

from pathlib import Path

from meterproof_sinks.audit_segment import Segment
from meterproof_sinks.audit_tree import Signed
from meterproof_sinks.disk import Disk


def kept_files(segment: Segment) -> tuple[Path, Path]:
    """Where the checkpoints of both trees are kept."""
    return (
        segment.folder / f"{segment.first:020}.checkpoint",
        segment.folder / f"{segment.first:020}.records-checkpoint",
    )


def keep_checkpoints(segment: Segment, events: Signed | None, records: Signed | None, disk: Disk) -> None:
    """Keep the newest checkpoints, before anything behind the segment counts; nothing until both trees have one.

    Raises:
        OSError: the disk refuses.
    """
    if events is not None and records is not None:
        for file, signed in zip(kept_files(segment), (events, records), strict=True):
            disk.replace(file, signed.note)


def read_kept(segment: Segment) -> tuple[bytes, bytes] | None:
    """The checkpoints of both trees that were kept when this segment ended; None if there were none yet."""
    events, records = kept_files(segment)
    if not (events.is_file() and records.is_file()):
        return None
    return events.read_bytes(), records.read_bytes()
