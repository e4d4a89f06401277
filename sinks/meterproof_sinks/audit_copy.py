"""Copy the sealed part of an audit folder into an object store; `audit_fetch` brings it back.

```
<log>/log.json                                   as in the folder
      <first position>.jsonl.zst                 of every sealed segment: both files …
      <first position>.records.jsonl.zst
      <first position>.manifest.json             … and the manifest, which says that they count
      given-up.jsonl                             if segments were given up before they were copied
      tlog/, records-tlog/                       tiles and entry bundles of both trees, then their checkpoints
      checkpoint, records-checkpoint             the newest that cover nothing but sealed segments
prices/<version>.json                            the published price books
```
The copy is an audit folder of its own. The order of writing is the proof: an object that says that others count is
written after them, and everything is read back before the next one. So the copy's own newest manifest and checkpoint
are the cursor: what they speak for was there, equal, and is not looked at again.

Nothing is ever overwritten with other content, except: a checkpoint by a larger one of the same log, and the events of
a segment by what an erasure left of them, if the segment's record of erasures says so.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from meterproof_proofs.bundle import encode_bundle
from meterproof_proofs.checkpoint import Checkpoint
from meterproof_proofs.errors import ProofError
from meterproof_proofs.note import SignedNote
from meterproof_proofs.tiles import Bundle, Tile, TileEdge, bundles_between, decode_tile, partial_tiles, tiles_between
from meterproof_proofs.tree import HASH_BYTES
from meterproof_sinks.audit_errors import DamagedAudit
from meterproof_sinks.audit_folder import (
    CHECKPOINT_FILE,
    LOG_FILE,
    RECORDS_CHECKPOINT_FILE,
    RECORDS_TLOG_FOLDER,
    TLOG_FOLDER,
    log_folders,
    read_log_name,
)
from meterproof_sinks.audit_segment import Segment
from meterproof_sinks.audit_tree import read_signed
from meterproof_sinks.given_up import GIVEN_UP_FILE, read_given_up
from meterproof_sinks.kept_checkpoints import read_kept
from meterproof_sinks.object_store import ObjectDiffers, ObjectStore, StoreUnavailable, at_once
from meterproof_sinks.price_book_folder import PRICES_FOLDER, kept_price_books
from meterproof_sinks.segment_compression import SealedFile
from meterproof_sinks.segment_manifest import SegmentManifest, read_manifests
from meterproof_sinks.segment_sealing import erasures_of

TREES: Final = ((TLOG_FOLDER, CHECKPOINT_FILE), (RECORDS_TLOG_FOLDER, RECORDS_CHECKPOINT_FILE))


@dataclass(slots=True)
class CopiedLog:
    """How far the copy of one log goes."""

    partition: int
    sealed: int = 0
    """Segments that are in the copy."""
    events: int = 0
    """In them."""
    covered: int = 0
    """Of these, covered by the copy's checkpoint."""
    only_here: int = 0
    """Signed for, and not sealed when the copy was made: they are in the folder alone."""


@dataclass(slots=True)
class Copied:
    """What one run did, and how far the copy goes."""

    objects: int = 0
    """Written, and read back."""
    bytes: int = 0
    """In them."""
    logs: dict[str, CopiedLog] = field(default_factory=dict)
    """By origin."""


OnCopied = Callable[[int], None]
"""Called with the bytes of each object that was written."""


def copy_audit(audit: Path, store: ObjectStore, on_copied: OnCopied = lambda _: None) -> Copied:
    """Bring the copy up to what is sealed in an audit folder; one that was cut off goes on where it ended.

    Other writers of the folder go on meanwhile. One copier at a time.

    1. the price books
    2. per log, oldest segment first: its files, then its manifest
    3. per tree: what its checkpoint speaks for, then the checkpoints

    Raises:
        ObjectDiffers: the copy, or the folder, has other content than follows from the other.
        StoreProblem: the store cannot be used.
        DamagedAudit: the folder does not hold.
        OSError: a file cannot be read.
    """
    copy = _Copy(audit, store, on_copied)
    copy.prices()  # 1
    for folder in log_folders(audit):
        copy.log(folder)  # 2, 3
    return copy.copied


