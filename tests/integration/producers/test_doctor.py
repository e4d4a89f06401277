"""`meterproof doctor` tells each fault by its name, and its exit code tells the truth."""

import asyncio
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from meterproof.commands import doctor
from meterproof.deployment import DataFolder
from meterproof.doctor import CLOCK_TOLERANCE_MS, Finding, Subject, examine
from meterproof.kafka.price_books import publish_price_book
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import Deployment, create_topics
from meterproof.keys import ProducerKey
from meterproof.log_key import LogKey
from meterproof_local.broker import LocalBroker
from meterproof_schemas.keys import encode_registry
from meterproof_schemas.price_book import parse_price_book

pytestmark = pytest.mark.broker

PATIENCE_S = 60

BOOK = {"version": 1, "currency": "USD", "meters": [{"name": "requests", "unit": "request"}], "prices": []}


@pytest.fixture
async def subject(broker: LocalBroker, topic_prefix: str, tmp_path: Path) -> Subject:
    """A deployment in which everything is in order."""
    folder = DataFolder(tmp_path / "data")
    kafka = KafkaSettings(bootstrap=broker.bootstrap, topic_prefix=topic_prefix)
    key = ProducerKey(b"\x01" * 32)
    key.save(folder.keys / "gateway.key")
    LogKey(b"\x02" * 32).save(folder.log_key)
    LogKey(b"\x03" * 32).save(folder.next_log_key)  # as while the log key is changed
    entry = key.entry("gateway", sources=("gateway/*",), agents=("*",), customers=("*",))
    folder.registry.write_bytes(encode_registry([entry]))
    deployment = Deployment(name="meter.example.com/test", deployment="test", partitions=2)
    await create_topics(kafka, deployment, now_ms=1_000, random_bytes=os.urandom)
    await publish_price_book(kafka, parse_price_book(orjson.dumps(BOOK)))
    return Subject(folder, kafka, folder.registry, source="gateway/chat")


async def failed(subject: Subject, **arguments: Any) -> dict[str, Finding]:
    return {found.check: found async for found in examine(subject, **arguments) if found.outcome == "failed"}


def command(subject: Subject) -> list[str]:
    where = ["--data", str(subject.folder.root), "--bootstrap", subject.kafka.bootstrap]
    return [*where, "--prefix", subject.kafka.topic_prefix, "--source", str(subject.source)]


async def test_all_in_order(subject: Subject, capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(doctor.main, [*command(subject), "--json"]) == 0
    findings = orjson.loads(capsys.readouterr().out)
    assert {found["outcome"] for found in findings} == {"ok"}
    assert [found["check"] for found in findings] == [
        *("data_folder", "registry", "key gateway", "log_key"),
        *("broker", "topics", "partitions", "price_book", "clock"),
    ]


async def test_each_fault_has_its_name_and_a_remedy(subject: Subject, capsys: pytest.CaptureFixture[str]) -> None:
    other = await failed(replace(subject, source="billing"))
    assert list(other) == ["key gateway"]
    assert "key_not_allowed" in other["key gateway"].detail
    ProducerKey(b"\x03" * 32).save(subject.folder.keys / "stranger.key")
    unknown = await failed(subject)
    assert list(unknown) == ["key stranger"]
    assert "unknown_key" in unknown["key stranger"].detail
    subject.folder.log_key.chmod(0o644)
    subject.folder.registry.write_bytes(b"{")
    subject.folder.deployment_file.write_bytes(
        orjson.dumps(
            {
                "name": "meter.example.com/test",
                "deployment": "test",
                "bootstrap": subject.kafka.bootstrap,
                "topic_prefix": subject.kafka.topic_prefix,
                "partitions": 3,
            }
        )
    )
    found = await failed(subject)
    assert list(found) == ["registry", "log_key", "partitions"]
    assert all(finding.remedy for finding in found.values())
    assert await asyncio.to_thread(doctor.main, command(subject)) == 1
    shown = capsys.readouterr().out
    assert "failed  log_key" in shown
    assert "skipped key gateway" in shown


@pytest.mark.parametrize("wrong_by_ms", [-3_600_000, 3_600_000])
async def test_a_wrong_clock_is_measured_by_the_append_time(subject: Subject, wrong_by_ms: int) -> None:
    found = await failed(subject, now_ms=lambda: time.time_ns() // 1_000_000 + wrong_by_ms)
    assert abs(wrong_by_ms) > CLOCK_TOLERANCE_MS
    assert list(found) == ["clock"]
    assert ("ahead of" if wrong_by_ms > 0 else "behind") in found["clock"].detail
    told_s = re.search(r"clock is (\d+)\.\d s", found["clock"].detail)
    assert told_s is not None
    # Less by what the broker took for its answer.
    assert 3600 - PATIENCE_S <= int(told_s[1]) <= 3600


async def test_without_a_broker_or_topics_it_says_so_and_no_more(subject: Subject, topic_prefix: str) -> None:
    absent = replace(subject, kafka=subject.kafka.model_copy(update={"topic_prefix": f"{topic_prefix}absent."}))
    found = await failed(absent)
    assert set(found) == {"topics", "partitions", "price_book", "clock"}
    away = replace(subject, kafka=KafkaSettings(bootstrap="127.0.0.1:1"), folder=DataFolder(Path("/nowhere")))
    assert set(await failed(away)) == {"data_folder", "log_key", "broker"}
