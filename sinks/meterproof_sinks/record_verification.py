"""Verify a log's records one after another: the chain, the lines, what each record states of the tree, its batch."""

from collections.abc import Callable, Sequence
from typing import Protocol

from meterproof_proofs.derived_tree import DerivedTree
from meterproof_schemas.chain import LogChain
from meterproof_schemas.event import entries_of
from meterproof_schemas.log_record import LogRecord, RecordHeader
from meterproof_schemas.records_tree import head_entry, head_of
from meterproof_sinks.audit_errors import DamagedAudit
from meterproof_sinks.audit_folder import follow_stored
from meterproof_sinks.audit_segment import StoredRecord
from meterproof_sinks.batch_verification import verify_batch
from meterproof_sinks.erased import entry_of_kept, erased_entry
from meterproof_sinks.fault_location import fault_in_header
from meterproof_sinks.seen_corrections import CorrectionsSeen, Seen
from meterproof_sinks.verification_inputs import Producers
from meterproof_sinks.verification_report import LogReport


class EventsTree(Protocol):
    """What the entries go into: the whole tree, or a stretch of it."""

    tree: DerivedTree

    def take(self, entries: Sequence[bytes]) -> list[bytes]:
        """Take the entries of the next record; their leaf hashes."""


class RecordVerification:
    """One pass over records in their order. Lives for it; counts in the report what was verified."""

    def __init__(  # noqa: PLR0917 - what is followed, and who is told of it
        self,
        chain: LogChain,
        events: EventsTree,
        take_head: Callable[[bytes], object],
        producers: Producers | None,
        report: LogReport,
        take_seen: Callable[[Seen], object],
    ) -> None:
        """Begin where the chain and the tree are.

        Args:
            chain: of the records before.
            events: tree of the events before.
            take_head: is given each record's entry of the second tree.
            producers: the producers' keys; None to leave their signatures unchecked.
            report: of the log.
            take_seen: is given what each record tells of corrections, in order.

        """
        self._chain = chain
        self._events = events
        self._take_head = take_head
        self._producers = producers
        self._report = report
        self._take_seen = take_seen
        self._corrections = CorrectionsSeen(chain.genesis)

    def verify(self, stored: StoredRecord) -> LogRecord:
        """Verify the next record.

        Raises:
            DamagedAudit: something of it does not hold.
        """
        report, events, before_ms = self._report, self._events, self._chain.clock_ms
        record = follow_stored(stored, self._chain)
        header = record.header
        erased = sum(erased_entry(line) is not None for line in record.lines) if stored.erased else 0
        report.erased += erased
        entries = [entry_of_kept(line) for line in record.lines] if erased else entries_of(record.lines)
        leaves = events.take(entries)
        if header.size != events.tree.size or header.frontier != b"".join(events.tree.hashes).hex():
            raise _not_derived(stored, header, events.tree)
        if header.root != events.tree.frontier().root().hex():
            raise _not_derived(stored, header, events.tree)
        if record.carried is not None:
            genesis = self._chain.genesis
            verify_batch(stored, record, leaves, genesis=genesis, producers=self._producers, report=report)
        for seen in self._corrections.of(stored, record, before_ms):
            self._take_seen(seen)
        self._take_head(head_entry(head_of(record)))
        report.records += 1
        report.events = header.size
        return record


def _not_derived(stored: StoredRecord, header: RecordHeader, tree: DerivedTree) -> DamagedAudit:
    frontier = tree.frontier()
    if header.size != frontier.size or header.root != frontier.root().hex():
        return fault_in_header(stored, f"its root is not {frontier.root().hex()}, which follows from the lines")
    return fault_in_header(stored, "its frontier does not follow from the lines")
