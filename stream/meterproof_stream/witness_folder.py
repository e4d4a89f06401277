"""A folder on another volume that remembers the largest checkpoint of each tree: a witness that is ours.

```
<folder>/<SHA-256 of the origin>/checkpoint     the signed note, where a tlog-witness would serve it
<folder>/lock                                   held for the instant of comparing and writing
```
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from meterproof.durable_file import replace_durably, sync_folder
from meterproof_proofs.checkpoint import Checkpoint
from meterproof_proofs.note import SignedNote
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.reasons import StopReason
from meterproof_stream.signed_before import trees_of

RootAt = Callable[[str, int], bytes | None]
"""Given origin and size, returns the root; None where it is not known."""

_FOLDER_MODE: Final = 0o750
_FILE_MODE: Final = 0o640


class WitnessFolder:
    """A memory that a checkpointer writes before it publishes.

    Promises: what `remember` returned from is on the device; it never replaces a checkpoint by a smaller one, nor by
    another root for its size, whoever else writes into the folder. Blocking. Stateless but for the files.
    """

    def __init__(self, folder: Path) -> None:
        self.where = f"the witness folder {folder}"
        self._folder = folder

    def notes(self, origin: str) -> list[bytes]:
        """See `SigningMemory.notes`."""
        found: list[bytes] = []
        for tree in trees_of(origin):
            with suppress(FileNotFoundError):
                found.append(self._file(tree).read_bytes())
        return found

    def remember(self, notes: Sequence[bytes], root_at: RootAt) -> None:
        """Make signed checkpoints of one log's trees the folder's, all or, if one contradicts it, none.

        1. Under the lock, compare each with what is there. 2. Replace what is there, durably.

        Args:
            notes: the checkpoints, at most one per tree.
            root_at: what the signer's own log gives at a size that was signed since it last called this.

        Raises:
            StageStopped: `fenced` when a larger one is there: another checkpointer is ahead; `log_diverged` when its
                size has another root there, or what is there is none of the signer's log.
            OSError: it cannot be written; nothing may be published then.
        """
        self._folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        with self._locked():
            read = [(Checkpoint.parse(SignedNote.parse(note).text), note) for note in notes]
            for checkpoint, _ in read:  # 1
                self._compare(checkpoint, root_at)
            for checkpoint, note in read:  # 2
                file = self._file(checkpoint.origin)
                if not file.parent.is_dir():
                    file.parent.mkdir(mode=_FOLDER_MODE)
                    sync_folder(self._folder)
                replace_durably(file, note, mode=_FILE_MODE)

    def _compare(self, checkpoint: Checkpoint, root_at: RootAt) -> None:
        try:
            note = self._file(checkpoint.origin).read_bytes()
        except FileNotFoundError:
            return
        known = Checkpoint.parse(SignedNote.parse(note).text)
        if known.size > checkpoint.size:
            raise StageStopped(
                StopReason.FENCED,
                f"{self.where} holds a checkpoint of {known.origin} at size {known.size}, larger than the "
                f"{checkpoint.size} that was to be signed: another checkpointer of this log is ahead. One per log.",
            )
        root = checkpoint.root if known.size == checkpoint.size else root_at(known.origin, known.size)
        if known.root != root:
            raise StageStopped(
                StopReason.LOG_DIVERGED,
                f"{self.where} holds a signed checkpoint of {known.origin} at size {known.size} with root "
                f"{known.root.hex()}, which this signer's log does not give. Nothing was published. Keep both, and "
                "compare the log in Kafka with the audit folder.",
            )

    def _file(self, origin: str) -> Path:
        return self._folder / sha256(origin.encode()).hexdigest() / "checkpoint"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
