"""ClickHouse is made again from what an object store keeps, and nothing else."""

import asyncio
from pathlib import Path

import pytest

from meterproof_schemas.price_book import encode_price_book
from meterproof_sinks.audit_copy import copy_audit
from meterproof_sinks.audit_fetch import fetch_audit
from meterproof_sinks.commands.rebuild import main as rebuild
from meterproof_sinks.disk import Disk
from meterproof_sinks.object_store import ObjectStore
from meterproof_sinks.price_book_folder import keep_price_book
from meterproof_sinks.reconciliation import reconcile
from meterproof_sinks.verification import verify_folder
from tests.integration.sinks.clickhouse_folder import one, opened
from tests.rated_log import BOOKS, RatedLog, costs
from tests.sealed_folder import write_sealed_folder

pytestmark = pytest.mark.clickhouse


def test_a_database_is_made_from_a_copy_alone(tmp_path: Path) -> None:
    log = RatedLog(seed=7)
    log.grow(15)
    audit = tmp_path / "first" / "audit"
    write_sealed_folder(audit, log, bytes_max=15_000)
    for book in BOOKS.values():
        keep_price_book(audit, encode_price_book(book), Disk())
    store = ObjectStore(str(tmp_path / "copy"))
    (copied,) = copy_audit(audit, store).logs.values()
    assert copied.sealed > 1

    data = tmp_path / "second"
    fetch_audit(store, data / "audit")
    assert verify_folder(data, [log.signer.verifier]).holds
    assert rebuild(["--data", str(data), "--json"]) == 0
    with opened(data / "clickhouse") as clickhouse:
        assert one(clickhouse, "SELECT count() FROM usage") == copied.events
        assert one(clickhouse, "SELECT sum(cost) FROM usage") == sum(costs(log.records)[: copied.events])
        found = asyncio.run(reconcile(clickhouse, data / "audit", None))
    assert found.holds, found.differences
