"""Whether a legal hold forbids an erasure."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from meterproof_sinks.audit_folder import log_folders
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.erasure import Erasure
from meterproof_sinks.event_search import records_of
from meterproof_sinks.legal_holds import Hold, HoldError


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
        if hold.customer is None or (erasure.kind == "customer" and erasure.name == hold.customer):
            raise _refusal(hold)
    if erasure.kind == "customer" or not holds:
        return
    if clickhouse is not None:
        customers = "SELECT DISTINCT customer FROM usage_final WHERE agent = {name:String}"
        found = {customer for (customer,) in clickhouse.rows(customers, {"name": erasure.name})}
        _refuse_any(hold for hold in holds if hold.customer in found)
    if audit is not None:
        _refuse_any(hold for line in _lines(audit) if erasure.matches(line) for hold in holds if hold.covers(line))


def _lines(audit: Path) -> Iterator[bytes]:
    for log in log_folders(audit):
        for _, stored in records_of(log):
            if stored.events:
                yield from stored.value[len(stored.head) : -1].split(b"\n")


def _refuse_any(holds: Iterable[Hold]) -> None:
    for hold in holds:
        raise _refusal(hold)


def _refusal(hold: Hold) -> HoldError:
    return HoldError(f"nothing was erased, {hold} forbids it; `meterproof audit hold remove {hold.hold}` lifts it")
