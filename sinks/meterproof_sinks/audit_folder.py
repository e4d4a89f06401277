"""The audit folder: every accepted record of a log, byte for byte, in files that any text tool can read.

```
<audit folder>/<log>/log.json                               which log this is
                     <first position>.jsonl                 event lines, verbatim: line n is position first + n - 1
                     <first position>.records.jsonl         per record: frame, record header, batch header, signatures
                     <first position>.jsonl.zst             both of them once the segment is sealed: compressed,
                     <first position>.records.jsonl.zst     to be read with any zstd program
                     <first position>.manifest.json         what says that they count: see `segment_manifest`
                     <first position>.erasures.jsonl        what was erased from it since, beside its manifest
                     <first position>.[records-]checkpoint  what was signed when it ended: see `kept_checkpoints`
                     checkpoint                             latest signed checkpoint whose every entry is on disk
                     tlog/                                  the log as tiles, to publish: see `tlog_folder`
                     records-checkpoint                     latest signed checkpoint of the second tree, as above
                     records-tlog/                          the second tree as tiles: a leaf per record (`records_tree`)
                     given-up.jsonl                         which segments were given up: see `given_up`
                     requests/<id>.json                     what a command asks the writer to do: see `audit_upkeep`
                     requests.jsonl                         what became of each such request
                     lock                                   held by the one writer while it runs
                     <file>.<n>.torn                        a torn tail that a writer found on start and set aside
```
`<log>` is the log's origin (`<name>/<epoch>/p<k>`) with `/` written as `~` and everything outside `A-Z a-z 0-9 . _ -`
percent-encoded, so it can be turned back; a name too long for a file system is replaced by its SHA-256. `log.json`
holds the origin in clear. A position is written with 20 digits, so names sort.

A record is on disk if its frame (`audit_segment`) and all its lines are, and their digest is the frame's. What comes
after the last such record is a torn tail if bytes are missing at the end of either file, or if they are wrong and no
further frame follows. Everything else that does not fit is damage. Only the last segment can have a torn tail, and no
sealed one.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meterproof_schemas.chain import LogChain
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.log_record import LogRecord
from meterproof_sinks.audit_errors import DamagedAudit
from meterproof_sinks.audit_lock import LOCK_FILE
from meterproof_sinks.audit_segment import Segment, StoredRecord, TornAudit
from meterproof_sinks.disk import NEW_SUFFIX
from meterproof_sinks.given_up import GIVEN_UP_FILE, beginning_of
from meterproof_sinks.segment_reader import read_segment

LOG_FILE: Final = "log.json"
CHECKPOINT_FILE: Final = "checkpoint"
TLOG_FOLDER: Final = "tlog"
RECORDS_CHECKPOINT_FILE: Final = "records-checkpoint"
RECORDS_TLOG_FOLDER: Final = "records-tlog"
REQUESTS_FOLDER: Final = "requests"
REQUESTS_FILE: Final = "requests.jsonl"
VOLUME_FOLDER: Final = "lost+found"
"""What the root of an ext4 volume holds, unreadable for all but root: none of our business."""
_OWN_FOLDERS: Final = {TLOG_FOLDER, RECORDS_TLOG_FOLDER, REQUESTS_FOLDER}
_OWN_FILES: Final = {LOCK_FILE, GIVEN_UP_FILE, REQUESTS_FILE, LOG_FILE, CHECKPOINT_FILE, RECORDS_CHECKPOINT_FILE}
_NAME_BYTES_MAX: Final = 255
_SEGMENT_NAME: Final = re.compile(r"([0-9]{20})(\.records)?\.jsonl(\.zst)?")
_BESIDE_NAME: Final = re.compile(r"[0-9]{20}\.(manifest\.json|erasures\.jsonl|(records-)?checkpoint)")
_TORN_NAME: Final = re.compile(r"[0-9]{20}(\.records)?\.jsonl\.[1-9][0-9]*\.torn")


class LogName(BaseModel):
    """What `log.json` says: which log the folder holds."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    version: Literal[1]
    origin: str
    partition: int = Field(ge=0)


def log_folder_name(origin: str) -> str:
    """The name of the folder of the log with this origin: unique, and no other origin has it.

    One can be read back, but for a hashed one, whose `log.json` says the origin.
    """
    name = "~".join(quote(part, safe="").replace("~", "%7E") for part in origin.split("/"))
    return name if len(name) <= _NAME_BYTES_MAX else f"sha256-{sha256(origin.encode()).hexdigest()}"


def encode_log_name(name: LogName) -> bytes:
    """The content of `log.json`."""
    return orjson.dumps(name.model_dump(), option=orjson.OPT_APPEND_NEWLINE)


def read_log_name(folder: Path) -> LogName:
    """Which log a folder holds.

    Raises:
        DamagedAudit: `log.json` is not what `encode_log_name` writes.
        FileNotFoundError: there is none.
    """
    file = folder / LOG_FILE
    content = file.read_bytes()
    try:
        name = LogName.model_validate(orjson.loads(content))
    except (orjson.JSONDecodeError, ValidationError) as error:
        raise DamagedAudit(file, 1, None, "does not say which log this is") from error
    if encode_log_name(name) != content:
        raise DamagedAudit(file, 1, None, "is not spelled as it is written")
    return name


def is_log_folder(folder: Path) -> bool:
    """Whether a folder holds a log (as opposed to logs, or something else)."""
    return (folder / LOG_FILE).is_file() or any(map(_SEGMENT_NAME.fullmatch, _names(folder)))


