"""What must be in order before anything is counted, looked at one by one; nothing is changed by looking."""

import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from meterproof.deployment import DataFolder
from meterproof.errors import MeterError
from meterproof.kafka.errors import BrokerUnreachable, KafkaProblem
from meterproof.kafka.geneses import read_genesis
from meterproof.kafka.price_books import read_price_books
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_check import check_topics
from meterproof.kafka.topic_descriptions import partitions_of
from meterproof.keys import ProducerKey
from meterproof.log_key import LogKey
from meterproof_schemas.errors import ContractError
from meterproof_schemas.keys import KeyEntry, KeyRegistry, load_registry, matches
from meterproof_schemas.topics import Topic

CLOCK_TOLERANCE_MS: Final = 30_000
"""How far this machine's clock may be from the broker's: a tenth of what makes an event `in_future`."""
_PROBE_KEY: Final = b"doctor"

Outcome = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """Its name, which does not change between versions."""
    outcome: Outcome
    """`skipped`: what it rests on is not there, or it was not asked for."""
    detail: str
    remedy: str = ""
    """What to do; empty unless it failed."""

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked at."""

    folder: DataFolder
    kafka: KafkaSettings
    registry: Path
    key: Path | None = None
    """A producer's key file; None looks at every producer key of the data folder."""
    source: str | None = None
    """A source that the key is to report for."""


async def examine(
    subject: Subject, *, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
) -> AsyncIterator[Finding]:
    """Look at everything, cheapest first: folder, keys and registry here; then broker, topics, price book and clock.

    The clock is compared by one tombstone under the key `doctor` on `usage.deliveries`, whose append time the broker
    states; it says nothing about any delivery, and compaction removes it.
    """
    yield _writable(subject.folder.root)
    registry = _registry(subject.registry)
    yield (
        registry
        if isinstance(registry, Finding)
        else Finding("registry", "ok", f"{subject.registry}: {len(registry.entries)} keys")
    )
    for finding in _keys(subject, None if isinstance(registry, Finding) else registry, now_ms()):
        yield finding
    yield _log_key(subject.folder.log_key)
    async for finding in _kafka(subject, now_ms):
        yield finding


