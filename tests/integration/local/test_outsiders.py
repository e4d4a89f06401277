"""What the real pipeline left behind, as outsiders check it: single events, refusals, statements, checkpoints."""

import json
import shlex
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from meterproof_proofs.checkpoint import open_checkpoint
from meterproof_proofs.event_proof import keys_of_log
from meterproof_proofs.key_files import read_verifiers
from meterproof_proofs.tiles import bundles_of
from meterproof_schemas.log_record import LogRecord, decode_record
from meterproof_schemas.records_tree import records_origin
from meterproof_sinks.audit_folder import log_folders, read_log_name, read_records
from tests.integration.local.conftest import EVENTS, DemoRun
from tests.interop.proof_case import bent, case_of
from tests.interop.tools import verdict

pytestmark = [
    pytest.mark.broker,
    pytest.mark.clickhouse,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # where it is the first, it builds the tools
]


def meterproof(run: DemoRun, *arguments: str, code: int = 0) -> str:
    done = run.run(shlex.join(["meterproof", *arguments]))
    assert done.returncode == code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done.stdout


def checked(run: DemoRun, *what: str) -> dict[str, Any]:
    """What `check` says of the proof that `prove` writes."""
    meterproof(run, "prove", *what, "--data", "data", "--out", "one.proof")
    keys = ["--vkey", "data/keys/log.vkey", "--producer-key", "data/keys/registry.json"]
    said: dict[str, Any] = orjson.loads(meterproof(run, "check", "one.proof", *keys, "--json"))
    content = (run.folder / "one.proof").read_bytes()
    at = len(content) // 3
    (run.folder / "one.proof").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    meterproof(run, "check", "one.proof", *keys, code=1)
    return said


def records(run: DemoRun) -> list[LogRecord]:
    return [decode_record(stored.value) for log in log_folders(run.data / "audit") for stored in read_records(log)]


def test_an_accepted_event(demo_run: DemoRun) -> None:
    said = checked(demo_run, "rogue-000000", "--source", "rogue-service")
    assert (said["verdict"], said["producer"], said["producer_signature"]) == ("accepted", "rogue-service", "verified")
    assert orjson.loads(said["event"])["id"] == "rogue-000000"


def test_one_of_each_verdict_that_is_no_acceptance(demo_run: DemoRun) -> None:
    # The line of a duplicate was accepted before, and that is what its proof shows.
    wanted = {reason: entry for entry, reason in _entries(demo_run) if reason != "duplicate"}
    assert {"conflicting_id", "malformed_event", "bad_root", "bad_signature", "producer_fork"} <= set(wanted)
    for reason, entry in wanted.items():
        said = checked(demo_run, "--digest", entry)
        assert said["verdict"] == reason
        assert said["log"].endswith("/records")


def _entries(run: DemoRun) -> list[tuple[str, str]]:
    """(digest, verdict) of all lines and source records that the log tells of."""
    found: list[tuple[str, str]] = []
    for record in records(run):
        header = record.header
        if header.reason is not None and header.source is not None and header.source.digest is not None:
            found.append((header.source.digest, str(header.reason)))
        found += [(entry, verdict) for _, verdict, entry in header.not_accepted]
    return found


def test_statements_agree_with_clickhouse_to_the_last_decimal(demo_run: DemoRun) -> None:
    query = (
        "SELECT customer, formatDateTime(event_time, '%Y-%m') AS month, count() AS events, sum(cost) AS money, "
        "currency FROM usage GROUP BY ALL ORDER BY ALL"
    )
    rows = [orjson.loads(row) for row in meterproof(demo_run, "query", query, "--format", "json").splitlines()]
    assert (
        sum(int(row["events"]) for row in rows) == sum(len(record.lines) for record in records(demo_run)) > EVENTS / 2
    )
    for row in rows:
        made = ["statement", row["customer"], "--period", row["month"], "--data", "data", "--out", "one.statement"]
        meterproof(demo_run, *made)
        said = orjson.loads(
            meterproof(
                *(demo_run, "statement", "check", "one.statement", "--vkey", "data/keys/log.vkey"),
                *("--price-book", "data/price-book.json", "--customer", row["customer"], "--json"),
            )
        )
        assert said["events"] == int(row["events"])
        assert {currency: Decimal(total) for currency, total in said["money"].items()} == {
            row["currency"]: Decimal(row["money"])
        }


def test_the_folder_against_its_own_checkpoints(demo_run: DemoRun, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    for log in log_folders(demo_run.data / "audit"):
        for name in ("checkpoint", "records-checkpoint"):
            (kept / f"{log.name}-{name}").write_bytes((log / name).read_bytes())
        both = [str(log / "checkpoint"), str(log / "tlog" / "checkpoint")]
        said = meterproof(demo_run, "checkpoint", "compare", *both, "--vkey", "data/keys/log.vkey")
        assert said.startswith("same: ")
        assert read_log_name(log).origin in said
    resume = ["--resume-file", str(tmp_path / "verified.json")]
    for _ in range(2):
        meterproof(
            demo_run, "verify", "data", "--vkey", "data/keys/log.vkey", "--since", str(kept), "--jobs", "2", *resume
        )


@pytest.mark.parametrize(
    "tool", ["verify-xmod", "verify-torchwood", "verify-fsck", "verify-sigstore", "verify-metamorphic"]
)
def test_programs_by_others_verify_each_log_of_the_pipeline(demo_run: DemoRun, tmp_path: Path, tool: str) -> None:
    """Two trees of each log, accepted; then with a bit of an entry or of a proof changed, refused."""
    trees = 0
    for log in log_folders(demo_run.data / "audit"):
        for name, origin_of in (("tlog", str), ("records-tlog", records_origin)):
            origin = origin_of(read_log_name(log).origin)
            (verifier, *_) = keys_of_log(read_verifiers(demo_run.data / "keys/log.vkey"), origin)
            tlog = Path(shutil.copytree(log / name, tmp_path / log.name / name))
            checkpoint = open_checkpoint((tlog / "checkpoint").read_bytes(), [verifier], origin=origin)
            if checkpoint.size == 0:
                continue
            trees += 1
            if tool in {"verify-sigstore", "verify-metamorphic"}:
                given, case = (
                    tlog / "case.json",
                    case_of(tlog, verifier, [*range(0, checkpoint.size, 97), checkpoint.size - 1]),
                )
                last = case["proofs"][-1]
                changed = last | {"entry": bent(last["entry"]), "leaf": bent(last["leaf"])}
                given.write_text(json.dumps(case))
                assert verdict(tool, given)[0] == 0
                given.write_text(json.dumps(case | {"proofs": [*case["proofs"][:-1], changed]}))
                assert verdict(tool, given)[0] == 1
            else:
                vkey = tlog / "log.vkey"
                vkey.write_text(verifier.vkey + "\n")
                code, said = verdict(tool, tlog, vkey)
                assert code == 0, said
                bundle = tlog / list(bundles_of(checkpoint.size))[-1].path
                bundle.write_bytes(bundle.read_bytes()[:-1] + bytes([bundle.read_bytes()[-1] ^ 1]))
                assert verdict(tool, tlog, vkey)[0] == 1
    assert trees >= 2
