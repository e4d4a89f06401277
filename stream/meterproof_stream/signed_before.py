"""What was signed for a log before, as far as anybody remembers: the signer must be consistent with all of it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from meterproof_proofs.checkpoint import Checkpoint
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.records_tree import records_origin

_LOG_FILE: Final = "log.json"
_CHECKPOINT_FILES: Final = ("checkpoint", "records-checkpoint")


@dataclass(frozen=True, slots=True)
class Remembered:
    """A signed checkpoint of one of a log's two trees, verified, and where it was found."""

    checkpoint: Checkpoint
    where: str


class SigningMemory(Protocol):
    """Something that remembers signed checkpoints besides Kafka, best where Kafka's faults do not reach."""

    where: str
    """For messages to operators."""

    def notes(self, origin: str) -> list[bytes]:
        """The largest signed checkpoints of a log's trees that it knows: at most one each, none if it knows none.

        Raises:
            OSError: it cannot be read.
        """


class AuditMemory:
    """The audit folder as a memory: what the audit sink took as its own.

    Reads only, when it is asked, and holds nothing open.
    """

    def __init__(self, folder: Path) -> None:
        self.where = f"the audit folder {folder}"
        self._folder = folder

    def notes(self, origin: str) -> list[bytes]:
        """See `SigningMemory.notes`."""
        if not self._folder.is_dir():
            return []
        for named in sorted(self._folder.glob(f"*/{_LOG_FILE}")):
            try:
                found = json.loads(named.read_bytes())["origin"]
            except (ValueError, KeyError, TypeError):
                continue  # the audit sink and the verifier deal with a folder that is damaged
            if found == origin:
                files = [named.with_name(name) for name in _CHECKPOINT_FILES]
                return [file.read_bytes() for file in files if file.exists()]
        return []


class SignedBefore:
    """The roots that were signed for a log and that the log, read from its base on, must give again.

    Promises: `meet` raises unless every root remembered for a size is the root that the log gives at this size. Lives
    as long as the lane that it guards.
    """

    def __init__(self, remembered: Iterable[Remembered]) -> None:
        """Take what is remembered.

        Raises:
            StageStopped: `log_diverged` when two memories have different roots for a size.
        """
        self._due: dict[str, list[Remembered]] = {}
        roots: dict[tuple[str, int], Remembered] = {}
        for one in remembered:
            checkpoint = one.checkpoint
            known = roots.setdefault((checkpoint.origin, checkpoint.size), one)
            if known.checkpoint.root != checkpoint.root:
                raise _diverged(
                    f"{known.where} and {one.where} hold two signed roots for size {checkpoint.size} of "
                    f"{checkpoint.origin}. Keep both: the log's key signed two histories."
                )
            if known is one:
                self._due.setdefault(checkpoint.origin, []).append(one)
        for due in self._due.values():
            due.sort(key=lambda one: one.checkpoint.size, reverse=True)

    def meet(self, origin: str, size: int, root: bytes) -> None:
        """Compare the root that the log gives at a size with those that were signed up to there.

        Raises:
            StageStopped: `log_diverged` when another one was signed, or one for a size that the log passes over.
        """
        due = self._due.get(origin)
        while due and due[-1].checkpoint.size <= size:
            signed = due.pop()
            if (signed.checkpoint.size, signed.checkpoint.root) != (size, root):
                raise _diverged(
                    f"{signed.where} holds a signed checkpoint of {origin} at size {signed.checkpoint.size} with root "
                    f"{signed.checkpoint.root.hex()}, which the log in Kafka does not give: at size {size} it has root "
                    f"{root.hex()}. Nothing was signed. Keep both and compare them; put the log back that was signed."
                )

    def must_be_met(self) -> None:
        """Return if the log, read to its end, reached everything that was signed.

        Raises:
            StageStopped: `log_diverged` when more was signed than the log holds.
        """
        for origin, due in self._due.items():
            if due:
                ahead = due[0]
                raise _diverged(
                    f"{ahead.where} holds a signed checkpoint of {origin} at size {ahead.checkpoint.size}, but the log "
                    "in Kafka ends before it: Kafka was restored from an older copy, or lost acknowledged records. "
                    "Nothing was signed. Restore the newer records from the audit folder's log or a newer copy of "
                    "Kafka; or begin a new deployment with empty topics, whose logs have other names."
                )

    @property
    def is_met(self) -> bool:
        """Whether nothing is left to be compared."""
        return not any(self._due.values())


def trees_of(origin: str) -> tuple[str, str]:
    """The names of a log's two trees."""
    return origin, records_origin(origin)


def _diverged(detail: str) -> StageStopped:
    return StageStopped(StopReason.LOG_DIVERGED, detail)
