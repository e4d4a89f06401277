"""A deployment's topics: created once with the geneses of its logs, never altered."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiokafka.errors
from aiokafka.admin import NewTopic
from pydantic import ValidationError

from meterproof.kafka.connection import admin_client
from meterproof.kafka.errors import TopicsRefused
from meterproof.kafka.geneses import accepted_geneses, read_geneses
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_descriptions import OK, FoundTopic, describe_found
from meterproof_schemas.checkpoint_record import genesis_key
from meterproof_schemas.limits import (
    BATCH_BYTES_MAX,
    BATCH_LINES_MAX,
    FUTURE_TOLERANCE_MS,
    HORIZON_MS_DEFAULT,
    LINE_BYTES_MAX,
)
from meterproof_schemas.log_record import Genesis, Limits, make_genesis
from meterproof_schemas.topics import TOPICS, Topic, TopicSpec

MIN_ISR: Final = "min.insync.replicas"
"""Kafka's name for how many replicas must have a record before it is acknowledged."""
UNCLEAN: Final = "unclean.leader.election.enable"
"""Kafka's name for whether a replica that lags may lead, which loses what was acknowledged."""
_EXISTS: Final = 36
_READY_TIMEOUT_S: Final = 30.0
_READY_POLL_S: Final = 0.1
_NOT_IN_ORIGINS: Final = re.compile(r"\s|\+|://")
"""A log's name is also that of its signing key in notes (c2sp.org/signed-note), which forbids white space and plus."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a deployment's topics and logs are created with."""

    name: str
    """Schema-less URL that names the logs' owner, like `meter.example.com/production`."""
    deployment: str
    """The audience that batches must be signed for."""
    partitions: int
    """Number of logs; fixed for ever."""
    replication_factor: int = 1
    min_insync_replicas: int | None = None
    """Replicas that must have a record before it is acknowledged; None is 2 from three replicas on, else 1."""
    horizon_ms: int = HORIZON_MS_DEFAULT
    """How late an event may come."""
    corrections: bool = True
    """Whether the logs take corrections."""

    def limits(self) -> Limits:
        """The limits that stand in each genesis."""
        return Limits(
            line_bytes_max=LINE_BYTES_MAX,
            batch_bytes_max=BATCH_BYTES_MAX,
            batch_lines_max=BATCH_LINES_MAX,
            future_tolerance_ms=FUTURE_TOLERANCE_MS,
            horizon_ms=self.horizon_ms,
            corrections=self.corrections,
        )

    def count_of(self, spec: TopicSpec) -> int:
        """Partitions of one of its topics."""
        return self.partitions if spec.partitioned else 1

    def settings_of(self, spec: TopicSpec) -> dict[str, str]:
        """Topic-level settings of one of its topics, as Kafka names them."""
        replicas = self.min_insync_replicas
        if replicas is None:
            replicas = 2 if self.replication_factor > 2 else 1
        return {**spec.settings(), MIN_ISR: str(replicas), UNCLEAN: "false"}


@dataclass(frozen=True, slots=True)
class CreateReport:
    """What `create_topics` found and did. All names are full names."""

    created: tuple[str, ...]
    existing: tuple[str, ...]
    epoch: str
    origins: tuple[str, ...]
    """The logs' origins, by partition."""
    geneses_written: tuple[int, ...]
    """Partitions of `usage.log` that got their genesis now."""
    geneses_copied: tuple[int, ...]
    """Partitions whose genesis was copied to `usage.checkpoints` now."""


