"""Corrections, then an erasure, through the whole pipeline: every reader tells the same of what stands."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from meterproof.exit_codes import CLEAN
from meterproof.log_key import LogKeys
from meterproof.status import read_status
from meterproof_local.broker import LocalBroker
from meterproof_schemas.correction import correction_line
from meterproof_sinks.audit_folder import log_folders, read_records
from meterproof_sinks.query_front import read_endpoint
from meterproof_stream.runtime import Runtime
from tests.builders import make_event
from tests.integration.sinks.clickhouse_folder import opened
from tests.integration.stream.test_checkpointer_and_budgets import budget_state, deployment, wait_for
from tests.integration.stream.workers import Pipeline
from tests.meterproof_command import PROGRAM, run_meterproof

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse]

PATIENCE_S: Final = 240.0
NAME: Final = "umbrella-gmbh"
"""Whose events are erased in the end; the word stands nowhere else."""
QUERIES: Final = Path(__file__).parents[3] / "sinks" / "queries"


class Sinks:
    """The two sinks of a deployment, as processes."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.data = pipeline, pipeline.data
        self.where = (f"--bootstrap={pipeline.kafka.bootstrap}", f"--prefix={pipeline.kafka.topic_prefix}")

    @contextmanager
    def run(self, kind: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """`meterproof sink <kind> run` as long as the block."""
        command = [*PROGRAM, "sink", kind, "run", f"--data={self.data}", *self.where, *arguments]
        with (
            (self.data / f"{kind}.log").open("ab") as stderr,
            subprocess.Popen(command, stderr=stderr, env=os.environ) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    def position(self, kind: str) -> int:
        """How many events a sink has carried."""
        status = read_status(self.data / "status", kind) or {"partitions": {}}
        return int(status["partitions"].get("0", {}).get("position") or 0)

    def answers(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether it is this process that has the folder and answers queries."""
        endpoint = read_endpoint(self.data / "clickhouse")
        return endpoint is not None and endpoint.pid == process.pid

    def ask(self, *arguments: str) -> tuple[int, str]:
        """A command over the data folder: its exit code, and what it said."""
        done = run_meterproof(*arguments, data=self.data)
        return done.returncode, done.stdout or done.stderr

    def found(self, *query: str) -> list[dict[str, Any]]:
        """What `meterproof query` answers."""
        code, said = self.ask("query", *query, "--format", "json")
        assert code == 0, said
        return [orjson.loads(line) for line in said.splitlines()]


def wait(condition: Callable[[], bool], data: Path) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        told = "\n".join(file.read_text() for file in data.glob("*.log"))
        assert time.monotonic() < deadline_s, told
        time.sleep(0.1)


def correct(line: bytes, name: str, requests: int | None = None) -> bytes:
    """A void; with a quantity, a replacement."""
    if requests is None:
        return correction_line(line, correction_id=name, kind="void", salt="0" * 32)
    return correction_line(line, correction_id=name, kind="replace", salt="0" * 32, usage={"requests": requests})


def sent(now_ms: int) -> list[list[bytes]]:
    """Batches of events of two customers and of their corrections, of every effect."""

    def made(customer: str, number: int) -> bytes:
        return make_event(f"{customer} {number}", customer=customer, time_ms=now_ms)

    acme, other = ([made(customer, number) for number in range(12)] for customer in ("acme", NAME))
    late, unsent = made("acme", 12), made("acme", 13)
    return [
        [*acme, *other],
        [correct(acme[0], "c0"), correct(acme[1], "c1", 3), correct(other[0], "o0"), correct(other[1], "o1", 4)],
        [correct(acme[0], "c2"), late, correct(late, "c3"), correct(unsent, "c4"), correct(other[1], "o2", 9)],
        [correct(make_event("acme 2", customer="acme", time_ms=now_ms, usage={"requests": 5}), "c5")],
    ]


STANDS: Final = [
    {"customer": "acme", "events": 11, "spend": "3.25"},
    {"customer": NAME, "events": 11, "spend": "3.5"},
]
"""11 of 13 with one that was replaced by 3 requests, 11 of 12 with one replaced by 4; a quarter for each request."""
TOTALS: Final = "SELECT customer, count() AS events, sum(cost) AS spend FROM usage GROUP BY customer ORDER BY customer"
EFFECTS: Final = {
    ("acme", "void", "already_corrected"): 1,
    ("acme", "void", "applied"): 2,
    ("acme", "void", "other_content"): 1,
    ("acme", "void", "unknown_target"): 1,
    ("acme", "replace", "applied"): 1,
    (NAME, "void", "applied"): 1,
    (NAME, "replace", "already_corrected"): 1,
    (NAME, "replace", "applied"): 1,
}


async def test_every_reader_tells_the_same_of_what_stands(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path
) -> None:
    pipeline = await deployment(broker, topic_prefix, tmp_path / "data", Runtime.ASYNCIO, partitions=1)
    batches = sent(time.time_ns() // 1_000_000)
    size = sum(map(len, batches))
    with pipeline.worker() as sequencer:
        for lines in batches:
            await pipeline.send(0, [pipeline.batch(0, lines)])
        await pipeline.wait_until_sequenced(sequencer)
        assert await asyncio.to_thread(sequencer.stop) == CLEAN
    with (
        pipeline.worker(stage="checkpointer", instance="c") as checkpointer,
        pipeline.worker(stage="budgets", instance="b") as budgets,
    ):
        await wait_for(checkpointer, pipeline, "signed_size")
        await wait_for(budgets, pipeline, "marked")
    sums, _ = await budget_state(pipeline, 0)
    (month,) = [total for total in sums.values() if total.window == "month"]
    assert (month.events, Decimal(month.spend)) == (22, Decimal("6.75"))

    origin = (await pipeline.log(0)).genesis
    assert origin is not None
    keys = LogKeys.load([pipeline.data / "keys" / "log.key"])
    (pipeline.data / "keys" / "log.vkey").write_text(keys.verifier_keys([origin.origin]))
    await asyncio.to_thread(_carried_and_erased, Sinks(pipeline), size, batches)


def _carried_and_erased(sinks: Sinks, size: int, batches: list[list[bytes]]) -> None:
    data, month = sinks.data, orjson.loads(batches[0][0])["time"][:7]
    with sinks.run("audit") as audit:
        with sinks.run("clickhouse", "--batch-rows", "10", "--batch-age-s", "0.05") as killed:
            wait(lambda: sinks.position("clickhouse") > 0, data)
            killed.kill()
            killed.wait()
        with sinks.run("clickhouse", "--rollup-interval-s", "0.5") as clickhouse:
            wait(lambda: sinks.answers(clickhouse), data)
            wait(lambda: (sinks.position("clickhouse"), sinks.position("audit")) == (size, size), data)
            assert sinks.found(TOTALS) == STANDS
            listed = sinks.found("--file", str(QUERIES / "corrections.sql"))
            assert {(row["customer"], row["kind"], row["effect"]): int(row["corrections"]) for row in listed} == EFFECTS
            statement = data.parent / "acme.statement"
            asked = ("statement", "acme", f"--period={month}", f"--out={statement}", "--json")
            wait(lambda: sinks.ask(*asked)[0] == 0, data)  # once the checkpoint that covers all of it has come
            code, said = sinks.ask(*asked)
            assert (code, "3.25" in said) == (0, True), said
            _assert_all_holds(sinks, {"verified": 9, "unchecked": 0})

            # Somebody is erased while both sinks run.
            wait(lambda: sinks.found("SELECT sum(events) AS n FROM usage_by_day") == [{"n": 22}], data)
            who = ("--by", "privacy@example.com", "--reason", "request 17", "--json", "--yes")
            code, said = sinks.ask("erase", "--customer", NAME, *who)
            assert code == 0, said
            done = orjson.loads(said)
            assert (sum(done["audit"].values()), done["clickhouse"], done["days"]) == (15, 15, 1)
            assert sinks.found(TOTALS) == STANDS[:1]
            assert sinks.found("SELECT sum(events) AS n FROM usage_by_day") == [{"n": 11}]
            _assert_all_holds(sinks, {"verified": 5, "unchecked": 4})
            for process in (clickhouse, audit):
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE_S) == CLEAN, (data / "clickhouse.log").read_text()
    code, said = sinks.ask("statement", "acme", f"--period={month}", "--out", str(data.parent / "after"), "--json")
    assert (code, "3.25" in said) == (0, True), said
    _assert_gone(data)


def _assert_all_holds(sinks: Sinks, corrections: dict[str, int]) -> None:
    code, said = sinks.ask("reconcile", "--json", *sinks.where)
    assert (code, orjson.loads(said)["named"]) == (0, []), said
    done = subprocess.run(
        [*PROGRAM, "verify", str(sinks.data), f"--vkey={sinks.data / 'keys'}", "--json"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    (log,) = orjson.loads(done.stdout)["logs"]
    assert log["corrections"] == corrections


def _assert_gone(data: Path) -> None:
    """No file of the audit folder and no row of any table holds the name."""
    (log,) = log_folders(data / "audit")
    assert sum(stored.erased for stored in read_records(log)) > 0
    word = NAME.encode()
    holding = [path for path in data.rglob("*") if path.is_file() and "store" not in path.parts]
    assert [path for path in holding if word in path.read_bytes()] == []
    with opened(data / "clickhouse") as clickhouse:
        tables = [
            name
            for (name,) in clickhouse.rows(
                "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree'"
            )
        ]
        assert {"usage_rows", "usage_corrections", "usage_groups", "usage_days"} <= set(tables)
        for table in tables:
            rows = str(clickhouse.rows(f"SELECT * FROM {table}"))
            assert NAME not in rows, table
        assert clickhouse.rows("SELECT uniqExact(position) FROM usage_corrections") == [(6,)]
