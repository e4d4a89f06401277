"""Webhooks on a real broker: every alert to every endpoint that wants it, whatever fails, stops or is killed."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from meterproof.kafka.connection import admin_client
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import Deployment, create_topics
from meterproof.status import StatusFile, read_status
from meterproof_local.broker import LocalBroker
from meterproof_schemas.budget import Alert, alert_key, encode
from meterproof_schemas.delivery import Delivery
from meterproof_schemas.errors import InvalidRecord, StageStopped
from meterproof_schemas.instant import format_instant_ms
from meterproof_schemas.topics import Topic
from meterproof_sinks import webhook_lane, webhook_memory
from meterproof_sinks.webhook import run_webhooks
from meterproof_sinks.webhook_deliveries import forget, read_deliveries
from meterproof_sinks.webhook_endpoints import load_endpoints
from meterproof_sinks.webhook_message import message_of
from tests.alerts import alert
from tests.builders import DEPLOYMENT, NOW_MS
from tests.integration.sinks.webhook_receiver import (
    PATIENCE_S,
    SECRET,
    Received,
    Receiver,
    answers,
    eventually,
)
from tests.meterproof_command import PROGRAM

pytestmark = pytest.mark.broker

DEPLOYED = Deployment("meter.example.com/test", DEPLOYMENT, 2)


class Clock:
    """Time that passes when a test says so; or as it does."""

    def __init__(self) -> None:
        self.ahead_ms = 0
        self.asked = 0

    def now_ms(self) -> int:
        self.asked += 1
        return time.time_ns() // 1_000_000 + self.ahead_ms


@pytest.fixture
async def kafka(broker: LocalBroker, topic_prefix: str) -> KafkaSettings:
    settings = KafkaSettings(bootstrap=broker.bootstrap, topic_prefix=topic_prefix)
    await create_topics(settings, DEPLOYED, now_ms=NOW_MS, random_bytes=os.urandom)
    return settings


async def raise_alerts(kafka: KafkaSettings, *alerts: Alert) -> None:
    """Put alerts onto their topic, in turn onto its two partitions."""
    async with RecordProducer(kafka) as producer:
        for number, one in enumerate(alerts):
            await (await producer.send(kafka.topic(Topic.ALERTS), number % 2, encode(one), alert_key(one)))


def numbered(*numbers: int) -> list[Alert]:
    return [alert(f"agent-{number}") for number in numbers]


def endpoints_file(folder: Path, *entries: dict[str, Any]) -> Path:
    path = folder / "webhooks.json"
    path.write_bytes(orjson.dumps({"version": 1, "endpoints": entries}))
    return path


async def work(
    kafka: KafkaSettings,
    folder: Path,
    *entries: dict[str, Any],
    stop: asyncio.Event,
    clock: Clock | None = None,
    instance: str = "one",
) -> None:
    """The worker, in this process."""
    await run_webhooks(
        load_endpoints(endpoints_file(folder, *entries), {"WEBHOOK_SECRET": SECRET}),
        kafka,
        instance=instance,
        memory=folder / "webhook-deliveries.json",
        status=StatusFile(folder / "status", "webhook"),
        stop=stop,
        now_ms=(clock or Clock()).now_ms,
        draw=random.Random(1).random,
    )


@asynccontextmanager
async def running(
    kafka: KafkaSettings, folder: Path, *entries: dict[str, Any], clock: Clock | None = None, instance: str = "one"
) -> AsyncIterator[Callable[[], dict[str, Any]]]:
    """The worker as a task; gives a look at its endpoints' status. Stopped as it is asked to stop."""
    stop = asyncio.Event()
    task = asyncio.create_task(work(kafka, folder, *entries, stop=stop, clock=clock, instance=instance))

    def status() -> dict[str, Any]:
        assert not task.done(), task
        return dict((read_status(folder / "status", "webhook") or {}).get("endpoints", {}))

    try:
        yield status
    finally:
        stop.set()
        async with asyncio.timeout(PATIENCE_S):
            await task