async def create_topics(
    settings: KafkaSettings,
    deployment: Deployment,
    *,
    now_ms: int,
    random_bytes: Callable[[int], bytes],
    on_progress: Callable[[str], None] | None = None,
) -> CreateReport:
    """Create what is missing of a deployment's topics and geneses. Repeating it changes nothing; it alters nothing.

    1. Refuse a deployment that no genesis could state. Look at all topics; refuse if one that exists has another number
       of partitions.
    2. Create those that are missing, each error code read.
    3. Wait until every partition has a leader.
    4. Read the accepted genesis of each log; refuse if one says something else than `deployment`.
    5. Write the missing ones, all under one epoch: the one of the logs that have a genesis, or a random one.
    6. Read them back: what readers accept is what counts, also where two calls ran at the same time.
    7. Copy each to `usage.checkpoints`, where it outlives trimming of the log.

    Args:
        settings: the cluster and the prefix.
        deployment: what to create.
        now_ms: the time, for the geneses.
        random_bytes: source of the epoch.
        on_progress: told about each step, in one line.

    Raises:
        TopicsRefused: something that exists contradicts `deployment`, or the brokers refuse a topic.
        KafkaProblem: the brokers do not answer or deny access.
    """
    tell = on_progress or (lambda _: None)
    names = {spec.topic: settings.topic(spec.topic) for spec in TOPICS}
    _refuse_impossible(settings, deployment)
    async with admin_client(settings) as admin:
        found = await describe_found(admin, list(names.values()), patience_s=0)
        _refuse_other_counts(settings, deployment, found)
        missing = [spec for spec in TOPICS if names[spec.topic] not in found]
        created = await _create(settings, admin, deployment, missing)
        for name in created:
            tell(f"created {name}")
        await _wait_until_ready(settings, admin, deployment)
    tell(f"all {len(TOPICS)} topics are ready")
    log = settings.topic(Topic.LOG)
    kept = await read_geneses(settings)
    geneses = await accepted_geneses(settings, deployment.partitions, kept)
    _refuse_other_geneses(settings, deployment, geneses)
    written = tuple(partition for partition, genesis in enumerate(geneses) if genesis is None)
    if written:
        epoch = next((genesis.epoch for _, genesis in filter(None, geneses)), None) or random_bytes(16).hex()
        async with RecordProducer(settings) as producer:
            for partition in written:
                value = _genesis_value(settings, deployment, partition, epoch, now_ms)
                await (await producer.send(log, partition, value))
                tell(f"wrote the genesis of {log}[{partition}]")
        geneses = await accepted_geneses(settings, deployment.partitions, kept)
        _refuse_other_geneses(settings, deployment, geneses)
    accepted = [found for found in geneses if found is not None]
    if len(accepted) != deployment.partitions:
        raise TopicsRefused(f"{log}: a genesis was written and cannot be read back; run `meterproof topics check`")
    copied = tuple(genesis.partition for _, genesis in accepted if genesis.origin not in kept)
    if copied:
        async with RecordProducer(settings) as producer:
            for value, genesis in accepted:
                if genesis.partition in copied:
                    checkpoints = settings.topic(Topic.CHECKPOINTS)
                    await (await producer.send(checkpoints, 0, value, genesis_key(genesis.origin)))
        tell(f"copied {len(copied)} geneses to {settings.topic(Topic.CHECKPOINTS)}")
    return CreateReport(
        created=created,
        existing=tuple(name for name in names.values() if name not in created),
        epoch=accepted[0][1].epoch,
        origins=tuple(genesis.origin for _, genesis in accepted),
        geneses_written=written,
        geneses_copied=copied,
    )


async def _create(
    settings: KafkaSettings,
    admin: Any,  # noqa: ANN401 - the library's admin client
    deployment: Deployment,
    specs: Sequence[TopicSpec],
) -> tuple[str, ...]:
    """Create topics; names of those that this call created."""
    if not specs:
        return ()
    answer = await admin.create_topics(
        [
            NewTopic(
                settings.topic(spec.topic),
                deployment.count_of(spec),
                deployment.replication_factor,
                topic_configs=deployment.settings_of(spec),
            )
            for spec in specs
        ]
    )
    created, refused = [], []
    for name, code, *message in answer.topic_errors:
        if code == OK:
            created.append(name)
        elif code != _EXISTS:  # another call was quicker: as good as created here
            refused.append(
                f"{name}: {message[0] if message and message[0] else aiokafka.errors.for_code(code).__name__}"
            )
    if refused:
        done = f"; created before that: {', '.join(created)}" if created else ""
        raise TopicsRefused(
            f"Kafka at {settings.bootstrap} refused {len(refused)} of {len(specs)} topics: {'; '.join(refused)}{done}. "
            "Correct the cause and run the same command again: it goes on where it stopped"
        )
    return tuple(created)


