"""Erase events from an audit folder: each line gives way to its entry, so what was ever proved goes on holding."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from meterproof_schemas.event import entry_of
from meterproof_sinks.audit_folder import log_folders, read_log_name, segments_of, torn_files
from meterproof_sinks.audit_lock import AuditLock
from meterproof_sinks.audit_segment import Segment
from meterproof_sinks.disk import NEW_SUFFIX, Disk
from meterproof_sinks.erased import erased_line
from meterproof_sinks.segment_compression import compress
from meterproof_sinks.segment_reader import open_files
from meterproof_sinks.segment_sealing import note_erasure, read_back

_CHUNK_BYTES: Final = 4 << 20

Matches = Callable[[bytes], bool]
"""Whether an event line (without LF) is to be erased."""


def erase_lines(audit: Path, matches: Matches, disk: Disk | None = None) -> dict[str, list[int]]:
    """Erase the lines that match from all logs of an audit folder; the positions erased, by log.

    Per log, whose writer must not run: it is locked out meanwhile.

    1. each events file with a line that matches is written anew beside itself and synced; of a sealed segment it is
       noted beside the manifest what the file will be (`segment_manifest`); then it is renamed over itself: a crash
       leaves the old file or the new one, and running it again finishes
    2. torn tails that were set aside are no part of the log, and may hold anything: they are removed

    The records file keeps its frames: they state the digests of the records as they were on the topic.

    Raises:
        LockedAudit: the audit sink runs.
        DamagedAudit: a folder does not say which log it is.
        OSError: a file cannot be read or written; nothing is half erased.
    """
    disk = disk or Disk()
    erased: dict[str, list[int]] = {}
    for folder in log_folders(audit):
        positions: list[int] = []
        lock = AuditLock(folder, disk)
        try:
            for segment in segments_of(folder):
                positions += _erase_from(segment, matches, disk)
            for torn in torn_files(folder):
                disk.remove(torn)
            disk.sync_folder(folder)
        finally:
            lock.release()
        erased[read_log_name(folder).origin] = positions
    return erased


def _erase_from(segment: Segment, matches: Matches, disk: Disk) -> list[int]:
    """Step 1 for one segment; the positions erased."""
    try:
        events, records = open_files(segment)
    except FileNotFoundError:
        return []  # a segment that was only begun, or damage: verifying tells
    records.close()
    with events:
        numbers = [number for number, line in enumerate(events) if line[-1:] == b"\n" and matches(line[:-1])]
    if not numbers:
        return []
    file = segment.events_file
    beside = file.with_name(file.name + NEW_SUFFIX)
    if beside.exists():
        disk.remove(beside)
    events, records = open_files(segment)
    records.close()
    with events:
        rewritten = _rewritten(events, frozenset(numbers))
        if segment.is_sealed:
            sealed = compress(rewritten, beside, disk)
            read_back(beside, sealed)
            note_erasure(segment, sealed, disk)
        else:
            _write(rewritten, beside, disk)
    disk.rename(beside, file)
    disk.sync_folder(segment.folder)
    return [segment.first + number for number in numbers]


def _rewritten(lines: Iterable[bytes], erased: frozenset[int]) -> Iterator[bytes]:
    """The lines, in chunks, with what stands in place of the erased ones."""
    gathered: list[bytes] = []
    size = 0
    for number, line in enumerate(lines):
        kept = erased_line(entry_of(line[:-1])) + b"\n" if number in erased else line
        gathered.append(kept)
        size += len(kept)
        if size >= _CHUNK_BYTES:
            yield b"".join(gathered)
            gathered, size = [], 0
    yield b"".join(gathered)


def _write(chunks: Iterable[bytes], file: Path, disk: Disk) -> None:
    descriptor = disk.open_append(file)
    try:
        for chunk in chunks:
            disk.append(descriptor, chunk)
        disk.sync(descriptor)
    finally:
        os.close(descriptor)
