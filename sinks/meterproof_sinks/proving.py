"""Make proofs from an audit folder: what is in them is verified against the tiles, and against nothing but the folder.

Nothing is signed here, and no key is needed: the checkpoints that the folder holds are put into the proofs as they are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from meterproof_proofs.checkpoint import Checkpoint
from meterproof_proofs.errors import ProofError
from meterproof_proofs.event_proof import EventProof, canonical_signatures, read_signatures
from meterproof_proofs.frontier import batch_root
from meterproof_proofs.note import SignedNote
from meterproof_proofs.tile_proofs import TileTree
from meterproof_proofs.tlog_proof import TlogProof
from meterproof_proofs.tree import inclusion_proof, leaf_hash
from meterproof_schemas.batch import BatchHeader
from meterproof_schemas.errors import first_fault
from meterproof_schemas.event import entry_of
from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.records_tree import head_entry, head_of
from meterproof_sinks.audit_folder import CHECKPOINT_FILE, RECORDS_TLOG_FOLDER, TLOG_FOLDER
from meterproof_sinks.erased import entry_of_kept
from meterproof_sinks.event_search import FoundEvent

_RUN_VERIFY: Final = "run meterproof verify to see what was changed"


class CannotProve(Exception):
    """The folder does not give a proof; the text says why and what to do."""


class PublishedTree:
    """One of a log's two trees as its folder publishes it, for making proofs. Lives for one command.

    Every hash it hands out leads to the root of the checkpoint that lies beside the tiles. That checkpoint's signature
    is not looked at: whoever gets the proof does.
    """

    def __init__(self, log: Path, folder_name: str) -> None:
        """Open a tree.

        Args:
            log: the log's folder.
            folder_name: `tlog` or `records-tlog`.

        Raises:
            CannotProve: it was not signed yet, or its files do not hold.

        """
        self._folder = log / folder_name
        try:
            self.note = (self._folder / CHECKPOINT_FILE).read_bytes()
        except FileNotFoundError:
            raise CannotProve(
                f"{self._folder}: holds no signed checkpoint, so nothing can be proved; the checkpointer and the audit "
                "sink must have run"
            ) from None
        try:
            self.checkpoint = Checkpoint.parse(SignedNote.parse(self.note).text)
            self.tree = TileTree(self.checkpoint.size, self.checkpoint.root, self._read)
        except ProofError as error:
            raise CannotProve(f"{self._folder}: {error}; {_RUN_VERIFY}") from error

    def proof_of(self, index: int, entry: bytes, what: str) -> TlogProof:
        """The proof that `entry` is entry `index`.

        Raises:
            CannotProve: no checkpoint covers it yet, or the files do not hold.
        """
        self.check(index, entry, what)
        try:
            return TlogProof(index, tuple(self.tree.inclusion_proof(index)), self.note)
        except ProofError as error:
            raise CannotProve(f"{self._folder}: {error}; {_RUN_VERIFY}") from error

    def multi_proof(self, entries: Mapping[int, bytes]) -> tuple[bytes, ...]:
        """One proof for all these entries; each is what the tiles hold.

        Raises:
            CannotProve: no checkpoint covers one of them yet, or the files do not hold.
        """
        for index, entry in entries.items():
            self.check(index, entry, "one of the entries wanted")
        try:
            return tuple(self.tree.multi_proof(sorted(entries)))
        except ProofError as error:
            raise CannotProve(f"{self._folder}: {error}; {_RUN_VERIFY}") from error

    def check(self, index: int, entry: bytes, what: str) -> None:
        """Return if entry `index` is `entry`.

        Raises:
            CannotProve: no checkpoint covers it yet, or the files do not hold.
        """
        if index >= self.checkpoint.size:
            raise CannotProve(
                f"{what} is entry {index} of {self.checkpoint.origin}, and the newest checkpoint here covers "
                f"{self.checkpoint.size}: try again when the next one is signed"
            )
        try:
            logged = self.tree.leaf_hash(index)
        except ProofError as error:
            raise CannotProve(f"{self._folder}: {error}; {_RUN_VERIFY}") from error
        if logged != leaf_hash(entry):
            raise CannotProve(f"{self._folder}: entry {index} is not {what} as it stands in the lines; {_RUN_VERIFY}")

    def _read(self, path: str) -> bytes | None:
        try:
            return (self._folder / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None


def prove(found: FoundEvent, line: bytes | None = None) -> EventProof:
    """The proof of what became of an event.

    Args:
        found: an accepted event, or a verdict.
        line: the event's line where the log does not hold it, so that the proof shows it; else it shows the digest.

    Raises:
        CannotProve: no checkpoint covers it yet, or the folder does not hold.
    """
    record, index = found.record, found.batch_line
    path = () if index is None else _path(record, index)
    if found.line is not None and found.position is not None:
        tlog_proof = PublishedTree(found.folder, TLOG_FOLDER).proof_of(
            found.position, entry_of(found.line), "the event"
        )
        header_line, signatures_line = record.carried or (b"", b"")
        # No signature covers their spelling, and none of the log's two trees is in the proof that would: one spelling.
        respelled = canonical_signatures(read_signatures(signatures_line))
        return EventProof("event", found.line, (header_line, respelled), index, path, None, tlog_proof)
    tlog_proof = PublishedTree(found.folder, RECORDS_TLOG_FOLDER).proof_of(
        found.record_number, head_entry(head_of(record)), "the record with the verdict"
    )
    if index is None:
        digest = b"" if record.header.source is None else bytes.fromhex(record.header.source.digest or "")
        return EventProof("source-record", digest, record.carried, None, (), record.header_line, tlog_proof)
    entry = next(bytes.fromhex(entry) for number, _, entry in record.header.not_accepted if number == index)
    if line is not None:
        return EventProof("event", line, record.carried, index, path, record.header_line, tlog_proof)
    return EventProof("entry", entry, record.carried, index, path, record.header_line, tlog_proof)


def batch_leaves(record: LogRecord) -> list[bytes]:
    """The leaf hashes of all lines of a record's batch, from the accepted lines and what the record says of the others.

    Raises:
        CannotProve: together they do not give the root that the producer signed.
    """
    leaves: list[bytes] = []
    refused = {number: bytes.fromhex(entry) for number, _, entry in record.header.not_accepted}
    accepted = iter(record.lines)
    for number in range(len(refused) + len(record.lines)):
        entry = refused.get(number)
        if entry is None:
            entry = entry_of_kept(next(accepted, b""))
        leaves.append(leaf_hash(entry))
    try:
        header = BatchHeader.model_validate_json((record.carried or (b"",))[0])
    except ValidationError as error:
        raise CannotProve(f"the batch's header cannot be read: {first_fault(error)}; {_RUN_VERIFY}") from error
    if len(leaves) != header.count or batch_root(leaves).hex() != header.root:
        raise CannotProve(f"the batch's lines do not give the root that its producer signed; {_RUN_VERIFY}")
    return leaves


def _path(record: LogRecord, index: int) -> tuple[bytes, ...]:
    leaves = batch_leaves(record)
    return tuple(inclusion_proof(leaves, index, len(leaves)))
