"""Whether a legal hold forbids an erasure."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from meterproof_sinks.audit_folder import log_folders
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.erasure import Erasure
from meterproof_sinks.event_owner import Owner
from meterproof_sinks.event_search import records_of
from meterproof_sinks.legal_holds import Hold, refuse_held_line
from meterproof_sinks.row_erasure import is_named, named


def refuse_held(erasure: Erasure, holds: Sequence[Hold], clickhouse: ClickHouse | None, audit: Path | None) -> None:
    """Return if no hold covers anything that would be erased.

    A hold of a customer forbids erasing an agent that has events of this customer: then audit folder and rows are
    looked through.

    Raises:
        HoldError: one does.
        DamagedAudit: the audit folder does not hold.
        ClickHouseError: ClickHouse cannot be asked.
        OSError: a file cannot be read.
    """
    for hold in holds:
        if hold.customer is None or erasure.owner == Owner("customer", hold.customer):
            raise hold.refusal()
    if erasure.owner.kind == "customer" or not holds:
        return
    if clickhouse is not None:
        customers = f"SELECT DISTINCT customer FROM usage_final WHERE {is_named('agent')}"  # noqa: S608 - ours
        found = {customer for (customer,) in clickhouse.rows(customers, named(erasure))}
        for hold in holds:
            if hold.customer in found:
                raise hold.refusal()
    if audit is not None:
        for line in filter(erasure.owner.owns, _lines(audit)):
            refuse_held_line(line, holds)


def _lines(audit: Path) -> Iterator[bytes]:
    for log in log_folders(audit):
        for _, stored in records_of(log):
            if stored.events:
                yield from stored.value[len(stored.head) : -1].split(b"\n")
