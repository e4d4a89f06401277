"""What `meterproof erase` asks of a running ClickHouse sink, as files: kept for their owner, and never lost."""

import os
from pathlib import Path

import orjson
import pytest

from meterproof_sinks.clickhouse import ClickHouseError
from meterproof_sinks.erasure import Erasure, new_erasure
from meterproof_sinks.erasure_request import ErasureOutcome, ErasureRequest, ask_sink

ERASURE: Erasure = new_erasure(
    "customer", "globex", requested_by="me", reason="request 17", now_ms=5, random_bytes=lambda count: b"\7" * count
)
PATIENCE_S = 60.0


def _running(folder: Path) -> None:
    """A sink that has the folder: this process."""
    (folder / "endpoint.json").write_bytes(orjson.dumps({"url": "http://127.0.0.1:9", "pid": os.getpid()}))


def _answered(folder: Path, outcome: ErasureOutcome) -> Path:
    file = folder / "requests" / f"{ERASURE.request}.done.json"
    file.parent.mkdir()
    file.write_text(outcome.model_dump_json())
    return file


@pytest.mark.parametrize("runs", [True, False])
def test_what_was_asked_stays_asked(tmp_path: Path, runs: bool) -> None:
    if runs:
        _running(tmp_path)
    with pytest.raises(ClickHouseError, match="It stays asked"):
        ask_sink(tmp_path, ERASURE, patience_s=0 if runs else PATIENCE_S)
    (file,) = (tmp_path / "requests").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600, "it holds the name"
    assert ErasureRequest.model_validate_json(file.read_bytes()).erasure == ERASURE


def test_the_outcome_is_told_and_taken_away(tmp_path: Path) -> None:
    _running(tmp_path)
    file = _answered(tmp_path, ErasureOutcome(events=7, days=2))
    assert ask_sink(tmp_path, ERASURE, patience_s=PATIENCE_S) == (7, 2)
    assert not file.exists()


def test_a_failure_is_told(tmp_path: Path) -> None:
    _running(tmp_path)
    _answered(tmp_path, ErasureOutcome(failure="the disk is full"))
    with pytest.raises(ClickHouseError, match="the disk is full"):
        ask_sink(tmp_path, ERASURE, patience_s=PATIENCE_S)
