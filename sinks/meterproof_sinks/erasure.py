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
from meterproof_sinks.rollups import Rollups

LEDGER_FILE: Final = "erasures.jsonl"
"""Beside the audit folder: one line per erasure, only ever appended to."""


EraseLines = Callable[[], dict[str, int]]
"""Erases from the audit folder; how many lines, by log."""


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


def erase(
    erasure: Erasure,
    clickhouse: ClickHouse | None,
    erase_lines: EraseLines | None,
    ledger: Path,
    disk: Disk | None = None,
) -> Erased:
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
    disk = disk or Disk()
    erased = Erased()
    _note(ledger, erasure, None, disk)  # 1
    if erase_lines is not None:  # 2
        erased.audit = erase_lines()
    if clickhouse is not None:  # 3
        erased.clickhouse, erased.days = erase_rows(clickhouse, erasure)
    _note(ledger, erasure, erased, disk)  # 4
    return erased


def erase_rows(clickhouse: ClickHouse, erasure: Erasure) -> tuple[int, int]:
    """Erase the rows of whom the request names, up to the sink's progress; how many, and how many days were rebuilt.

    1. note position and entry of each, so that the log stays dense without them
    2. delete the rows, and wait until the files without them are in place
    3. the same for rows in quarantine; and delete the alerts, which no log counts
    4. build the roll-ups of their days again
    5. note the request in `erasures`

    Raises:
        ClickHouseError: refused; run it again.
    """
    name = {"name": erasure.owner.name, "request": erasure.request}
    whose = f"{erasure.owner.kind} = {{name:String}}"
    of_days = f"SELECT DISTINCT toDate(event_time) FROM usage WHERE {whose}"  # noqa: S608 - ours
    days = [day for (day,) in clickhouse.rows(of_days, name)]
    bounds = dict(clickhouse.rows("SELECT log, argMax(next, log_offset) FROM sink_progress GROUP BY log"))
    below = {"logs": list(bounds), "bounds": list(bounds.values())}
    clickhouse.command(  # 1
        f"""INSERT INTO usage_erased (log, position, entry, request)
            SELECT log, position, lower(hex(entry)), {{request:String}} FROM usage_final WHERE {whose} AND {_BELOW}""",  # noqa: S608 - ours
        {**name, **below},
    )
    clickhouse.command(  # 2
        f"ALTER TABLE usage_rows DELETE WHERE {whose} AND {_BELOW} SETTINGS mutations_sync = 2",
        {"name": erasure.owner.name, **below},
    )
    fields = "'subject'" if erasure.owner.kind == "agent" else "'data', 'customer'"
    whose = f"kind = 'event' AND JSONExtractString(row, {fields}) = {{name:String}}"
    clickhouse.command(  # 3
        f"""INSERT INTO usage_erased (log, position, entry, request)
            SELECT log, position, digest, {{request:String}} FROM quarantine FINAL WHERE {whose}""",  # noqa: S608 - ours
        name,
    )
    clickhouse.command(
        f"ALTER TABLE quarantine DELETE WHERE {whose} SETTINGS mutations_sync = 2", {"name": erasure.owner.name}
    )
    clickhouse.command(
        "ALTER TABLE usage_alerts DELETE WHERE scope = {kind:String} AND subject = {name:String} "
        "SETTINGS mutations_sync = 2",
        {"kind": erasure.owner.kind, "name": erasure.owner.name},
    )
    rebuilt = Rollups(clickhouse).rebuild(days) if days else None  # 4
    ((events,),) = clickhouse.rows(
        "SELECT count() FROM usage_erased FINAL WHERE request = {request:String}", {"request": erasure.request}
    )
    clickhouse.command(  # 5
        "INSERT INTO erasures (request, requested_at, requested_by, reason, kind, salt, name_digest, events) VALUES "
        "({request:String}, fromUnixTimestamp64Milli({ms:Int64}, 'UTC'), {by:String}, {reason:String}, {kind:String}, "
        "{salt:String}, {digest:String}, {events:UInt64})",
        {
            "request": erasure.request,
            "ms": erasure.requested_ms,
            "by": erasure.requested_by,
            "reason": erasure.reason,
            "kind": erasure.owner.kind,
            "salt": erasure.salt.hex(),
            "digest": erasure.name_digest,
            "events": events,
        },
    )
    return events, 0 if rebuilt is None else len(rebuilt.built)


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


_BELOW: Final = "position < mapFromArrays({logs:Array(String)}, {bounds:Array(UInt64)})[log]"


def _note(ledger: Path, erasure: Erasure, erased: Erased | None, disk: Disk) -> None:
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