async def recorded(kafka: KafkaSettings, endpoint: str, count: int) -> None:
    """Wait until something is recorded of so many of an endpoint's messages."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if sum(one.endpoint == endpoint for one in await read_deliveries(kafka)) >= count:
                return
            await asyncio.sleep(0.05)


async def delivered(kafka: KafkaSettings, endpoint: str, count: int) -> dict[str, Delivery]:
    """An endpoint's deliveries by message id, once so many are final."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = [one for one in await read_deliveries(kafka) if one.endpoint == endpoint]
            if sum(one.outcome != "retrying" for one in found) >= count:
                return {one.id: one for one in found}
            await asyncio.sleep(0.05)


async def test_every_alert_comes_once_over_restarts(kafka: KafkaSettings, tmp_path: Path) -> None:
    """Also: raised again it is not sent again, a changed limit is another alert, other people's records are let be."""
    async with RecordProducer(kafka) as producer:
        await (await producer.send(kafka.topic(Topic.DELIVERIES), 0, None, b"a probe"))
        await (await producer.send(kafka.topic(Topic.DELIVERIES), 0, b"{}", b"mail|a|b"))
        await (await producer.send(kafka.topic(Topic.ALERTS), 0, None, b"taken away"))
        await (await producer.send(kafka.topic(Topic.ALERTS), 0, b'{"v":2}', b"of a later version"))
    async with Receiver() as receiver:
        await raise_alerts(kafka, *numbered(1, 2, 3, 4, 5, 6))
        old = alert("agent-old", append_ms=1)
        await raise_alerts(kafka, old, alert("other", budget="other"))
        entry = receiver.entry("one", filter={"budgets": ["dai*"]})
        async with running(kafka, tmp_path, entry) as status:
            await delivered(kafka, "one", 6)
            await eventually(lambda: status().get("one", {}).get("unreadable") == 1)
        assert sorted(receiver.subjects) == [f"agent-{number}" for number in range(1, 7)]
        await raise_alerts(kafka, *numbered(1, 2, 7), alert("agent-3", spend="99"), alert("agent-3", limit="50"))
        async with running(kafka, tmp_path, entry) as status:
            records = await delivered(kafka, "one", 8)
            await raise_alerts(kafka, *numbered(1, 7, 8))
            await delivered(kafka, "one", 9)
            await eventually(lambda: status().get("one", {}).get("waiting") == 0)
        assert sorted(receiver.subjects[6:]) == ["agent-3", "agent-7", "agent-8"]
        assert len(set(receiver.ids)) == 9
        first = records[message_of(alert("agent-1")).id]
        assert (first.outcome, first.attempts, first.status, first.reason) == ("delivered", 1, 200, None)
        assert first.alert == alert_key(alert("agent-1")).decode()
        shown = read_status(tmp_path / "status", "webhook") or {}
        assert shown["state"] == "stopped"
        assert b"T0KEN" not in orjson.dumps(shown)


async def make_again(kafka: KafkaSettings, topic: Topic) -> None:
    """Delete a topic and create it again."""
    async with admin_client(kafka) as admin:
        await admin.delete_topics([kafka.topic(topic)])
        while kafka.topic(topic) in await admin.list_topics():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    await create_topics(kafka, DEPLOYED, now_ms=NOW_MS, random_bytes=os.urandom)


