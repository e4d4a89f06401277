"""The sink of the audit worker: one `AuditLog` per partition."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint
from meterproof_proofs.errors import ProofError, WrongOrigin
from meterproof_proofs.note import SignedNote, Verifier
from meterproof_schemas.chain import Cursor
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.log_record import Genesis, LogRecord
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.records_tree import records_origin, records_verifiers
from meterproof_sinks.audit_errors import AuditError, DamagedAudit
from meterproof_sinks.audit_folder import LOG_FILE, log_folder_name, log_folders, read_log_name
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.audit_tree import Signed, SignedPair
from meterproof_sinks.audit_upkeep import carry_out
from meterproof_sinks.disk import Disk
from meterproof_sinks.segment_writer import SegmentLimits
from meterproof_sinks.sink import Density
from meterproof_sinks.tlog_folder import adds_a_signature

_WAITING_MAX: Final = 4_096
"""Checkpoints kept that are ahead of the disk; the smallest go first, for a larger one will do."""
_STOP_POLL_S: Final = 0.5
"""How long publisher and sealer wait at most before they look whether to stop."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger("meterproof.audit")


class AuditSink:
    """The sink of a worker: one `AuditLog` per partition, opened when it is first asked for.

    Promises what `AuditLog` promises, for any number of partitions at once; blocking work is done in threads. Writing
    and publishing do not wait for each other: `publish_until` runs beside the writers. Lives as long as its worker.
    """

    name = "audit"

    def __init__(
        self,
        folder: Path,
        *,
        verifiers: Sequence[Verifier] = (),
        limits: SegmentLimits | None = None,
        disk: Disk | None = None,
    ) -> None:
        """Take the audit folder, which may be missing.

        Args:
            folder: holds one folder per log.
            verifiers: the keys that sign checkpoints; without any, checkpoints are compared with the disk only.
            limits: when segments end.
            disk: the file operations.

        """
        self._folder = folder
        self._verifiers = tuple(verifiers)
        self._limits = limits
        self._disk = disk
        self._logs: dict[int, AuditLog] = {}
        self._waiting: dict[str, dict[tuple[int, int], SignedPair]] = {}
        """By log and sizes: pairs that are not compared with the disk yet."""
        self._waiting_roots: dict[tuple[str, int], bytes] = {}
        """By tree and size: the roots of those pairs."""
        self._due = asyncio.Event()
        """Set when there may be something to publish."""
        self._written = asyncio.Event()
        """Set when a segment may have ended."""
        self._locks: dict[int, asyncio.Lock] = {}

    async def cursor(self, log: int) -> Cursor | None:
        """Where to go on with a partition's log: the last whole record on disk; None if the folder has none of it.

        Raises:
            StageStopped: `log_diverged` when the folder is damaged.
            AuditError: see `AuditLog`, or the folder has two logs of this partition.
        """
        async with self._lock(log):
            opened = self._logs.get(log)
            if opened is None and (found := await asyncio.to_thread(self._find, log)) is not None:
                opened = await self._open(log, *found)
            return None if opened is None else opened.cursor

    async def write(self, partition: int, genesis: Genesis, records: Sequence[tuple[int, LogRecord]]) -> None:
        """Write the next records of a partition, as (log offset, record); returns when they are durable.

        Raises:
            StageStopped: `log_diverged` when they do not continue what is on disk, or a checkpoint contradicts it.
            AuditError: see `AuditLog`.
        """
        if not records:
            return
        async with self._lock(partition):
            log = self._logs.get(partition)
            if log is None:
                folder = self._folder / log_folder_name(genesis.origin)
                log = await self._open(partition, folder, genesis.origin)
            if log.origin != genesis.origin:
                raise StageStopped(
                    StopReason.LOG_DIVERGED,
                    f"{log.folder} holds {log.origin}, but the topic now has {genesis.origin}. Move that folder out of "
                    f"{self._folder} to begin the new log; it stays verifiable where it lies.",
                )
            await asyncio.to_thread(log.append, records)
        self._due.set()
        self._written.set()

    def offer_checkpoints(self, note: bytes, records_note: bytes | None = None) -> None:
        """Take the signed checkpoints of a log's trees from the topic: they are published once all is on disk.

        Notes without a valid signature by one of the keys are told and ignored: anyone may write to a topic.

        Raises:
            StageStopped: `log_diverged` when two that wait contradict each other.
        """
        try:
            events = self._verified(note, None)
            records = None if records_note is None else self._verified(records_note, events.checkpoint.origin)
        except ProofError as error:
            _log.warning("audit_checkpoint_refused", reason=str(error))
            return
        pair = SignedPair(events, records)
        waiting = self._waiting.setdefault(events.checkpoint.origin, {})
        for tree in filter(None, (events, records)):
            self._compare_waiting(tree.checkpoint)
        known = waiting.get(pair.sizes)
        if known is None or adds_a_signature(note, known.events.note):
            waiting[pair.sizes] = pair
        if len(waiting) > _WAITING_MAX:
            self._forget(waiting.pop(min(waiting)))
        self._due.set()

    async def publish(self) -> None:
        """Compare every waiting checkpoint that the disk now covers, and publish the largest of each log.

        Raises:
            StageStopped: `log_diverged` when one contradicts what is on disk.
            AuditDiskError: it cannot be written.
        """
        for log in list(self._logs.values()):
            waiting = self._waiting.get(log.origin, {})
            covered = sorted(sizes for sizes, pair in waiting.items() if log.covers(pair))
            for sizes in covered:
                pair = waiting[sizes]
                if sizes == covered[-1]:
                    await asyncio.to_thread(log.take_checkpoints, pair)
                elif log.has_roots_in_memory(pair):
                    log.compare_checkpoints(pair)
                if waiting.get(sizes) is pair:  # another one with more signatures may have come meanwhile
                    self._forget(waiting.pop(sizes))

    async def publish_until(self, stop: asyncio.Event) -> None:
        """Publish whenever there is something to, until `stop` is set; then once more.

        Raises:
            StageStopped, AuditDiskError: see `publish`.
        """
        while not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), _STOP_POLL_S)
            self._due.clear()
            await self.publish()
        await self.publish()

    async def seal_until(self, stop: asyncio.Event) -> None:
        """Seal segments that have ended, one after the other, until `stop` is set.

        Raises:
            DamagedAudit, AuditDiskError: see `AuditLog.seal_next`.
        """
        while not stop.is_set():
            self._written.clear()
            sealed = [await asyncio.to_thread(log.seal_next) for log in list(self._logs.values())]
            if not any(sealed):
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._written.wait(), _STOP_POLL_S)

    async def carry_out_until(self, stop: asyncio.Event, holds_file: Path) -> None:
        """Do what commands ask of the folders (`audit_upkeep`), until `stop` is set.

        Raises:
            OSError: an outcome cannot be noted, or a request not be removed.
        """
        while not stop.is_set():
            for log in list(self._logs.values()):
                for outcome in await asyncio.to_thread(carry_out, log, holds_file):
                    tell = _log.info if outcome.failure is None else _log.error
                    tell("audit_request_carried_out", log=log.origin, **outcome.model_dump(exclude_none=True))
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _STOP_POLL_S)

    async def density(self, partition: int) -> Density | None:
        """None: a line that is missing or repeated is found when the folder is opened, and by `meterproof verify`."""
        del partition
        return None

    async def close(self) -> None:
        """Let go of all folders."""
        for log in self._logs.values():
            await asyncio.to_thread(log.close)
        self._logs.clear()

    def logs(self) -> dict[int, AuditLog]:
        """The open logs by partition, to look at."""
        return dict(self._logs)

    def _lock(self, partition: int) -> asyncio.Lock:
        return self._locks.setdefault(partition, asyncio.Lock())

    def _find(self, partition: int) -> tuple[Path, str] | None:
        mine: list[tuple[Path, str]] = []
        for folder in log_folders(self._folder):
            try:
                name = read_log_name(folder)
            except DamagedAudit as damage:
                raise _stopped(damage) from damage
            except FileNotFoundError:
                missing = DamagedAudit(folder / LOG_FILE, None, None, "is missing, but segments are there")
                raise _stopped(missing) from None
            if name.partition == partition:
                mine.append((folder, name.origin))
        if len(mine) > 1:
            raise AuditError(
                f"{self._folder}: two logs of partition {partition}: {mine[0][0].name} and {mine[1][0].name}. Move the "
                "older one out of the folder; it stays verifiable where it lies."
            )
        return mine[0] if mine else None

    async def _open(self, partition: int, folder: Path, origin: str) -> AuditLog:
        def opened() -> AuditLog:
            return AuditLog(folder, origin, partition, limits=self._limits, disk=self._disk)

        try:
            log = self._logs[partition] = await asyncio.to_thread(opened)
        except DamagedAudit as damage:
            raise _stopped(damage) from damage
        return log

    def _compare_waiting(self, checkpoint: Checkpoint) -> None:
        root = self._waiting_roots.setdefault((checkpoint.origin, checkpoint.size), checkpoint.root)
        if root != checkpoint.root:
            raise StageStopped(
                StopReason.LOG_DIVERGED,
                f"two signed checkpoints of {checkpoint.origin} give size {checkpoint.size} different roots: the log's "
                "key signed two histories. Keep both and ask the log's owner.",
            )

    def _forget(self, pair: SignedPair) -> None:
        for tree in filter(None, (pair.events, pair.records)):
            self._waiting_roots.pop((tree.checkpoint.origin, tree.checkpoint.size), None)

    def _verified(self, note: bytes, log: str | None) -> Signed:
        """The checkpoint of a log, or of the second tree of `log`."""
        if not self._verifiers:
            checkpoint = Checkpoint.parse(SignedNote.parse(note).text)
        elif log is None:
            checkpoint = open_checkpoint(note, self._verifiers)
        else:
            trusted = [key for key in self._verifiers if key.name == log] or self._verifiers
            checkpoint = open_checkpoint(note, records_verifiers(trusted, log))
        if log is not None and checkpoint.origin != records_origin(log):
            raise WrongOrigin(records_origin(log), checkpoint.origin)
        return Signed(checkpoint, note)


def _stopped(damage: DamagedAudit) -> StageStopped:
    """How a worker stops for a person because of damage."""
    return StageStopped(
        StopReason.LOG_DIVERGED,
        f"the audit folder is not as it was written: {damage}. Nothing was changed. Keep it for evidence and put a "
        "copy that verifies in its place, or move it away and let the worker write it anew from the topic",
    )
