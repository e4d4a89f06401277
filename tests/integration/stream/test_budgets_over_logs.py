"""Budgets of scopes whose events lie in several logs, with two workers, one of which is killed in the middle."""

import asyncio
import subprocess
import sys
import time
from collections import defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import orjson
import pytest

from meterproof.exit_codes import CLEAN
from meterproof.kafka.price_books import publish_price_book
from meterproof.log_key import LogKey
from meterproof_local.broker import LocalBroker
from meterproof_schemas.budget import Alert, Marker, PartialSum, decode_alert, decode_budget_state
from meterproof_schemas.price_book import DEFAULT_METERS, PriceBook, UnitPrice
from meterproof_schemas.topics import Topic
from meterproof_stream.runtime import Runtime
from tests.builders import agent_in, make_event
from tests.integration.stream.workers import PATIENCE_S, Pipeline, Worker, whatever_runs_it

PARTITIONS = 4
ROUNDS = 6
EVENTS_PER_BATCH = 25
BOOK = PriceBook(version=1, currency="USD", meters=DEFAULT_METERS, prices=(UnitPrice(meter="requests", amount="0.25"),))
BUDGETS: list[dict[str, Any]] = [
    {"name": "agents", "scope": "agent", "subject": "*", "window": "month", "limit": "12", "currency": "USD"},
    {"name": "customers", "scope": "customer", "subject": "*", "window": "month", "limit": "60", "currency": "USD"},
    {"name": "teams", "scope": "team", "subject": "*", "window": "month", "limit": "9000", "meters": ["input_tokens"]},
    {"name": "all", "scope": "all", "subject": "*", "window": "month", "limit": "100", "currency": "USD"},
]
Used = dict[tuple[str, str], Fraction]
"""By budget and subject."""


class Sent:
    """What was sent, added up apart from the pipeline; all of it lies in one month, as the test takes care."""

    def __init__(self) -> None:
        self.number = 0
        self.used: defaultdict[tuple[str, str], Fraction] = defaultdict(Fraction)
        self.time_ms = time.time_ns() // 1_000_000

    def lines(self, partition: int) -> list[bytes]:
        made = []
        for _ in range(EVENTS_PER_BATCH):
            self.number += 1
            agent = agent_in(partition, PARTITIONS, self.number % 3)
            customer, team = ("acme", "globex")[self.number % 2], ("red", "blue")[self.number % 5 == 0]
            tokens = self.number % 40
            made.append(
                make_event(
                    f"e{self.number}",
                    subject=agent,
                    customer=customer,
                    time_ms=self.time_ms,
                    usage={"requests": 1, "input_tokens": tokens},
                    data={"tags": {"team": team}},
                )
            )
            for name in (("agents", agent), ("customers", customer), ("all", "*")):
                self.used[name] += Fraction(1, 4)
            self.used["teams", team] += tokens
        return made

    def alerts(self) -> set[tuple[str, str, str]]:
        limits = {budget["name"]: Fraction(budget["limit"]) for budget in BUDGETS}
        return {
            (name, subject, threshold)
            for (name, subject), amount in self.used.items()
            for threshold in ("50", "80", "100")
            if amount >= limits[name] * Fraction(threshold) / 100
        }


async def used(pipeline: Pipeline) -> Used:
    """As any reader of the topic adds it up: of each log the value with the highest position."""
    scopes = {budget["scope"]: budget for budget in BUDGETS}
    best: dict[bytes, PartialSum] = {}
    for partition in range(PARTITIONS):
        for record in await pipeline.records(Topic.BUDGET_STATE, partition):
            stored = decode_budget_state(record.value)
            if isinstance(stored, Marker) or record.key is None:
                continue
            if record.key not in best or best[record.key].position <= stored.position:
                best[record.key] = stored
    found: defaultdict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for stored in best.values():
        budget = scopes[stored.scope]
        found[budget["name"], stored.subject] += Fraction(
            (stored.usage or {})["input_tokens"] if "meters" in budget else stored.spend
        )
    return dict(found)


