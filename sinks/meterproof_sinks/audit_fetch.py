"""Bring an audit folder back from its copy in an object store: what its manifests and checkpoints speak for."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from meterproof_proofs.tiles import bundles_of, tiles_of
from meterproof_sinks.audit_copy import TREES, checkpoint_of
from meterproof_sinks.audit_errors import LockedAudit
from meterproof_sinks.audit_folder import CHECKPOINT_FILE, LOG_FILE, read_log_name
from meterproof_sinks.audit_lock import writer_is_running
from meterproof_sinks.audit_segment import MANIFEST_SUFFIX, Segment
from meterproof_sinks.disk import NEW_SUFFIX, Disk, naming
from meterproof_sinks.given_up import GIVEN_UP_FILE, parse_given_up
from meterproof_sinks.object_store import ObjectDiffers, ObjectStore, StoreProblem, at_once
from meterproof_sinks.price_book_folder import PRICES_FOLDER
from meterproof_sinks.segment_manifest import NO_MANIFEST, SegmentManifest
from meterproof_sinks.segment_sealing import erasures_of


@dataclass(slots=True)
class Fetched:
    """What was brought back."""

    files: int = 0
    """Written; those that were there with the same content are not counted."""
    bytes: int = 0
    logs: dict[str, int] = field(default_factory=dict)
    """Events in sealed segments, by origin."""
    covered: dict[str, int] = field(default_factory=dict)
    """Of these, covered by the signed checkpoint."""
    not_there: list[str] = field(default_factory=list)
    """Objects of segments that the copy has not, because they had been given up before they were copied."""


OnFetched = Callable[[int], None]
"""Called with the bytes of each file that was written."""


def fetch_audit(store: ObjectStore, audit: Path, on_fetched: OnFetched = lambda _: None) -> Fetched:
    """Write the copy into a folder, which is then an audit folder; a run that was cut off goes on.

    Per log: 1. its published checkpoints are read: whatever they speak for was in the copy before them. 2. Segment by
    segment, the files are written and compared with the manifest, then the manifest. 3. The tiles. 4. The checkpoints.

    Nothing is verified but digests: `meterproof verify` does that, on what this wrote.

    Raises:
        ObjectDiffers: an object is not what the copy says that it is, or a file in the folder is another one.
        StoreProblem: the store cannot be used, or has no copy there.
        LockedAudit: a sink writes into the folder.
        OSError: the folder cannot be written.
    """
    fetch = _Fetch(store, audit, on_fetched)
    folders = store.folders()
    logs = [name for name in folders if name != PRICES_FOLDER and fetch.log(name)]
    if not logs:
        raise StoreProblem(f"{store.url}: no copy of an audit folder is there, or nothing of it that counts yet")
    if PRICES_FOLDER in folders:
        for name in sorted(store.names(PRICES_FOLDER)):
            fetch.write(name, fetch.content(name))
    return fetch.fetched


class _Fetch:
    """One run. Lives for it."""

    def __init__(self, store: ObjectStore, audit: Path, on_fetched: OnFetched) -> None:
        self.fetched = Fetched()
        self._store = store
        self._audit = audit
        self._on_fetched = on_fetched
        self._disk = Disk()

    def log(self, name: str) -> bool:
        """Bring one log; False if nothing of it counts yet."""
        notes = [self._store.get(f"{name}/{tlog}/{CHECKPOINT_FILE}") for tlog, _ in TREES]  # 1
        there = self._store.names(name)
        manifests = self._manifests(there)
        below = self._given_up_below(name, manifests, there)
        manifests = self._whole(name, manifests, there, below)
        if not manifests:
            return False
        if writer_is_running(self._audit / name):
            raise LockedAudit(f"{self._audit / name}: the audit sink is at work; stop it, or fetch into another folder")
        self.write(f"{name}/{LOG_FILE}", self.content(f"{name}/{LOG_FILE}"))
        origin = read_log_name(self._audit / name).origin
        self.fetched.logs[origin], self.fetched.covered[origin] = manifests[-1].end.size, 0
        if below:
            self._replace(f"{name}/{GIVEN_UP_FILE}", self.content(f"{name}/{GIVEN_UP_FILE}"))
        for manifest in manifests:  # 2
            if manifest.end.size > below:
                self._segment(name, manifest, there)
            self.write(f"{name}/{Segment(self._audit / name, manifest.first).manifest.name}", manifest.content)
        for (tlog, file), note in zip(TREES, notes, strict=True):
            if note is None:
                continue
            size = checkpoint_of(note).size
            self._tree(list(_tree_paths(f"{name}/{tlog}", size)))  # 3
            for path in (f"{name}/{file}", f"{name}/{tlog}/{CHECKPOINT_FILE}"):  # 4
                self._checkpoint(path, note)
            if file == CHECKPOINT_FILE:
                self.fetched.covered[origin] = size
                if size > manifests[-1].end.size:
                    raise ObjectDiffers(
                        f"{self._store.url}: {size} entries of {origin} are signed for, and objects behind the first "
                        f"{manifests[-1].end.size} are missing"
                    )
        return True

    def _manifests(self, there: dict[str, int]) -> list[SegmentManifest]:
        """All manifests of the copy of a log, oldest first, each naming the one before it."""
        manifests: list[SegmentManifest] = []
        for manifest_name in sorted(one for one in there if one.endswith(MANIFEST_SUFFIX)):
            content = self.content(manifest_name)
            try:
                manifest = SegmentManifest.model_validate_json(content)
            except ValidationError as error:
                raise ObjectDiffers(f"{self._store.url}: {manifest_name} is no manifest") from error
            previous = manifests[-1].digest if manifests else NO_MANIFEST
            if manifest.previous != previous or manifest.content != content:
                raise ObjectDiffers(
                    f"{self._store.url}: {manifest_name} names {manifest.previous} as the manifest before it, and that "
                    f"has SHA-256 {previous}: one of them was changed or removed"
                )
            manifests.append(manifest)
        return manifests

    def _given_up_below(self, name: str, manifests: list[SegmentManifest], there: dict[str, int]) -> int:
        """First position that is kept, if the copy says that others were given up and has what it speaks of; else 0."""
        given_up = f"{name}/{GIVEN_UP_FILE}"
        if given_up not in there:
            return 0
        below = parse_given_up(self._audit / given_up, self.content(given_up))[-1].below
        return below if any(manifest.end.size == below for manifest in manifests) else 0

    def _whole(
        self, name: str, manifests: list[SegmentManifest], there: dict[str, int], below: int
    ) -> list[SegmentManifest]:
        """The manifests that count: up to the first one of which a file is not there, without being given up."""
        counting: list[SegmentManifest] = []
        for manifest in manifests:
            segment = Segment(self._audit / name, manifest.first)
            files = (segment.sealed_events, segment.sealed_records)
            if manifest.end.size > below and not all(f"{name}/{file.name}" in there for file in files):
                self.fetched.not_there.append(f"{name}/{segment.sealed_events.name}")
                break
            counting.append(manifest)
        return counting if counting and counting[-1].end.size > below else []

    def _checkpoint(self, name: str, note: bytes) -> None:
        file = self._audit / name
        if file.is_file() and checkpoint_of(file.read_bytes()).size > checkpoint_of(note).size:
            raise ObjectDiffers(f"{file} goes further than the copy; fetch into an empty folder")
        self._replace(name, note)

    def _segment(self, name: str, manifest: SegmentManifest, there: dict[str, int]) -> None:
        segment = Segment(self._audit / name, manifest.first)
        erasures = f"{name}/{segment.erasures.name}"
        if erasures in there:
            self._replace(erasures, self.content(erasures))
        events = [manifest.files.events, *erasures_of(segment)]
        for file, states in ((segment.sealed_events, events), (segment.sealed_records, [manifest.files.records])):
            self._stream(f"{name}/{file.name}", [state.zst_sha256 for state in states])

    def _tree(self, paths: list[str]) -> None:
        """Bring those tiles and bundles that are not there, several at a time, and sync their folders."""
        missing = [path for path in paths if not (self._audit / path).is_file()]
        folders = sorted({(self._audit / path).parent for path in missing})
        for folder in folders:
            self._make_folder(folder)

        def bring(path: str) -> int:
            content = self.content(path)
            self._disk.put(self._audit / path, content)
            return len(content)

        for size in at_once(bring, missing):
            self._count(size)
        for folder in folders:
            self._disk.sync_folder(folder)

    def content(self, name: str) -> bytes:
        """An object's content.

        Raises:
            ObjectDiffers: it is not there, though others speak for it.
            StoreProblem: it cannot be read.
        """
        content = self._store.get(name)
        if content is None:
            raise ObjectDiffers(f"{self._store.url}: {name} is missing; something that speaks for it is there")
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file that never changes; one that is there must be equal."""
        file = self._audit / name
        if file.is_file():
            if file.read_bytes() != content:
                raise ObjectDiffers(f"{file} is there with other content than the copy has; fetch into an empty folder")
            return
        self._replace(name, content)

    def _replace(self, name: str, content: bytes) -> None:
        file = self._audit / name
        if file.is_file() and file.read_bytes() == content:
            return
        self._make_folder(file.parent)
        self._disk.replace(file, content)
        self._count(len(content))

    def _stream(self, name: str, digests: list[str]) -> None:
        """Write a large file, whose SHA-256 must be one of those given; the last is the newest."""
        file = self._audit / name
        if file.is_file():
            with file.open("rb") as opened:
                if hashlib.file_digest(opened, "sha256").hexdigest() == digests[-1]:
                    return
        self._make_folder(file.parent)
        beside = file.with_name(file.name + NEW_SUFFIX)
        if beside.exists():
            self._disk.remove(beside)
        digest = hashlib.sha256()
        descriptor = self._disk.open_append(beside)
        try:
            with naming(file):
                size = self._copy(self._store.chunks(name), descriptor, digest.update)
            self._disk.sync(descriptor)
        finally:
            os.close(descriptor)
        if digest.hexdigest() not in digests:
            self._disk.remove(beside)
            raise ObjectDiffers(
                f"{self._store.url}: {name} has SHA-256 {digest.hexdigest()}; its manifest states {digests[-1]}"
            )
        self._disk.rename(beside, file)
        self._disk.sync_folder(file.parent)
        self._count(size)

    def _copy(self, chunks: Iterable[bytes], descriptor: int, update: Callable[[bytes], None]) -> int:
        size = 0
        for chunk in chunks:
            update(chunk)
            self._disk.append(descriptor, chunk)
            size += len(chunk)
        return size

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            self._make_folder(folder.parent)
            self._disk.make_folder(folder)
            self._disk.sync_folder(folder.parent)

    def _count(self, size: int) -> None:
        self.fetched.files += 1
        self.fetched.bytes += size
        self._on_fetched(size)


def _tree_paths(tlog: str, size: int) -> Iterator[str]:
    for bundle in bundles_of(size):
        yield f"{tlog}/{bundle.path}"
    for tile in tiles_of(size):
        yield f"{tlog}/{tile.path}"
