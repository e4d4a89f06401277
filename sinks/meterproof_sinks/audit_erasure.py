"""Erase events from a log's folder: each line gives way to its entry, so what was ever proved goes on holding."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

from meterproof_schemas.event import entry_of
from meterproof_sinks.audit_folder import segments_of, torn_files
from meterproof_sinks.audit_segment import Segment
from meterproof_sinks.disk import NEW_SUFFIX, Disk, naming
from meterproof_sinks.erased import erased_line
from meterproof_sinks.legal_holds import Hold, refuse_held_line
from meterproof_sinks.segment_compression import compress
from meterproof_sinks.segment_reader import open_files
from meterproof_sinks.segment_sealing import note_erasure, read_back

_CHUNK_BYTES: Final = 4 << 20

Matches = Callable[[bytes], bool]
"""Whether an event line (without LF) is to be erased."""


def erase_from_log(
    folder: Path,
    matches: Matches,
    holds: Sequence[Hold],
    disk: Disk,
    unsealed: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> list[int]:
    """Erase the lines that match from a log, in whose folder nobody else seals meanwhile; the positions erased.

    1. where there are holds, look through everything, so that nothing is erased if one covers a line that matches
    2. each sealed events file with a line that matches is written anew beside itself and synced; it is noted beside the
       manifest what the file will be (`segment_manifest`); then it is renamed over itself: a crash leaves the old file
       or the new one, and running it again finishes
    3. the same with what is not sealed, within `unsealed`: then nothing is appended
    4. torn tails that were set aside are no part of the log, and may hold anything: they are removed

    The records file keeps its frames: they state the digests of the records as they were on the topic.

    Raises:
        HoldError: a hold covers a line that matches.
        OSError: a file cannot be read or written; nothing is half erased.
    """
    for segment in segments_of(folder) if holds else ():  # 1
        _matching(segment, matches, holds)
    positions: list[int] = []
    for segment in segments_of(folder):  # 2
        if segment.is_sealed:
            positions += _erase_from(segment, matches, holds, disk)
    with unsealed():  # 3
        for segment in segments_of(folder):
            if not segment.is_sealed:
                positions += _erase_from(segment, matches, holds, disk)
    torn = torn_files(folder)
    for file in torn:  # 4
        disk.remove(file)
    if torn:
        disk.sync_folder(folder)
    return positions


def _matching(segment: Segment, matches: Matches, holds: Sequence[Hold]) -> list[int]:
    """The numbers of a segment's lines that match, from 0."""
    try:
        events, records = open_files(segment)
    except FileNotFoundError:
        return []  # a segment that was only begun, or damage: verifying tells
    records.close()
    numbers = []
    with events:
        for number, line in enumerate(events):
            if line[-1:] == b"\n" and matches(line[:-1]):
                refuse_held_line(line[:-1], holds)
                numbers.append(number)
    return numbers


def _erase_from(segment: Segment, matches: Matches, holds: Sequence[Hold], disk: Disk) -> list[int]:
    """Steps 2 and 3 for one segment; the positions erased."""
    numbers = _matching(segment, matches, holds)
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
            with naming(file):
                disk.append(descriptor, chunk)
        disk.sync(descriptor)
    finally:
        os.close(descriptor)