async def _wait_until_ready(settings: KafkaSettings, admin: Any, deployment: Deployment) -> None:  # noqa: ANN401
    names = [settings.topic(spec.topic) for spec in TOPICS]
    deadline_s = time.monotonic() + _READY_TIMEOUT_S
    while True:
        found = await describe_found(admin, names, patience_s=0)
        _refuse_other_counts(settings, deployment, {name: topic for name, topic in found.items() if topic.ready})
        waiting = [name for name in names if name not in found or not found[name].ready]
        if not waiting:
            return
        if time.monotonic() > deadline_s:
            raise TopicsRefused(
                f"no leader for every partition of {', '.join(waiting)} within {_READY_TIMEOUT_S:g} s. Check the "
                "brokers, then run the same command again: it goes on where it stopped"
            )
        await asyncio.sleep(_READY_POLL_S)


def _genesis_value(settings: KafkaSettings, deployment: Deployment, partition: int, epoch: str, now_ms: int) -> bytes:
    return make_genesis(
        name=deployment.name,
        epoch=epoch,
        deployment=deployment.deployment,
        source_topic=settings.topic(Topic.BATCHES),
        partition=partition,
        partitions=deployment.partitions,
        limits=deployment.limits(),
        created_ms=now_ms,
    )


def _refuse_impossible(settings: KafkaSettings, deployment: Deployment) -> None:
    if _NOT_IN_ORIGINS.search(deployment.name):
        raise TopicsRefused(
            f"name {deployment.name!r}: checkpoints name a log by a URL without schema, white space and '+', like "
            "meter.example.com/production"
        )
    try:
        _genesis_value(settings, deployment, 0, "0" * 32, 0)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise TopicsRefused(f"{'.'.join(map(str, fault['loc']))} {fault['input']!r}: {fault['msg']}") from None


def _refuse_other_counts(settings: KafkaSettings, deployment: Deployment, found: Mapping[str, FoundTopic]) -> None:
    for spec in TOPICS:
        name = settings.topic(spec.topic)
        if name in found and found[name].partitions != deployment.count_of(spec):
            raise TopicsRefused(
                f"{name} exists with {found[name].partitions} partitions, {deployment.count_of(spec)} were asked for. "
                "The number of partitions is fixed when a deployment is created: ask for the number that exists, or "
                "use another --prefix for a new deployment"
            )


def _refuse_other_geneses(
    settings: KafkaSettings, deployment: Deployment, geneses: Sequence[tuple[bytes, Genesis] | None]
) -> None:
    asked = {
        "name": deployment.name,
        "deployment": deployment.deployment,
        "partitions": deployment.partitions,
        "source_topic": settings.topic(Topic.BATCHES),
        "limits": deployment.limits(),
    }
    epochs = {genesis.epoch for _, genesis in filter(None, geneses)}
    if len(epochs) > 1:
        raise TopicsRefused(
            f"the logs of {settings.topic(Topic.LOG)} have {len(epochs)} epochs: two `meterproof topics create` ran at "
            "the same time. Delete the topics while they are empty, or use another prefix, and create them again"
        )
    for _, genesis in filter(None, geneses):
        for field, value in asked.items():
            if getattr(genesis, field) != value:
                raise TopicsRefused(
                    f"{settings.topic(Topic.LOG)}[{genesis.partition}] was created with {field} "
                    f"{_shown(getattr(genesis, field))}, asked for was {_shown(value)}. A genesis is fixed for ever: "
                    "ask for what exists, or use another --prefix for a new deployment"
                )


def _shown(value: object) -> str:
    return value.model_dump_json() if isinstance(value, Limits) else repr(value)