def log_folders(folder: Path) -> list[Path]:
    """The folders of all logs in an audit folder, by name; none if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.name != VOLUME_FOLDER and path.is_dir() and is_log_folder(path)
    )


def logs_held_twice(folders: Iterable[Path]) -> list[DamagedAudit]:
    """What is wrong with folders that hold a log which an earlier one of them holds too: it would be counted twice."""
    found: dict[str, Path] = {}
    twice = []
    for folder in folders:
        with suppress(DamagedAudit, FileNotFoundError):
            origin = read_log_name(folder).origin
            if (other := found.setdefault(origin, folder)) is not folder:
                fault = f"says that this is log {origin}, which is in {other.name} too; take the copy out of the folder"
                twice.append(DamagedAudit(folder / LOG_FILE, 1, None, fault))
    return twice


def segments_of(folder: Path) -> list[Segment]:
    """The segments of a log, oldest first: every position that names a file, even if its other file is missing."""
    found = {int(match[1]) for match in map(_SEGMENT_NAME.fullmatch, _names(folder)) if match}
    return [Segment(folder, first) for first in sorted(found)]


def torn_files(folder: Path) -> list[Path]:
    """The torn tails that were set aside."""
    return sorted(folder / name for name in _names(folder) if _TORN_NAME.fullmatch(name))


def unexpected_files(folder: Path) -> list[Path]:
    """What lies in a log's folder and belongs to no log."""
    return sorted(
        path
        for path in folder.iterdir()
        if (path.is_dir() and path.name not in _OWN_FOLDERS)
        or (path.is_file() and not _is_own(path.name.removesuffix(NEW_SUFFIX)))
    )


def _is_own(name: str) -> bool:
    kinds = (_SEGMENT_NAME, _BESIDE_NAME, _TORN_NAME)
    return name in _OWN_FILES or any(kind.fullmatch(name) for kind in kinds)


def unfinished_files(folder: Path) -> list[Path]:
    """What a crash left of a file that was being made: it means nothing."""
    return sorted(
        folder / name for name in _names(folder) if name.endswith(NEW_SUFFIX) and _is_own(name.removesuffix(NEW_SUFFIX))
    )


def read_records(folder: Path, position: int = 0) -> Iterator[StoredRecord]:
    """All whole records of a log, in order, checked against their frames and segment names; streaming.

    Args:
        folder: the log's folder.
        position: where to begin, which is the first position of a segment, or where the next one will begin; at 0, a
            log of which segments were given up begins with the first one that is kept.

    Raises:
        DamagedAudit: after the records before the damage.
        TornAudit: after all whole records, if the tail is torn.
        OSError: a file cannot be read.
    """
    if position == 0 and (beginning := beginning_of(folder)) is not None:
        position = beginning.end.size
    segments = [one for one in segments_of(folder) if one.first >= position]
    for segment in segments:
        if segment.first != position:
            raise DamagedAudit(
                segment.records_file,
                None,
                position,
                f"a segment that begins at {position} was due; files are missing or renamed",
            )
        for stored in read_segment(segment, last=segment is segments[-1]):
            yield stored
            position = stored.position + stored.events


def log_ends(audit: Path) -> dict[str, int]:
    """By log: how many events an audit folder goes to, as far as records are whole.

    Raises:
        DamagedAudit: a log's newest segment is damaged.
        OSError: a file cannot be read.
    """
    ends = {}
    for folder in log_folders(audit):
        end = segments[-1].first if (segments := segments_of(folder)) else 0
        with suppress(TornAudit):
            for stored in read_records(folder, end):
                end = stored.position + stored.events
        ends[read_log_name(folder).origin] = end
    return ends


def records(folder: Path, chain: LogChain | None = None) -> Iterator[tuple[int, LogRecord]]:
    """All records of a log as (log offset, record), each checked to continue the chain; streaming.

    Args:
        folder: the log's folder.
        chain: what to follow them with; a fresh `LogChain`, or a `LogState` to re-derive everything.

    Raises:
        DamagedAudit: after the records before the damage.
        TornAudit: after all whole records, if the tail is torn.
        OSError: a file cannot be read.
    """
    for stored, record in follow_records(folder, LogChain() if chain is None else chain):
        yield stored.log_offset, record


def follow_records(folder: Path, chain: LogChain) -> Iterator[tuple[StoredRecord, LogRecord]]:
    """As `records`, with the place where each was found.

    A chain that is at a segment's end goes on behind it. A fresh one is brought to where the log is kept from.
    """
    if chain.log_offset < 0 and (beginning := beginning_of(folder)) is not None:
        beginning.end.resume(chain, beginning.genesis)
    for stored in read_records(folder, chain.position):
        yield stored, follow_stored(stored, chain)


def follow_stored(stored: StoredRecord, chain: LogChain) -> LogRecord:
    """The record, taken by the chain.

    Raises:
        DamagedAudit: it does not continue the chain.
    """
    if stored.log_offset <= chain.log_offset:
        raise _not_next(stored, f"stands at log offset {stored.log_offset}, not after {chain.log_offset}")
    previous = chain.digest
    try:
        if stored.erased:
            record = _offer_erased(stored, chain)
        else:  # what was read has the digest that its frame states
            record = chain.offer(stored.log_offset, stored.value, stored.digest)
    except StageStopped as error:
        raise _not_next(stored, error.detail) from error
    if record is None:
        raise _not_next(stored, f"the record does not follow the one before: its prev is not {previous}")
    return record


def _offer_erased(stored: StoredRecord, chain: LogChain) -> LogRecord | None:
    """Take a record with erased lines under the digest that it had: the next record's `prev` is the witness."""
    record = chain.follow(stored.log_offset, stored.value, stored.digest)
    if record is not None:
        chain.advance(stored.log_offset, record.header, record.digest)
    return record


def _not_next(stored: StoredRecord, fault: str) -> DamagedAudit:
    return DamagedAudit(stored.segment.records_file, stored.records_line + 1, stored.position, fault)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
