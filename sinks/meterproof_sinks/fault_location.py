"""Say as closely as can be told which line of a log's files was changed."""

from pydantic import ValidationError

from meterproof_proofs.frontier import Frontier
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.errors import InvalidEvent, InvalidRecord
from meterproof_schemas.event import parse_event
from meterproof_schemas.log_record import RecordHeader, frontier_of
from meterproof_sinks.audit_errors import AuditFault, DamagedAudit
from meterproof_sinks.audit_segment import ChangedRecord, StoredRecord, TornAudit
from meterproof_sinks.erased import entry_of_kept


def fault_in_header(stored: StoredRecord, fault: str) -> DamagedAudit:
    """A fault in the record's header."""
    return fault_at(stored, 1, fault)


def fault_at(stored: StoredRecord, line: int, fault: str) -> DamagedAudit:
    """A fault in the record's `line`-th line: 1 its header, 2 the batch's header, 3 the signatures."""
    return DamagedAudit(stored.segment.records_file, stored.records_line + line, stored.position, fault)


def located(fault: AuditFault, before: Frontier) -> AuditFault:
    """The same fault, closer to the changed line where the tree tells which file it is in.

    Args:
        fault: what was found.
        before: the tree over all entries before the record that it was found in.

    """
    cause = fault.__cause__ if isinstance(fault, TornAudit) else fault
    if not isinstance(cause, ChangedRecord):
        return fault
    stored = cause.stored
    lines = stored.value.split(b"\n")[:-1]
    events = lines[stored.header_lines :]
    derived = before.extended(leaf_hashes([entry_of_kept(line) for line in events]))
    try:
        header = RecordHeader.model_validate_json(lines[0])
        own_root = frontier_of(header).root().hex()
    except (ValidationError, InvalidRecord):
        return fault_in_header(stored, "the record's header was changed")
    if derived.root().hex() == header.root or b"".join(derived.hashes).hex() == header.frontier:
        last = stored.records_line + stored.header_lines
        fault_text = f"one of the lines {stored.records_line + 1}-{last} was changed: they have not the digest that "
        return fault_in_header(stored, fault_text + "the record's frame states")
    if own_root != header.root:
        return fault_in_header(stored, "the record's header was changed: root and frontier do not fit each other")
    broken = [number for number, line in enumerate(events) if not _is_event(line)]
    first = broken[0] if broken else 0
    last_line = stored.events_line + stored.events - 1
    return DamagedAudit(
        stored.segment.events_file,
        stored.events_line + first,
        stored.position + first,
        "the line was changed: it is no event any more"
        if broken
        else f"one of the lines {stored.events_line}-{last_line} (positions {stored.position}-"
        f"{stored.position + stored.events - 1}) was changed, moved or replaced",
    )


def _is_event(line: bytes) -> bool:
    try:
        parse_event(line)
    except InvalidEvent:
        return False
    return True
