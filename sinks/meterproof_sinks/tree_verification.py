"""Verify one of a log's two trees: its signed checkpoints and its published files beside what the lines lead to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint
from meterproof_proofs.derived_tree import DerivedTree
from meterproof_proofs.errors import BadTile, MissingTile, ProofError
from meterproof_proofs.note import Verifier
from meterproof_proofs.published_files import FileComparison, PublishedFiles
from meterproof_proofs.tiles import TILE_WIDTH
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_sinks.audit_errors import DamagedAudit
from meterproof_sinks.audit_folder import CHECKPOINT_FILE
from meterproof_sinks.disk import NEW_SUFFIX
from meterproof_sinks.remembered_checkpoints import RememberedCheckpoint
from meterproof_sinks.tree_stretch import TreeStretch
from meterproof_sinks.verification_report import LogReport

_DERIVED_ON_START: Final = "if the audit worker was killed, its next start writes what is missing"


class TreeVerification:
    """One of a log's two trees: its signed checkpoint and its published files beside the derived roots and entries.

    Lives for one pass over the log. Read it before the records: what is covered by one file is then in the next.
    """

    def __init__(self, report: LogReport, file: Path, tlog: Path, what: str) -> None:
        self.file = file
        self.checkpoint: Checkpoint | None = None
        """The signed checkpoint, if a key given signed it; `compare` says whether it holds."""
        self.holds = False
        """Whether the signed root follows from the lines."""
        self.tlog_size: int | None = None
        """Entries that the published files were signed for, if they hold."""
        self.tree = DerivedTree()
        self._report = report
        self._tlog_folder = tlog
        self._what = what
        self._size = 0
        self._wanted: set[int] = set()
        """Sizes at which a checkpoint stands."""
        self._roots: dict[int, bytes] = {}
        """The derived roots there, once they were reached."""
        self._published: Checkpoint | None = None
        self._remembered: list[RememberedCheckpoint] = []
        self._tlog: PublishedFiles | None = None

    @property
    def files(self) -> int:
        """Published files that were derived again and compared."""
        return 0 if self._tlog is None else self._tlog.files

    def read(self, verifiers: Sequence[Verifier], origin: str, remembered: Sequence[RememberedCheckpoint]) -> None:
        """Read the published checkpoint, then the log's own; take those remembered that are of this tree."""
        published_note = self._note(self._tlog_folder / CHECKPOINT_FILE)
        note = self._note(self.file)
        self._read_published(published_note, note, verifiers, origin)
        if note is not None:
            self.checkpoint = self._opened(self.file, note, verifiers, origin)
        self._remembered = [one for one in remembered if one.checkpoint.origin == origin]
        own = [one for one in (self.checkpoint, self._published) if one is not None]
        self._wanted.update(one.size for one in (*own, *(one.checkpoint for one in self._remembered)))

    def resume(self, size: int, hashes: Sequence[bytes]) -> bool:
        """Go on behind the first `size` entries, which led to this frontier before; False if that cannot be.

        The published files of these entries are compared as all others, from the entries in the published bundles.
        """
        if self._tlog is None:
            if any(0 < wanted < size for wanted in self._wanted):
                return False  # what the lines give there is not known
            self.tree, self._size = DerivedTree.of(size, hashes), size
            if size in self._wanted:
                self._roots[size] = self.tree.frontier().root()
            return True
        try:
            for entries in self._tlog.entries(size):
                self.take_all(entries)
        except (BadTile, MissingTile):
            return False
        return self.tree.hashes == list(hashes)

    def take(self, entries: Sequence[bytes]) -> list[bytes]:
        """Take the entries of the next record; their leaf hashes."""
        leaves = leaf_hashes(entries)
        roots = self.tree.extend(leaves)
        self._size += len(entries)
        if self._size in self._wanted:
            self._roots[self._size] = self.tree.frontier().root()
        if self._tlog is not None:
            self._tlog.take(entries, leaves, roots)
        return leaves

    def take_all(self, entries: Sequence[bytes]) -> None:
        """Take the entries of many records, each of which may end where a checkpoint stands."""
        at = 0
        for end in (*sorted(size - self._size for size in self._wanted), len(entries)):
            if at < end <= len(entries):
                self.take(entries[at:end])
                at = end

    def split_off(self, size: int, end: int | None) -> tuple[frozenset[int], FileComparison | None]:
        """What somebody else needs to follow the entries from number `size` to `end`, if any, beside the frontier.

        The sizes whose roots are asked for, and the published files of the full tiles that begin and end there; these
        must come back, with `absorb` or `put_back`.
        """
        last = None if end is None else end // TILE_WIDTH
        files = None if self._tlog is None else self._tlog.part(-(-size // TILE_WIDTH), last)
        return frozenset(wanted for wanted in self._wanted if size < wanted and (end is None or wanted <= end)), files

    def put_back(self, files: FileComparison | None) -> None:
        """Take back files that nobody compared."""
        if self._tlog is not None and files is not None:
            self._tlog.put_back(files)

    def absorb(self, stretch: TreeStretch) -> None:
        """Go on behind a stretch that began where this tree is now."""
        self.tree, self._size = stretch.tree, stretch.tree.size
        self._roots |= stretch.roots
        if self._tlog is not None and stretch.comparison is not None:
            lead_tiles = 1 if stretch.has_lead else 0
            self._tlog.take(*stretch.lead, stretch.tiles[:lead_tiles])
            self._tlog.take_part(stretch.comparison, stretch.tiles[lead_tiles:])
            self._tlog.take(*stretch.tail, [])

    def compare(self, *, whole: bool) -> None:
        """Compare both checkpoints, the right edge, and look for files that are missing; `whole`: all was followed."""
        self._compare_own()
        self._compare_published(whole=whole)
        if whole:
            self._compare_remembered()

    def _compare_own(self) -> None:
        checkpoint, report = self.checkpoint, self._report
        if checkpoint is None:
            return
        root = self._roots.get(checkpoint.size)
        self.holds = root == checkpoint.root
        if self.holds:
            return
        if checkpoint.size > self._size:
            fault = f"{checkpoint.size} {self._what} are signed for, but only {self._size} are here and hold"
            report.faults.append(DamagedAudit(self.file, 2, report.events, fault))
        elif root is None:
            fault = "the signed size is not the end of any record"
            report.faults.append(DamagedAudit(self.file, 2, checkpoint.size, fault))
        else:
            fault = f"the signed root of size {checkpoint.size} is not {root.hex()}, which follows from the lines"
            report.faults.append(DamagedAudit(self.file, 3, 0, fault))

    def _compare_remembered(self) -> None:
        for one in self._remembered:
            size, root = one.checkpoint.size, self._roots.get(one.checkpoint.size)
            if size == 0 or root == one.checkpoint.root:
                continue
            if size > self._size:
                fault = (
                    f"{size} {self._what} were signed for when it was kept, and only {self._size} are here: rolled back"
                )
            elif root is None:
                fault = f"size {size}, which was signed for, is not the end of any record any more"
            else:
                fault = f"the root signed for size {size} is not {root.hex()}, which follows from the lines: a fork"
            self._report.faults.append(DamagedAudit(one.file, 2, None, fault))

    def _read_published(self, note: bytes | None, own: bytes | None, keys: Sequence[Verifier], origin: str) -> None:
        """The published checkpoint if a key given signed it; says so if it is not the log's own.

        While a writer is at work, it may be an earlier one.
        """
        folder, report = self._tlog_folder, self._report
        file = folder / CHECKPOINT_FILE
        if not folder.is_dir():
            return
        self._tlog = PublishedFiles(folder, writer_running=report.writer_running, unfinished_suffix=NEW_SUFFIX)
        if note is None:
            if own is not None and not report.writer_running:
                report.faults.append(DamagedAudit(file, None, None, f"is missing; {_DERIVED_ON_START}"))
            return
        self._published = published = self._opened(file, note, keys, origin)
        if published is not None and note != own and not report.writer_running:
            fault = f"of size {published.size}, is not the log's own {self.file.name}; {_DERIVED_ON_START}"
            report.faults.append(DamagedAudit(file, None, None, fault))

    def _compare_published(self, *, whole: bool) -> None:
        tlog, published = self._tlog, self._published
        if tlog is None:
            return
        holds = published is not None and self._roots.get(published.size) == published.root
        if published is not None and whole and not holds:
            fault = f"the signed root of size {published.size} does not follow from the lines"
            self._report.faults.append(DamagedAudit(self._tlog_folder / CHECKPOINT_FILE, 3, None, fault))
        if whole:
            tlog.finish(published.size if published is not None and holds else None)
        self._report.faults.extend(DamagedAudit(one.file, None, one.position, one.fault) for one in tlog.faults)
        if published is not None and holds and not tlog.faults:
            self.tlog_size = published.size

    def _opened(self, file: Path, note: bytes, verifiers: Sequence[Verifier], origin: str) -> Checkpoint | None:
        try:
            return open_checkpoint(note, verifiers, origin=origin)
        except ProofError as error:
            self._report.faults.append(DamagedAudit(file, getattr(error, "line", None), None, str(error)))
            return None

    def _note(self, file: Path) -> bytes | None:
        try:
            return file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._report.faults.append(DamagedAudit(file, None, None, f"cannot be read: {error.strerror}"))
            return None