class _Copy:
    """One run. Lives for it."""

    def __init__(self, audit: Path, store: ObjectStore, on_copied: OnCopied) -> None:
        self.copied = Copied()
        self._audit = audit
        self._store = store
        self._on_copied = on_copied

    def prices(self) -> None:
        """Copy the price books."""
        for version, content in kept_price_books(self._audit).items():
            name = f"{PRICES_FOLDER}/{version}.json"
            if self._store.get(name) != content:
                self._put(name, content)

    def log(self, folder: Path) -> None:
        """Copy what is sealed of a log."""
        named = read_log_name(folder)
        copied = self.copied.logs[named.origin] = CopiedLog(named.partition)
        there = self._store.names(folder.name)
        if f"{folder.name}/{LOG_FILE}" not in there:
            self._put(f"{folder.name}/{LOG_FILE}", (folder / LOG_FILE).read_bytes())
        manifests = read_manifests(folder)
        known = [one for one in manifests if self._name(folder, Segment(folder, one.first).manifest) in there]
        if known:
            # Each manifest names the one before it, so the newest one speaks for all of them.
            newest = Segment(folder, known[-1].first).manifest
            self._store.compare(self._name(folder, newest), known[-1].digest)
        self._given_up(folder, manifests, there)
        for manifest in manifests:
            self._segment(Segment(folder, manifest.first), manifest, there)
            copied.sealed += 1
            copied.events = manifest.end.size
        signed = read_signed(folder / TLOG_FOLDER / CHECKPOINT_FILE)
        copied.only_here = 0 if signed is None else max(0, signed.checkpoint.size - copied.events)
        kept = _newest_kept(folder, manifests)
        if kept is not None:
            copied.covered = self._trees(folder, kept)

    def _given_up(self, folder: Path, manifests: list[SegmentManifest], there: dict[str, int]) -> None:
        """Say in the copy what was given up, if that was before it was copied; what the copy has, it keeps."""
        for manifest in manifests:
            segment = Segment(folder, manifest.first)
            for file in (segment.sealed_events, segment.sealed_records):
                if file.is_file() or self._name(folder, file) in there:
                    continue
                if not any(manifest.end.size <= one.below for one in read_given_up(folder)):
                    raise DamagedAudit(file, None, segment.first, "is missing, and was not given up")
                self._replace(f"{folder.name}/{GIVEN_UP_FILE}", (folder / GIVEN_UP_FILE).read_bytes())
                return

    def _segment(self, segment: Segment, manifest: SegmentManifest, there: dict[str, int]) -> None:
        """Copy a segment.

        1. What was erased from it. 2. Its files, unless they were given up here. 3. Its manifest: now they count.
        """
        name = self._name(segment.folder, segment.manifest)
        states = [manifest.files.events, *erasures_of(segment)]
        events, records = (self._name(segment.folder, one) for one in (segment.sealed_events, segment.sealed_records))
        if len(states) > 1:  # 1
            self._erase(segment, states, events, there)
        counts = name in there  # so its files were there, and equal; then a look at their sizes is enough
        same = counts and events in there and (len(states) > 1 or there[events] == states[0].zst_bytes)
        if not same and segment.sealed_events.is_file():  # 2
            self._put(events, _events_of(segment, states))
        stated = manifest.files.records
        if not (counts and there.get(records) == stated.zst_bytes) and segment.sealed_records.is_file():
            self._put(records, segment.sealed_records, stated.zst_sha256)
        if not counts:  # 3
            self._put(name, manifest.content)

    def _erase(self, segment: Segment, states: list[SealedFile], events: str, there: dict[str, int]) -> None:
        """Carry out in the copy what was erased from a sealed segment here: first what says so, then the lines."""
        erasures = self._name(segment.folder, segment.erasures)
        content = segment.erasures.read_bytes()
        content = content[: content.rindex(b"\n") + 1]
        if there.get(erasures) == len(content) and there.get(events) in {None, states[-1].zst_bytes}:
            return
        if not content.startswith(self._store.get(erasures) or b""):
            raise ObjectDiffers(f"{self._store.url}: {erasures} states other erasures than {segment.erasures}")
        found = self._store.digest(events)
        if found is not None and found not in [state.zst_sha256 for state in states]:
            raise ObjectDiffers(f"{self._store.url}: {events} is what no state of {segment.sealed_events} was")
        self._replace(erasures, content)
        if found is not None and found != states[-1].zst_sha256:
            if not segment.sealed_events.is_file():
                raise ObjectDiffers(
                    f"{self._store.url}: {events} still has what was erased from {segment.sealed_events} before that "
                    "was given up. Remove the object there"
                )
            self._replace(events, _events_of(segment, states))

    def _trees(self, folder: Path, notes: tuple[bytes, bytes]) -> int:
        """Copy both trees as their checkpoints have them; how many events the copy's checkpoint covers now.

        1. Bundles and tiles. 2. Both published checkpoints. 3. The log's own.
        """
        newest: list[tuple[str, str, bytes]] = []
        covered = 0
        for (tlog, file), note in zip(TREES, notes, strict=True):
            checkpoint = checkpoint_of(note)
            found = self._store.get(f"{folder.name}/{tlog}/{CHECKPOINT_FILE}")
            before = None if found is None else checkpoint_of(found)
            if before is not None and before.origin != checkpoint.origin:
                raise ObjectDiffers(f"{self._store.url}: {folder.name}/{tlog} is of {before.origin}")
            if before is not None and before.size == checkpoint.size and before.root != checkpoint.root:
                raise ObjectDiffers(
                    f"{self._store.url}: the copy's checkpoint of {before.origin} gives size {before.size} another "
                    "root than the folder's: the log's key signed two histories. Keep both"
                )
            size = 0 if before is None else before.size
            if file == CHECKPOINT_FILE:
                covered = max(size, checkpoint.size)
            if size < checkpoint.size:
                self._tiles(folder, tlog, size, checkpoint)  # 1
            # A copy that goes as far, or further, keeps its own checkpoint.
            newest.append((tlog, file, note if found is None or size < checkpoint.size else found))
        for tlog, _, note in newest:  # 2
            self._replace(f"{folder.name}/{tlog}/{CHECKPOINT_FILE}", note)
        for _, file, note in newest:  # 3
            self._replace(f"{folder.name}/{file}", note)
        return covered

    def _tiles(self, folder: Path, tlog: str, size: int, checkpoint: Checkpoint) -> None:
        """Copy what a tree of the checkpoint's size has and one of `size` has not, after a look at its right edge."""
        published = folder / tlog
        edge = TileEdge.of(
            checkpoint.size,
            [(tile, decode_tile(tile, _published_bytes(published, tile))) for tile in partial_tiles(checkpoint.size)],
        )
        if edge.root() != checkpoint.root:
            raise ObjectDiffers(
                f"{published}: the files of size {checkpoint.size} do not give the root that was signed; nothing was "
                "copied. Run meterproof verify to see what was changed"
            )
        places: list[Tile | Bundle] = [*bundles_between(size, checkpoint.size), *tiles_between(size, checkpoint.size)]

        def put(place: Tile | Bundle) -> int:
            content = _published_bytes(published, place)
            return len(content) if self._store.put(f"{folder.name}/{tlog}/{place.path}", content) else 0

        for size_put in at_once(put, places):
            if size_put:
                self._count(size_put)

    def _name(self, folder: Path, file: Path) -> str:
        return f"{folder.name}/{file.name}"

    def _put(self, name: str, content: bytes | Path, digest: str | None = None) -> None:
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        if self._store.put(name, content, digest):
            self._count(size)

    def _replace(self, name: str, content: bytes) -> None:
        if self._store.get(name) != content:
            self._store.replace(name, content)
            self._count(len(content))

    def _count(self, size: int) -> None:
        self.copied.objects += 1
        self.copied.bytes += size
        self._on_copied(size)