async def alerts(pipeline: Pipeline) -> list[tuple[bytes, Alert]]:
    """Every record on the topic."""
    return [
        (record.key or b"", decode_alert(record.value))
        for partition in range(PARTITIONS)
        for record in await pipeline.records(Topic.ALERTS, partition)
    ]


async def arrived(pipeline: Pipeline, sent: Sent, workers: list[Worker]) -> None:
    """Return when the sums are those of what was sent, and every alert that follows from them stands there."""
    deadline_s = time.monotonic() + 2 * PATIENCE_S
    while True:
        sums = await used(pipeline)
        raised = {(alert.budget, alert.subject, alert.threshold) for _, alert in await alerts(pipeline)}
        if sums == dict(sent.used) and raised >= sent.alerts():
            return
        for worker in workers:
            assert worker.process.poll() is None, worker.log()
        assert time.monotonic() < deadline_s, (sums, dict(sent.used), raised ^ sent.alerts())
        await asyncio.sleep(0.5)


def show(pipeline: Pipeline, *arguments: str) -> list[str]:
    """The lines of `meterproof budgets show`."""
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("meterproof")), "budgets", "show", f"--data={pipeline.data}"),
            *(f"--bootstrap={pipeline.kafka.bootstrap}", f"--prefix={pipeline.kafka.topic_prefix}", *arguments),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    return done.stdout.splitlines()


@pytest.mark.broker
@whatever_runs_it
async def test_two_workers_one_killed_alert_once_and_add_up_to_what_was_sent(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, runtime: Runtime
) -> None:
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path, partitions=PARTITIONS, runtime=runtime)
    await publish_price_book(pipeline.kafka, BOOK)
    LogKey(bytes(32)).save(tmp_path / "keys" / "log.key")
    (tmp_path / "budgets.json").write_bytes(orjson.dumps({"version": 1, "budgets": BUDGETS}))
    sent = Sent()
    with (
        pipeline.worker() as sequencer,
        pipeline.worker(stage="budgets", instance="left", METERPROOF_WORKER_SESSION_TIMEOUT_S="6") as left,
        pipeline.worker(stage="budgets", instance="right", METERPROOF_WORKER_SESSION_TIMEOUT_S="6") as right,
    ):
        left.wait_until_holding()
        right.wait_until_holding()
        for number in range(ROUNDS):
            for partition in range(PARTITIONS):
                await pipeline.send(partition, [pipeline.batch(partition, sent.lines(partition))])
            if number == ROUNDS // 2:
                left.kill()
        await arrived(pipeline, sent, [sequencer, right])
        # The one that was killed comes back, and takes its share without saying anything again.
        with pipeline.worker(stage="budgets", instance="left", METERPROOF_WORKER_SESSION_TIMEOUT_S="6") as back:
            back.wait_until_holding()
            for partition in range(PARTITIONS):
                await pipeline.send(partition, [pipeline.batch(partition, sent.lines(partition))])
            await arrived(pipeline, sent, [sequencer, back, right])
            assert back.stop() == CLEAN
        assert right.stop() == CLEAN
        assert sequencer.stop() == CLEAN
    shown = [line for line in await asyncio.to_thread(show, pipeline, "--json", "--final") if line]
    assert {(line["budget"], line["subject"]): Fraction(line["used"]) for line in map(orjson.loads, shown)} == sent.used
    (everything,) = [line for line in map(orjson.loads, shown) if line["scope"] == "all"]
    assert (everything["events"], len(everything["logs"])) == (sent.number, PARTITIONS)
    assert everything["alerts"] == ["50", "80", "100"]
    assert any("customer globex" in line for line in await asyncio.to_thread(show, pipeline, "--scope=customer"))
    raised = await alerts(pipeline)
    names = [(alert.budget, alert.subject, alert.threshold) for _, alert in raised]
    assert sorted(names) == sorted(sent.alerts())
    assert {budget for budget, _, _ in names} == {"agents", "customers", "teams", "all"}
    assert len({key for key, _ in raised}) == len(raised)
    for _, alert in raised:
        assert Fraction(alert.spend) >= Fraction(alert.limit) * Fraction(alert.threshold) / 100
        assert (alert.currency is None) == (alert.meters == ("input_tokens",))