async def test_alerts_of_a_topic_that_is_made_again_meanwhile_are_delivered(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    async with Receiver() as receiver:
        async with running(kafka, tmp_path, receiver.entry("one")):
            await raise_alerts(kafka, *numbered(1, 2, 3, 4))
            await delivered(kafka, "one", 4)
            await make_again(kafka, Topic.ALERTS)
            await raise_alerts(kafka, *numbered(4, 5))
            await delivered(kafka, "one", 5)
        assert sorted(receiver.subjects) == [f"agent-{number}" for number in range(1, 6)]


async def test_deliveries_that_were_lost_stop_the_worker_also_before_its_start(
    kafka: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every alert would be sent again."""
    monkeypatch.setattr(webhook_memory, "_LOOK_AGAIN_S", 0.01)
    memory = tmp_path / "webhook-deliveries.json"
    async with Receiver() as receiver:
        entry = receiver.entry("one")
        await raise_alerts(kafka, *numbered(1, 2))
        working = asyncio.create_task(work(kafka, tmp_path, entry, stop=asyncio.Event()))
        await delivered(kafka, "one", 2)
        await eventually(memory.exists)
        await make_again(kafka, Topic.DELIVERIES)
        await raise_alerts(kafka, *numbered(3))
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(StageStopped, match="log_diverged"):
                await working
            with pytest.raises(StageStopped, match="was deleted and made again"):
                await work(kafka, tmp_path, entry, stop=asyncio.Event())
            memory.write_bytes(orjson.dumps({"topic": kafka.topic(Topic.DELIVERIES), "topic_id": None, "next": 99}))
            with pytest.raises(StageStopped, match="went up to 99"):
                await work(kafka, tmp_path, entry, stop=asyncio.Event())
        memory.unlink()
        async with running(kafka, tmp_path, receiver.entry("one", since=format_instant_ms(NOW_MS * 2))):
            await eventually(memory.exists)
        assert set(receiver.subjects) <= {"agent-1", "agent-2", "agent-3"}
        assert len(receiver.subjects) == len(set(receiver.subjects))


async def test_an_endpoint_that_hangs_or_fails_delays_no_other(
    kafka: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_lane, "WAITING_MAX", 3)
    let = asyncio.Event()

    async def hang(received: Received, before: int) -> web.StreamResponse:
        await let.wait()
        return web.Response()

    async with Receiver(hang) as hanging, Receiver(answers(500)) as failing, Receiver() as good:
        entries = [
            hanging.entry("hanging", timeout_s=60),
            failing.entry("failing", attempts_max=1000),
            good.entry("good"),
        ]
        async with running(kafka, tmp_path, *entries) as status:
            await raise_alerts(kafka, *numbered(*range(10)))
            await delivered(kafka, "good", 10)
            await eventually(lambda: status().get("failing", {}).get("failing") == "answered 500")
            await eventually(lambda: len(hanging.received) == 1)
            await eventually(lambda: status().get("failing", {}).get("waiting") == 3)
            assert len(set(failing.subjects)) <= 3  # what it cannot hold, it has not read
            failing.answer = answers(200)
            let.set()
            await delivered(kafka, "failing", 10)
            await delivered(kafka, "hanging", 10)
        assert sorted(set(failing.subjects)) == sorted(hanging.subjects) == sorted(good.subjects)
        assert len(good.received) == len(hanging.received) == 10


async def test_what_is_retried_and_what_is_given_up(kafka: KafkaSettings, tmp_path: Path) -> None:
    said = {"agent-0": (500, 429, 408, 302, 204), "agent-1": (410,), "agent-2": (404,), "agent-3": (503,)}

    async def answer(received: Received, before: int) -> web.StreamResponse:
        return await answers(*said[received.subject])(received, before)

    async with Receiver(answer) as receiver:
        await raise_alerts(kafka, *numbered(0, 1, 2, 3))
        entry = receiver.entry("one", attempts_max=6)
        async with running(kafka, tmp_path, entry):
            records = await delivered(kafka, "one", 4)
            # What was given up is sent again when an operator says so, under the same ids, by the worker that runs.
            receiver.answer = answers(200)
            await forget(kafka, [one for one in records.values() if one.outcome == "dead"])
            await eventually(lambda: len(receiver.received) == 13 + 3)
            again = await delivered(kafka, "one", 4)
        found = {one.alert.split("|")[1]: (one.outcome, one.attempts, one.status) for one in records.values()}
        assert found == {
            "agent:agent-0": ("delivered", 5, 204),
            "agent:agent-1": ("dead", 1, 410),
            "agent:agent-2": ("dead", 1, 404),
            "agent:agent-3": ("dead", 6, 503),
        }
        assert {one.outcome for one in again.values()} == {"delivered"}
        assert set(receiver.ids[13:]) == {one.id for one in records.values() if one.outcome == "dead"}
        assert len(receiver.received) == 13 + 3


async def test_of_two_workers_one_sends_and_the_other_stands_by(kafka: KafkaSettings, tmp_path: Path) -> None:
    def senders() -> list[str]:
        told = {one: read_status(tmp_path / one / "status", "webhook") or {} for one in "ab"}
        return [one for one, status in told.items() if status.get("state") == "running"]

    async with Receiver() as receiver:
        entry = receiver.entry("one")
        for one in "ab":
            (tmp_path / one).mkdir()
        async with running(kafka, tmp_path / "a", entry, instance="a"):
            await raise_alerts(kafka, *numbered(1, 2))
            await delivered(kafka, "one", 2)
            async with running(kafka, tmp_path / "b", entry, instance="b"):
                await raise_alerts(kafka, *numbered(3, 4, 5))
                await delivered(kafka, "one", 5)
                await eventually(lambda: len(senders()) == 1)
            await raise_alerts(kafka, *numbered(6))  # whoever it was: one is left, and goes on
            await delivered(kafka, "one", 6)
        assert sorted(receiver.subjects) == [f"agent-{number}" for number in range(1, 7)]


@pytest.mark.slow
async def test_one_that_stood_still_sends_nothing_that_another_sent(kafka: KafkaSettings, tmp_path: Path) -> None:
    """Stopped in the middle of its turn, it wakes up with alerts to send that its successor has sent meanwhile."""
    sleeper = Worker(kafka, tmp_path)
    async with Receiver() as receiver:
        entry = receiver.entry("one")
        endpoints_file(tmp_path, entry)
        (tmp_path / "b").mkdir()
        try:
            await raise_alerts(kafka, *numbered(1))
            await sleeper.start()
            await delivered(kafka, "one", 1)
            sleeper.send_signal(signal.SIGSTOP)
            await raise_alerts(kafka, *numbered(2, 3, 4))
            async with running(kafka, tmp_path / "b", entry, instance="b"):
                await delivered(kafka, "one", 4)
                sleeper.send_signal(signal.SIGCONT)
                await eventually(lambda: b"webhook_turn_ends" in sleeper.said())
                await raise_alerts(kafka, *numbered(5))
                await delivered(kafka, "one", 5)
            assert await sleeper.end(signal.SIGTERM) == 0
        finally:
            await sleeper.end(signal.SIGKILL)
        assert sorted(receiver.subjects) == [f"agent-{number}" for number in range(1, 6)]


async def test_retry_after_is_kept_for_the_whole_endpoint_also_over_a_restart(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    clock = Clock()
    async with Receiver(answers(429, 200, headers={"retry-after": "3600"})) as receiver:
        await raise_alerts(kafka, alert("agent-1"))
        entry = receiver.entry("one", longest_pause_ms=10_000_000)
        async with running(kafka, tmp_path, entry, clock=clock) as status:
            await eventually(lambda: status().get("one", {}).get("retries") == 1)
            await raise_alerts(kafka, alert("agent-2"), alert("agent-1"))
            await eventually(lambda: status().get("one", {}).get("waiting") == 2)
            clock.ahead_ms += 3_000_000
            await asyncio.sleep(1)  # long enough for one that does not wait to be seen
            assert receiver.subjects == ["agent-1"]
            assert status()["one"]["waiting"] == 2  # raised again, it waits once
        (record,) = await read_deliveries(kafka)
        assert (record.outcome, record.attempts, record.reason) == ("retrying", 1, "answered 429")
        assert record.next_attempt is not None
        assert record.next_attempt > format_instant_ms(clock.now_ms() + 60_000)
        receiver.answer = answers(200)
        async with running(kafka, tmp_path, entry, clock=clock):
            await delivered(kafka, "one", 1)
            assert receiver.subjects == ["agent-1", "agent-2"]
            clock.ahead_ms += 700_000
            records = await delivered(kafka, "one", 2)
        assert receiver.subjects == ["agent-1", "agent-2", "agent-1"]
        assert records[message_of(alert("agent-1")).id].attempts == 2


async def test_a_clock_that_is_set_back_keeps_nothing_waiting_for_longer(kafka: KafkaSettings, tmp_path: Path) -> None:
    clock = Clock()
    async with Receiver(answers(429, 200, headers={"retry-after": "3600"})) as receiver:
        await raise_alerts(kafka, alert("agent-1"))
        async with running(kafka, tmp_path, receiver.entry("one", longest_pause_ms=10_000_000), clock=clock) as status:
            await eventually(lambda: status().get("one", {}).get("retries") == 1)
            clock.ahead_ms -= 24 * 3_600_000
            seen = clock.asked + 10
            await eventually(lambda: clock.asked > seen)
            assert receiver.subjects == ["agent-1"]
            clock.ahead_ms += 3_700_000
            await delivered(kafka, "one", 1)
        assert receiver.subjects == ["agent-1", "agent-1"]


async def test_a_delivery_of_a_later_version_stops_the_worker_until_it_is_taken_away(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    """What it says of a message is not known, so sending could repeat what is done."""
    key = b"webhook|one|alert_1"
    async with RecordProducer(kafka) as producer:
        await (await producer.send(kafka.topic(Topic.DELIVERIES), 0, b'{"v":2}', key))
    async with Receiver() as receiver:
        with pytest.raises(
            InvalidRecord, match=r"offset 0: delivery: .* its key, webhook\|one\|alert_1, takes it away"
        ):
            async with asyncio.timeout(PATIENCE_S):
                await work(kafka, tmp_path, receiver.entry("one"), stop=asyncio.Event())
        assert receiver.received == []
    async with RecordProducer(kafka) as producer:
        await (await producer.send(kafka.topic(Topic.DELIVERIES), 0, None, key))
    assert await read_deliveries(kafka) == []


class Worker:
    """The worker as a process of its own."""

    def __init__(self, kafka: KafkaSettings, folder: Path) -> None:
        self._options = [f"--data={folder}", f"--bootstrap={kafka.bootstrap}", f"--prefix={kafka.topic_prefix}"]
        self._said = folder / "said"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        environment = os.environ | {"WEBHOOK_SECRET": SECRET, "METERPROOF_HEALTH_PORT": "0"}
        with self._said.open("ab") as said:
            self._process = await asyncio.create_subprocess_exec(
                *PROGRAM, "sink", "webhook", "run", *self._options, env=environment, stdout=said, stderr=said
            )

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        assert self._process.returncode is None
        self._process.send_signal(number)

    async def end(self, number: signal.Signals) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        async with asyncio.timeout(PATIENCE_S):
            return await self._process.wait()

    async def command(self, *arguments: str) -> str:
        """Run another command of `meterproof sink webhook`; what it printed."""
        process = await asyncio.create_subprocess_exec(
            *PROGRAM, "sink", "webhook", *arguments, *self._options, stdout=asyncio.subprocess.PIPE
        )
        printed, _ = await process.communicate()
        assert process.returncode == 0
        return printed.decode()

    def said(self) -> bytes:
        return self._said.read_bytes()


async def test_a_topic_that_holds_more_when_it_was_made_again_is_read_from_its_beginning(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    """The worker stands still meanwhile: where it would read on, there are records again, and others before them."""
    worker = Worker(kafka, tmp_path)
    async with Receiver() as receiver:
        endpoints_file(tmp_path, receiver.entry("one"))
        try:
            await raise_alerts(kafka, *numbered(1, 2, 3, 4))
            await worker.start()
            await delivered(kafka, "one", 4)
            worker.send_signal(signal.SIGSTOP)
            await make_again(kafka, Topic.ALERTS)
            await raise_alerts(kafka, *numbered(*range(4, 11)))
            worker.send_signal(signal.SIGCONT)
            await delivered(kafka, "one", 10)
            assert await worker.end(signal.SIGTERM) == 0
        finally:
            await worker.end(signal.SIGKILL)
        assert sorted(set(receiver.subjects)) == sorted(f"agent-{number}" for number in range(1, 11))


@pytest.mark.slow
async def test_killed_between_any_two_steps(kafka: KafkaSettings, tmp_path: Path) -> None:
    """Kill -9 with the message taken and not recorded, with the record made, and while it waits to be tried again."""
    worker = Worker(kafka, tmp_path)

    async def kill_first(received: Received, before: int) -> web.StreamResponse:
        if before == 0 and received.subject == "agent-1":
            worker.kill()
        return web.Response()

    async with Receiver(kill_first) as receiver:
        endpoints_file(tmp_path, receiver.entry("one", first_pause_ms=60_000, longest_pause_ms=60_000))
        try:
            await raise_alerts(kafka, alert("agent-1"))
            await worker.start()
            await eventually(lambda: len(receiver.received) == 1)
            assert await worker.end(signal.SIGKILL) == -signal.SIGKILL
            assert await read_deliveries(kafka) == []

            await worker.start()  # taken and not recorded: it comes again, under the same id
            await delivered(kafka, "one", 1)
            assert receiver.ids == [message_of(alert("agent-1")).id] * 2
            assert receiver.received[0].body == receiver.received[1].body
            assert await worker.end(signal.SIGKILL) == -signal.SIGKILL

            receiver.answer = answers(500)
            await raise_alerts(kafka, alert("agent-2"))
            await worker.start()  # recorded: it does not come again
            await eventually(lambda: len(receiver.received) == 3)
            await recorded(kafka, "one", 2)
            assert await worker.end(signal.SIGKILL) == -signal.SIGKILL

            receiver.answer = answers(200)
            endpoints_file(tmp_path, receiver.entry("one"))  # a pause of 60 s is cut to the longest there is now
            await raise_alerts(kafka, alert("agent-3"))
            await worker.start()  # waits to be tried again: it is not forgotten, and goes on counting
            records = await delivered(kafka, "one", 3)
            assert await worker.end(signal.SIGTERM) == 0
        finally:
            await worker.end(signal.SIGKILL)
        assert receiver.subjects[:3] == ["agent-1", "agent-1", "agent-2"]
        assert sorted(receiver.subjects[3:]) == ["agent-2", "agent-3"]
        attempts = {one.alert.split("|")[1]: one.attempts for one in records.values()}
        assert attempts == {"agent:agent-1": 1, "agent:agent-2": 2, "agent:agent-3": 1}
        said = worker.said()
        assert b"delivery_failed" in said
        for secret in (SECRET.encode(), b"T0KEN"):
            assert secret not in said


async def test_what_was_given_up_is_listed_and_sent_again(kafka: KafkaSettings, tmp_path: Path) -> None:
    async with Receiver(answers(410)) as receiver:
        await raise_alerts(kafka, alert("agent-1"))
        async with running(kafka, tmp_path, receiver.entry("one"), receiver.entry("two")):
            await delivered(kafka, "one", 1)
            await delivered(kafka, "two", 1)
    worker = Worker(kafka, tmp_path)
    listed = [orjson.loads(line) for line in (await worker.command("dead", "--json")).splitlines()]
    assert [(one["endpoint"], one["status"]) for one in sorted(listed, key=lambda one: str(one["endpoint"]))] == [
        ("one", 410),
        ("two", 410),
    ]
    assert "1 attempt: answered 410" in await worker.command("dead", "--endpoint=one", "--send-again")
    assert await worker.command("dead", "--endpoint=one") == ""
    assert len((await worker.command("dead")).splitlines()) == 1
