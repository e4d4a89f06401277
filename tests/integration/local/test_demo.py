"""The demo tells the truth: its figures, its exit code, and every command that it prints."""

import dataclasses
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path

import orjson
import pytest

from meterproof.deployment import DataFolder
from meterproof_local.comparison import Measured, checks, measure_folders
from meterproof_local.ledger import Ledger, digest_of
from tests.integration.local.conftest import EVENTS, DemoRun, environment, processes_of

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.slow]

KEYS = {
    *("sent", "unique", "accepted", "duplicates", "rejected", "clickhouse_rows", "audit_lines", "alerts"),
    *("checkpoints", "differences", "broker", "events_per_second"),
}


def test_every_stage_has_what_was_sent(demo_run: DemoRun) -> None:
    figures = demo_run.figures
    assert demo_run.code == 0, demo_run.printed
    assert figures.keys() == KEYS
    assert set(figures["differences"].values()) == {0}
    # 10 events of the honest half of a fork, and one good line between bad ones, come on top.
    assert figures["unique"] == figures["accepted"] == EVENTS + 11
    assert figures["clickhouse_rows"] == figures["audit_lines"] == figures["accepted"]
    assert figures["duplicates"] > 0
    assert figures["sent"] == figures["accepted"] + figures["duplicates"] + sum(figures["rejected"].values())
    assert figures["checkpoints"] >= 1
    assert figures["broker"].startswith("Apache Kafka 4")


def test_everything_that_was_forged_is_refused_for_its_reason(demo_run: DemoRun) -> None:
    assert demo_run.figures["rejected"] == {
        **dict.fromkeys(["bad_root", "bad_signature", "producer_fork", "unknown_key", "wrong_audience"], 10),
        **dict.fromkeys(["key_not_allowed", "wrong_partition"], 11),
        **dict.fromkeys(["conflicting_id", "correction_not_allowed", "in_future", "too_late", "too_large"], 1),
        **dict.fromkeys(["malformed_batch", "unknown_meter", "unreadable_record"], 1),
        "malformed_event": 4,
    }


def test_the_rogue_is_alerted_and_one_sequencer_was_killed(demo_run: DemoRun) -> None:
    alerts = {
        (alert["subject"], alert["threshold"])
        for line in (demo_run.data / "logs" / "budgets.log").read_bytes().splitlines()
        if b'"budget_alert"' in line and (alert := orjson.loads(line))
    }
    assert alerts >= {("rogue", "50"), ("rogue", "80"), ("rogue", "100")}
    assert demo_run.figures["alerts"] == len(alerts)
    assert "sequencer-0 ended by signal 9" in demo_run.printed
    assert "sequencer-0 was started again" in demo_run.printed


def test_nothing_is_left_running(demo_run: DemoRun) -> None:
    assert processes_of(demo_run.data) == set()


def test_every_printed_command_works_as_printed(demo_run: DemoRun) -> None:
    """With the pipeline stopped; `up` itself is run by the tests of trace."""
    query, verify, trace, up = demo_run.commands()
    answered = demo_run.run(query)
    assert answered.returncode == 0, answered.stderr
    assert "rogue" in answered.stdout
    verified = demo_run.run(verify)
    assert verified.returncode == 0, verified.stderr
    assert "Everything holds." in verified.stdout
    traced = demo_run.run(trace)
    assert traced.returncode == 0, traced.stderr
    assert "inclusion proved" in traced.stdout
    assert up == "meterproof up --data data"


def test_a_folder_that_holds_a_deployment_is_refused(demo_run: DemoRun) -> None:
    refused = demo_run.run("meterproof demo --data data")
    assert refused.returncode == 1
    assert "holds a deployment already" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_changed_line_is_found(demo_run: DemoRun, tmp_path: Path) -> None:
    """The comparison would tell: one line of the audit log is replaced by another of the same length."""
    copy = DataFolder(tmp_path / "data")
    shutil.copytree(demo_run.data, copy.root, symlinks=True, ignore=shutil.ignore_patterns("kafka", "cache"))
    measured = Measured()
    measure_folders(copy, measured)
    assert measured.audit_faults == []
    assert measured.audit_covered == measured.audit_lines.total() == measured.clickhouse_rows == EVENTS + 11
    (log,) = copy.audit.glob("*~p2")
    events = log / f"{0:020}.jsonl"
    events.write_bytes(events.read_bytes().replace(b'"input_tokens":', b'"input_tokenz":', 1))
    changed = Measured()
    measure_folders(copy, changed)
    assert f"{0:020}" in changed.audit_faults[0]
    assert changed.audit_covered < measured.audit_covered
    # The record in which it stands does not count, and neither does what is chained to it.
    missing = measured.audit_lines - changed.audit_lines
    assert 0 < missing.total() < measured.audit_lines.total()
    assert not changed.audit_lines - measured.audit_lines


def test_opposite_faults_do_not_cancel_out() -> None:
    """One event lost and another counted twice is two differences, though the sums agree."""
    ledger = Ledger({("", "", "requests"): Decimal("0.5")}, [])
    first, second = (
        orjson.dumps(
            {
                "id": name,
                "source": "s",
                "subject": name,
                "time": "2026-01-01T00:00:00.000Z",
                "data": {"usage": {"requests": 1}},
            }
        )
        for name in ("a", "b")
    )
    ledger.good(first)
    ledger.good(second)
    ledger.good(second)
    assert (ledger.sent, ledger.duplicates, dict(ledger.spend)) == (3, 1, {"a": Decimal("0.5"), "b": Decimal("0.5")})
    good = Measured()
    good.accepted.update(map(digest_of, [first, second]))
    good.verdicts["duplicate"] = 1
    differing = {check.name for check in checks(ledger, good) if check.difference}
    assert "accepted" not in differing
    assert "duplicates" not in differing
    bad = dataclasses.replace(good, accepted=good.accepted.__class__({digest_of(first): 2}))
    (accepted,) = [check for check in checks(ledger, bad) if check.name == "accepted"]
    assert (accepted.expected, accepted.found, accepted.difference) == (2, 2, 2)


def test_a_trace_through_two_sequencers(tmp_path: Path) -> None:
    """The same rows, the same sums, through a kill and a rebalance; a tenth of them sent twice."""
    rows = [f"2023-11-16 18:{17 + n // 60:02}:{n % 60:02}.0000000,{100 + n},{n}" for n in range(1000)]
    (tmp_path / "trace.csv").write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    done = subprocess.run(
        [
            *("meterproof", "demo", "--trace", "trace.csv", "--format", "azure-llm", "--duplicates", "0.1"),
            *("--sequencers", "2", "--data", "data", "--json", "figures.json"),
        ],
        check=False,
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = orjson.loads((tmp_path / "figures.json").read_bytes())
    assert {name: figures[name] for name in ("sent", "unique", "accepted", "duplicates", "rejected")} == {
        "sent": 1100,
        "unique": 1000,
        "accepted": 1000,
        "duplicates": 100,
        "rejected": {},
    }
    assert set(figures["differences"].values()) == {0}
    sql = "SELECT sum(usage['input_tokens']) AS i, sum(usage['output_tokens']) AS o FROM usage"
    asked = subprocess.run(
        ["meterproof", "query", sql, "--data", "data", "--format", "csv"],
        check=True,
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert asked.stdout.splitlines()[1].replace('"', "") == f"{sum(range(100, 1100))},{sum(range(1000))}"