def _writable(root: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        return Finding(
            "data_folder",
            "failed",
            f"{root}: {error.strerror}",
            "name the deployment's folder with --data; it must exist, have room, and belong to this user",
        )
    return Finding("data_folder", "ok", f"{root} can be written")


def _registry(path: Path) -> KeyRegistry | Finding:
    try:
        return load_registry(path)
    except OSError as error:
        fault = f"{path}: {error.strerror}"
    except ContractError as error:
        fault = str(error)
    return Finding(
        "registry", "failed", fault, "make it from public keys with `meterproof keygen`, or name it with --registry"
    )


def _keys(subject: Subject, registry: KeyRegistry | None, now_ms: int) -> list[Finding]:
    """Each producer key: whether the registry knows it, it is valid now, and it may speak for the source."""
    paths = sorted(subject.folder.keys.glob("*.key")) if subject.key is None else [subject.key]
    findings = []
    for path in paths:
        if subject.key is None and path in {subject.folder.log_key, subject.folder.next_log_key}:
            continue
        name = f"key {path.stem}"
        try:
            key_id = ProducerKey.load(path).key_id
        except MeterError as error:
            findings.append(Finding(name, "failed", str(error), "make a key with `meterproof keygen`"))
            continue
        if registry is None:
            findings.append(Finding(name, "skipped", "there is no registry to look it up in"))
        else:
            findings.append(_key(name, key_id, registry.entries.get(key_id), subject, now_ms))
    if not findings:
        findings.append(Finding("key", "skipped", f"no producer's key in {subject.folder.keys}; name one with --key"))
    return findings


def _key(name: str, key_id: str, entry: KeyEntry | None, subject: Subject, now_ms: int) -> Finding:
    where = subject.registry
    if entry is None:
        return Finding(
            name, "failed", f"{key_id[:16]}… is not in {where}: unknown_key", f"add its public half to {where}"
        )
    state = entry.state_at(now_ms)
    if state != "valid":
        fault = "revoked" if state == "revoked" else "outside its validity"
        return Finding(name, "failed", f"{key_id[:16]}… is {fault} now", f"rotate it: a new key and entry in {where}")
    if subject.source is not None and not matches(entry.sources, subject.source):
        return Finding(
            name,
            "failed",
            f"{key_id[:16]}… may not report for source {subject.source!r}, only for {', '.join(entry.sources)}: "
            "key_not_allowed",
            f"add the source to the key's entry in {where}, or correct `source`",
        )
    may = subject.source or ", ".join(entry.sources)
    return Finding(name, "ok", f"{key_id[:16]}… speaks for producer {entry.producer}, sources {may}")


def _log_key(path: Path) -> Finding:
    try:
        LogKey.load(path)
    except MeterError as error:
        return Finding("log_key", "failed", str(error), "checkpoints are signed with it: `meterproof keygen log`")
    return Finding("log_key", "ok", f"{path} is a log key, readable by its owner only")


async def _kafka(subject: Subject, now_ms: Callable[[], int]) -> AsyncIterator[Finding]:
    kafka = subject.kafka
    try:
        faults = await check_topics(kafka)
    except KafkaProblem as error:
        what = "does not answer" if isinstance(error, BrokerUnreachable) else "cannot be used"
        yield Finding("broker", "failed", str(error), f"{kafka.bootstrap} {what}: start it, or correct --bootstrap")
        for name in ("topics", "partitions", "price_book", "clock"):
            yield Finding(name, "skipped", "it needs the broker")
        return
    yield Finding("broker", "ok", f"{kafka.bootstrap} answers")
    if not faults:
        yield Finding("topics", "ok", "all topics are as the contract says")
    for fault in faults:
        yield Finding("topics", "failed", f"{fault.topic} {fault.fault}", fault.remedy)
    for name, look, remedy in (
        ("partitions", _partitions, "`meterproof topics check` says more"),
        ("price_book", _price_book, "`meterproof prices publish FILE` puts a version back; `topics check` says more"),
    ):
        try:
            yield await look(subject)
        except (KafkaProblem, ContractError) as error:
            yield Finding(name, "failed", str(error), remedy)
    try:
        yield await _clock(kafka, now_ms)
    except KafkaProblem as error:
        yield Finding("clock", "failed", str(error), "without a topic to write to, the clocks cannot be compared")


async def _partitions(subject: Subject) -> Finding:
    kafka = subject.kafka
    counts = {
        kafka.topic(topic): await partitions_of(kafka, kafka.topic(topic)) for topic in (Topic.BATCHES, Topic.LOG)
    }
    genesis = await read_genesis(kafka, 0)
    counts["genesis"] = genesis.partitions
    if subject.folder.deployment_file.exists():
        counts[subject.folder.deployment_file.name] = subject.folder.deployment().partitions
    told = ", ".join(f"{name} {count}" for name, count in counts.items())
    if len(set(counts.values())) > 1:
        remedy = "the number of partitions is fixed for ever: use another prefix for a new deployment"
        return Finding("partitions", "failed", told, remedy)
    return Finding("partitions", "ok", f"{genesis.partitions} everywhere: {', '.join(counts)}")


async def _price_book(subject: Subject) -> Finding:
    books = await read_price_books(subject.kafka)
    if not books:
        remedy = "publish one with `meterproof prices publish FILE`"
        return Finding("price_book", "failed", "none is published, so nothing has a price", remedy)
    newest = max(books)
    return Finding("price_book", "ok", f"version {newest} is in force, {len(books[newest].prices)} prices")


async def _clock(kafka: KafkaSettings, now_ms: Callable[[], int]) -> Finding:
    topic = kafka.topic(Topic.DELIVERIES)
    async with RecordProducer(kafka) as producer:
        await (await producer.send(topic, 0, None, _PROBE_KEY))  # the first one also pays for the connection
        before_ms = now_ms()
        delivery = await (await producer.send(topic, 0, None, _PROBE_KEY))
        after_ms = now_ms()
    # The broker appended between the two, so only what is outside of them is a difference of clocks.
    ahead_ms = max(before_ms - delivery.timestamp_ms, 0) - max(delivery.timestamp_ms - after_ms, 0)
    if abs(ahead_ms) > CLOCK_TOLERANCE_MS:
        return Finding(
            "clock",
            "failed",
            f"this machine's clock is {abs(ahead_ms) / 1000:.1f} s {'ahead of' if ahead_ms > 0 else 'behind'} the "
            "broker's append time",
            "let both follow NTP: events 5 minutes ahead are refused as in_future",
        )
    return Finding("clock", "ok", f"within {max(abs(ahead_ms), after_ms - before_ms)} ms of the broker's append time")
