"""Erase an agent's or a customer's events from ClickHouse and the audit folder, and keep who asked for it."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from meterproof_schemas.instant import format_instant_ms
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.disk import Disk
from meterproof_sinks.event_owner import Owner, OwnerKind
from meterproof_sinks.followed_rows import column_time

LEDGER_FILE: Final = "erasures.jsonl"
"""Beside the audit folder: one line per erasure, only ever appended to."""


EraseLines = Callable[[], dict[str, int]]
"""Erases from the audit folder; how many lines, by log."""
EraseRows = Callable[[], tuple[int, int]]
"""Erases from ClickHouse; how many rows, and how many days of roll-ups were built again without them."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """One request to erase. Its record never states the erased name, only a salted digest of it."""

    request: str
    """Random id."""
    owner: Owner
    requested_by: str
    reason: str
    requested_ms: int
    salt: bytes
    """16 random bytes."""

    @property
    def name_digest(self) -> str:
        """SHA-256 of salt and name, in hexadecimal: shows whether a given name was meant."""
        return hashlib.sha256(self.salt + self.owner.name.encode()).hexdigest()


@dataclass(slots=True)
class Erased:
    """What an erasure did."""

    audit: dict[str, int] = field(default_factory=dict)
    """Lines erased, by log."""
    clickhouse: int = 0
    """Rows erased."""
    days: int = 0
    """Of roll-ups that were built again without them."""


def erase(erasure: Erasure, erase_rows: EraseRows | None, erase_lines: EraseLines | None, ledger: Path) -> Erased:
    """Erase, in this order; repeating it after a crash finishes what is left.

    1. note the request durably: nothing vanishes without a word
    2. the audit folder's lines
    3. ClickHouse's rows
    4. note what was done

    Kafka is not touched: its copy goes with its retention.

    Raises:
        UpkeepFailed: the audit folder's writer did not do it; run it again.
        ClickHouseError: ClickHouse refused; run it again.
        OSError: a file cannot be read or written.
    """
    erased = Erased()
    _note(ledger, erasure, None)  # 1
    if erase_lines is not None:  # 2
        erased.audit = erase_lines()
    if erase_rows is not None:  # 3
        erased.clickhouse, erased.days = erase_rows()
    _note(ledger, erasure, erased)  # 4
    return erased


def restore_erasures(clickhouse: ClickHouse, ledger: Path) -> int:
    """Note in `erasures` what the ledger says was done, for a database that is made again; how many there are.

    So alerts of an erased name do not come back with their topic either.

    Raises:
        ClickHouseError: the database refused.
        OSError: the ledger cannot be read.
    """
    if not ledger.is_file():
        return 0
    done = [one for one in map(orjson.loads, ledger.read_bytes().splitlines()) if one["state"] == "done"]
    rows = [
        {name: one[name] for name in ("request", "requested_by", "reason", "kind", "salt", "name_digest")}
        | {"requested_at": column_time(one["requested_at"]), "events": one["clickhouse"]}
        for one in done
    ]
    if rows:
        body = b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
        clickhouse.insert("erasures", (), body, "JSONEachRow", len(rows))
    return len(rows)


def _note(ledger: Path, erasure: Erasure, erased: Erased | None) -> None:
    line: dict[str, object] = {
        "request": erasure.request,
        "requested_at": format_instant_ms(erasure.requested_ms),
        "requested_by": erasure.requested_by,
        "reason": erasure.reason,
        "kind": erasure.owner.kind,
        "salt": erasure.salt.hex(),
        "name_digest": erasure.name_digest,
        "state": "asked" if erased is None else "done",
    }
    if erased is not None:
        line |= {"audit": erased.audit, "clickhouse": erased.clickhouse}
    disk = Disk()
    descriptor = disk.open_append(ledger)
    try:
        disk.append(descriptor, orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        disk.sync(descriptor)
    finally:
        os.close(descriptor)
    disk.sync_folder(ledger.parent)


def new_erasure(
    kind: OwnerKind, name: str, *, requested_by: str, reason: str, now_ms: int, random_bytes: Callable[[int], bytes]
) -> Erasure:
    """A request with an id and a salt of its own."""
    request, salt = random_bytes(8).hex(), random_bytes(16)
    return Erasure(request, Owner(kind, name), requested_by, reason, now_ms, salt)
