"""`meterproof trace` finds an event wherever it left a mark, and says what it could not look at."""

from typing import Any

import orjson
import pytest

from tests.integration.local.conftest import DemoRun

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.slow]


def traced(run: DemoRun, event_id: str, *options: str) -> tuple[int, dict[str, Any]]:
    done = run.run(f"meterproof trace {event_id} --data data --json {' '.join(options)}")
    assert done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    return done.returncode, orjson.loads(done.stdout)


def line_of(run: DemoRun, audit: dict[str, Any]) -> bytes:
    lines = (run.folder / audit["file"]).read_bytes().splitlines()
    line: bytes = lines[int(audit["line"]) - 1]
    return line


def test_an_accepted_event_with_the_pipeline_stopped(demo_run: DemoRun) -> None:
    code, found = traced(demo_run, "rogue-000000")
    assert code == 0
    accepted, duplicate = found["occurrences"][:2]
    assert (accepted["verdict"], duplicate["verdict"]) == ("accepted", "duplicate")
    event = orjson.loads(accepted["event"])
    assert (event["id"], event["subject"]) == ("rogue-000000", "rogue")
    # The line that is named is the event, byte for byte; a duplicate is named by the record that says so.
    assert line_of(demo_run, accepted["audit"]).decode() == accepted["event"] == duplicate["event"]
    assert orjson.loads(line_of(demo_run, duplicate["audit"]))["log_offset"] == duplicate["log_offset"]
    assert accepted["batch"]["producer"] == "rogue-service"
    assert accepted["position"] == 0
    usage = {meter: str(quantity) for meter, quantity in event["data"]["usage"].items()}
    assert accepted["clickhouse"]["usage"] == usage
    assert accepted["checkpoint"]["proved"] is True
    assert accepted["checkpoint"]["size"] > accepted["position"]
    assert [effect["budget"] for effect in accepted["budgets"]] == ["agents-daily", "customers-daily"]
    # What needs Kafka is named, not left out silently.
    assert accepted["budgets"][0]["spend"] is None
    assert any("usage.rejected" in what for what in found["not_looked_at"])


def test_an_unknown_id(demo_run: DemoRun) -> None:
    code, found = traced(demo_run, "nobody-sent-this")
    assert code == 1
    assert found["found"] is False


def test_another_source_is_another_event(demo_run: DemoRun) -> None:
    assert traced(demo_run, "rogue-000000", "--source", "coder-service")[0] == 1
    assert traced(demo_run, "rogue-000000", "--source", "rogue-service")[0] == 0


def test_a_folder_without_a_deployment(demo_run: DemoRun) -> None:
    done = demo_run.run("meterproof trace x --data elsewhere")
    assert done.returncode == 1
    assert "holds no deployment" in done.stderr


def test_refusals_and_budget_sums_with_the_pipeline_running(demo_again: DemoRun) -> None:
    code, found = traced(demo_again, "rogue-000000")
    assert code == 0
    assert found["not_looked_at"] == []
    verdicts = [one["verdict"] for one in found["occurrences"]]
    assert verdicts[0] == "accepted"
    assert verdicts.count("conflicting_id") == 1
    effect = found["occurrences"][0]["budgets"][0]
    assert effect["counted"] is True
    assert float(effect["spend"]) > float(effect["limit"])
    conflict = next(one for one in found["occurrences"] if one["verdict"] == "conflicting_id")
    assert conflict["event"] != found["occurrences"][0]["event"]
    assert conflict["source_offset"] > found["occurrences"][0]["source_offset"]
    assert conflict["audit"] is not None


def test_every_forgery_of_one_id_has_its_reason(demo_again: DemoRun) -> None:
    code, found = traced(demo_again, "forged-1")
    assert code == 0
    reasons = [one["verdict"] for one in found["occurrences"]]
    assert sorted(reasons) == sorted(
        [
            "unknown_key",
            "key_not_allowed",
            "bad_root",
            "bad_signature",
            "wrong_audience",
            "wrong_partition",
            "producer_fork",
        ]
    )
    # A header is shown only where a known key vouches for it.
    vouched = {one["verdict"] for one in found["occurrences"] if one["batch"] is not None}
    assert vouched == {"bad_root", "producer_fork"}
    listed = demo_again.run("meterproof rejected list --data data")
    assert listed.returncode == 0
    assert "conflicting_id" in listed.stdout