def _events_of(segment: Segment, states: list[SealedFile]) -> bytes:
    """A sealed segment's file of events, in the newest of its states.

    Raises:
        StoreUnavailable: it is being erased from.
        ObjectDiffers: it is in none of them.
    """
    content = segment.sealed_events.read_bytes()
    digest = sha256(content).hexdigest()
    if digest != states[-1].zst_sha256:
        if digest in [state.zst_sha256 for state in (states[0], *erasures_of(segment))]:
            raise StoreUnavailable(f"{segment.sealed_events}: an erasure is under way; run it again when it is done")
        raise ObjectDiffers(f"{segment.sealed_events}: has SHA-256 {digest}, which its manifest does not state")
    return content


def _newest_kept(folder: Path, manifests: list[SegmentManifest]) -> tuple[bytes, bytes] | None:
    """The newest checkpoints of both trees that cover nothing but sealed segments; None if there are none yet."""
    for manifest in reversed(manifests):
        kept = read_kept(Segment(folder, manifest.first))
        if kept is not None:
            return kept
    return None


def _published_bytes(published: Path, place: Tile | Bundle) -> bytes:
    """A tile or bundle of a published folder, cut from a wider one if the tree has grown since.

    Raises:
        FileNotFoundError: there is none.
    """
    unit = HASH_BYTES if isinstance(place, Tile) else len(encode_bundle([bytes(HASH_BYTES)]))
    beside = published / f"{place.full.path}.p"
    for _ in range(2):  # the writer may replace partial ones by the full one meanwhile
        wider = sorted(int(one.name) for one in beside.glob("[0-9]*") if one.name.isdigit()) if beside.is_dir() else []
        names = [f"{place.full.path}.p/{width}" for width in wider if width >= place.width]
        for name in (*names, place.full.path):
            with suppress(FileNotFoundError):
                return (published / name).read_bytes()[: place.width * unit]
    raise DamagedAudit(published / place.path, None, None, "is missing")


def checkpoint_of(note: bytes) -> Checkpoint:
    """What a checkpoint says; nothing is verified.

    Raises:
        ObjectDiffers: it is none.
    """
    try:
        return Checkpoint.parse(SignedNote.parse(note).text)
    except ProofError as error:
        raise ObjectDiffers(f"a checkpoint is none: {error}") from error
