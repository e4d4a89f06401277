"""A deployment's topics: created once with the geneses of its logs, checked at every start, never altered."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiokafka.errors
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from pydantic import ValidationError

from meterproof.kafka.connection import LAG_S, admin_client, describe_topics
from meterproof.kafka.errors import GenesisMissing, KafkaRefused, TopicMissing, TopicsRefused, TopicsUnfit
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.chain import LogChain
from meterproof_schemas.checkpoint_record import genesis_key
from meterproof_schemas.errors import InvalidRecord, StageStopped
from meterproof_schemas.limits import (
    BATCH_BYTES_MAX,
    BATCH_LINES_MAX,
    FUTURE_TOLERANCE_MS,
    HORIZON_MS_DEFAULT,
    LINE_BYTES_MAX,
)
from meterproof_schemas.log_record import Genesis, Limits, LogRecord, decode_record, make_genesis
from meterproof_schemas.topics import TOPICS, Topic, TopicSpec

_OK: Final = 0
_EXISTS: Final = 36
_READY_TIMEOUT_S: Final = 30.0
_READY_POLL_S: Final = 0.1
_READERS_AT_ONCE: Final = 8
_MIN_ISR: Final = "min.insync.replicas"
_UNCLEAN: Final = "unclean.leader.election.enable"
_NOT_IN_ORIGINS: Final = re.compile(r"\s|\+|://")
"""A log's name is also that of its signing key in notes (c2sp.org/signed-note), which forbids white space and plus."""
_GENESIS_KEY_END: Final = genesis_key("")


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
    corrections: bool = False
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
        return {**spec.settings(), _MIN_ISR: str(replicas), _UNCLEAN: "false"}


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


@dataclass(frozen=True, slots=True)
class TopicFault:
    """One thing that is not as the contract says, and what an operator does about it."""

    topic: str
    """Full name."""
    fault: str
    remedy: str
    """A command, or a sentence; nothing is ever altered by meterproof itself."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A topic as the brokers describe it."""

    partitions: int
    replicas: int
    """The smallest number of replicas of any partition."""
    ready: bool
    """Whether every partition has a leader."""


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
        found = await _describe(admin, list(names.values()), patience_s=0)
        _refuse_other_counts(settings, deployment, found)
        missing = [spec for spec in TOPICS if names[spec.topic] not in found]
        created = await _create(settings, admin, deployment, missing)
        for name in created:
            tell(f"created {name}")
        await _wait_until_ready(settings, admin, deployment)
    tell(f"all {len(TOPICS)} topics are ready")
    log = settings.topic(Topic.LOG)
    kept = await read_geneses(settings)
    geneses = await _accepted_geneses(settings, deployment.partitions, kept)
    _refuse_other_geneses(settings, deployment, geneses)
    written = tuple(partition for partition, genesis in enumerate(geneses) if genesis is None)
    if written:
        epoch = next((genesis.epoch for _, genesis in filter(None, geneses)), None) or random_bytes(16).hex()
        async with RecordProducer(settings) as producer:
            for partition in written:
                value = _genesis_value(settings, deployment, partition, epoch, now_ms)
                await (await producer.send(log, partition, value))
                tell(f"wrote the genesis of {log}[{partition}]")
        geneses = await _accepted_geneses(settings, deployment.partitions, kept)
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


async def require_fit_topics(settings: KafkaSettings) -> None:
    """What a worker asks before it starts.

    Raises:
        TopicsUnfit: the topics are not as the contract says.
        KafkaProblem: the brokers do not answer or deny access.
    """
    if faults := await check_topics(settings):
        lines = "\n".join(f"  {fault.topic}: {fault.fault}; {fault.remedy}" for fault in faults)
        raise TopicsUnfit(f"the topics are not as the contract says:\n{lines}")


async def check_topics(settings: KafkaSettings) -> list[TopicFault]:
    """Compare the deployment's topics with the contract; an empty list means that workers may start.

    Raises:
        KafkaProblem: the brokers do not answer or deny access.
    """
    names = {spec: settings.topic(spec.topic) for spec in TOPICS}
    async with admin_client(settings) as admin:
        found = await _describe(admin, list(names.values()))
        present = {spec: name for spec, name in names.items() if name in found}
        configs = await _configs(settings, admin, list(present.values()))
    faults = [
        TopicFault(name, "does not exist", _create_command(settings)) for name in names.values() if name not in found
    ]
    for spec, name in present.items():
        faults += _setting_faults(settings, spec, name, configs[name], found[name].replicas)
    log, checkpoints = settings.topic(Topic.LOG), settings.topic(Topic.CHECKPOINTS)
    if log not in found:
        return faults
    faults += _count_faults(present, found, found[log].partitions)
    kept = await read_geneses(settings) if checkpoints in found else {}
    geneses: list[tuple[bytes, Genesis] | None] = []
    try:
        geneses = await _accepted_geneses(settings, found[log].partitions, kept)
    except (StageStopped, TopicsRefused) as error:
        faults.append(TopicFault(log, str(error), "keep the topic as it is and compare it with the audit folder"))
    known = next((genesis for _, genesis in filter(None, geneses)), None)
    for partition, genesis in enumerate(geneses):
        if genesis is None:
            faults.append(TopicFault(log, f"partition {partition} has no genesis", _create_command(settings, known)))
        else:
            faults += _genesis_faults(settings, partition, genesis, found[log].partitions, kept)
    if len({genesis.epoch for _, genesis in filter(None, geneses)}) > 1:
        faults.append(
            TopicFault(
                log,
                "its logs have different epochs: two `meterproof topics create` ran at the same time",
                "delete the topics while they are empty, or use another prefix, and create them again",
            )
        )
    return faults


async def partitions_of(settings: KafkaSettings, topic: str) -> int:
    """Number of partitions of a topic, by its full name.

    Raises:
        TopicMissing: it does not exist.
        KafkaProblem: the brokers do not answer or deny access.
    """
    async with admin_client(settings) as admin:
        found = await _describe(admin, [topic])
    if topic not in found:
        raise TopicMissing(topic)
    return found[topic].partitions


async def read_genesis(settings: KafkaSettings, partition: int) -> Genesis:
    """What the log of a partition was created with, also where its first records were trimmed.

    Raises:
        GenesisMissing: the log is empty.
        TopicsRefused: the log holds something else, or was trimmed and no copy is kept.
        TopicMissing: there is no such topic or partition.
        KafkaProblem: the brokers do not answer or deny access.
    """
    found = await _accepted_genesis(settings, partition, None)
    if found is None:
        raise GenesisMissing(settings.topic(Topic.LOG), partition)
    return found[1]


async def read_geneses(settings: KafkaSettings) -> dict[str, bytes]:
    """The geneses kept in `usage.checkpoints`: by origin, the log's first record.

    Raises:
        TopicMissing: there is no such topic.
        KafkaProblem: the brokers do not answer or deny access.
    """
    geneses: dict[str, bytes] = {}
    async with PartitionReader(settings, settings.topic(Topic.CHECKPOINTS), 0) as reader:
        async for chunk in reader.read(*await reader.bounds()):
            for record in chunk:
                if record.key is not None and record.key.endswith(_GENESIS_KEY_END):
                    origin = record.key.removesuffix(_GENESIS_KEY_END).decode("utf-8", "backslashreplace")
                    if record.value is None:
                        geneses.pop(origin, None)
                    else:
                        geneses[origin] = record.value
    return geneses


async def _describe(admin: Any, names: list[str], *, patience_s: float = LAG_S) -> dict[str, _Found]:  # noqa: ANN401
    """The topics of `names` that exist."""
    described = await describe_topics(admin, names, patience_s=patience_s)
    return {
        name: _Found(
            partitions=len(topic["partitions"]),
            replicas=min((len(partition["replicas"]) for partition in topic["partitions"]), default=0),
            ready=topic["error_code"] == _OK and all(partition["leader"] >= 0 for partition in topic["partitions"]),
        )
        for name, topic in described.items()
    }


async def _configs(settings: KafkaSettings, admin: Any, names: list[str]) -> dict[str, dict[str, str]]:  # noqa: ANN401
    """Topic-level settings in force, by topic; one request per topic name, all at once."""
    if not names:
        return {}
    answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
    configs = {}
    for answer in answers:
        for error_code, message, _, name, entries in answer.resources:
            if error_code != _OK:
                raise KafkaRefused(settings.bootstrap, f"settings of {name}: {message or error_code}")
            configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs


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
        if code == _OK:
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
        found = await _describe(admin, names, patience_s=0)
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


def _refuse_other_counts(settings: KafkaSettings, deployment: Deployment, found: Mapping[str, _Found]) -> None:
    for spec in TOPICS:
        name = settings.topic(spec.topic)
        if name in found and found[name].partitions != deployment.count_of(spec):
            raise TopicsRefused(
                f"{name} exists with {found[name].partitions} partitions, {deployment.count_of(spec)} were asked for. "
                "The number of partitions is fixed when a deployment is created: ask for the number that exists, or "
                "use another --prefix for a new deployment"
            )


async def _accepted_geneses(
    settings: KafkaSettings, partitions: int, kept: Mapping[str, bytes]
) -> list[tuple[bytes, Genesis] | None]:
    """By partition of `usage.log`, the genesis that readers accept; None where the log is empty."""
    places = asyncio.Semaphore(_READERS_AT_ONCE)

    async def accepted(partition: int) -> tuple[bytes, Genesis] | None:
        async with places:
            return await _accepted_genesis(settings, partition, kept)

    return await asyncio.gather(*(accepted(partition) for partition in range(partitions)))


async def _accepted_genesis(
    settings: KafkaSettings, partition: int, kept: Mapping[str, bytes] | None
) -> tuple[bytes, Genesis] | None:
    """Value and content of the first record that readers accept; None if the log is empty. `kept` is read if needed."""
    log = settings.topic(Topic.LOG)
    async with PartitionReader(settings, log, partition) as reader:
        start, end = await reader.bounds()
        if start > 0:
            return _kept_genesis(settings, partition, await read_geneses(settings) if kept is None else kept, start)
        record = await _first_accepted(reader, end)
    if record is not None and record.header.genesis is not None:
        return record.value, record.header.genesis
    if end > 0:
        raise TopicsRefused(
            f"{log}[{partition}] holds records but no genesis: something else wrote there. Use another prefix, or "
            "delete the topic if nobody needs it"
        )
    return None


async def _first_accepted(reader: PartitionReader, end: int) -> LogRecord | None:
    chain = LogChain()
    async for chunk in reader.read(0, end):
        for record in chunk:
            accepted = chain.offer(record.offset, record.value)
            if accepted is not None:
                return accepted
    return None


def _kept_genesis(
    settings: KafkaSettings, partition: int, kept: Mapping[str, bytes], start: int
) -> tuple[bytes, Genesis]:
    """The genesis of a trimmed log, from its copy."""
    copies = []
    for value in kept.values():
        try:
            genesis = decode_record(value).header.genesis
        except InvalidRecord:
            continue
        if genesis is not None and genesis.partition == partition:
            copies.append((value, genesis))
    if len(copies) != 1:
        raise TopicsRefused(
            f"{settings.topic(Topic.LOG)}[{partition}] begins at offset {start}, so its genesis was deleted, and "
            f"{settings.topic(Topic.CHECKPOINTS)} holds {len(copies) or 'no'} copies of it. Restore the topics from "
            "the audit folder, or use another prefix for a new deployment"
        )
    return copies[0]


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


def _setting_faults(
    settings: KafkaSettings, spec: TopicSpec, name: str, actual: Mapping[str, str], replicas: int
) -> list[TopicFault]:
    wrong = {key: value for key, value in spec.settings().items() if not _same_setting(key, actual.get(key, ""), value)}
    faults = []
    if wrong:
        differences = ", ".join(f"{key} is {actual.get(key, 'not set')} and must be {wrong[key]}" for key in wrong)
        faults.append(TopicFault(name, differences, _alter_command(settings, name, wrong)))
    in_sync = int(actual.get(_MIN_ISR, "1"))
    if in_sync > replicas:
        fault = f"{_MIN_ISR} is {in_sync} with {replicas} replicas: nothing could be acknowledged"
        faults.append(TopicFault(name, fault, _alter_command(settings, name, {_MIN_ISR: str(max(1, replicas - 1))})))
    if replicas > 1 and actual.get(_UNCLEAN) == "true":
        fault = f"{_UNCLEAN} is true: acknowledged records could be lost"
        faults.append(TopicFault(name, fault, _alter_command(settings, name, {_UNCLEAN: "false"})))
    return faults


def _same_setting(key: str, actual: str, expected: str) -> bool:
    if key == "cleanup.policy":
        return set(actual.replace(" ", "").split(",")) == set(expected.split(","))
    return actual == expected


def _count_faults(present: Mapping[TopicSpec, str], found: Mapping[str, _Found], partitions: int) -> list[TopicFault]:
    remedy = "the number of partitions is fixed for ever: use another prefix for a new deployment"
    return [
        TopicFault(name, f"has {found[name].partitions} partitions and must have {expected}", remedy)
        for spec, name in present.items()
        if found[name].partitions != (expected := partitions if spec.partitioned else 1)
    ]


def _genesis_faults(
    settings: KafkaSettings,
    partition: int,
    found: tuple[bytes, Genesis],
    partitions: int,
    kept: Mapping[str, bytes],
) -> list[TopicFault]:
    log, checkpoints, batches = (settings.topic(topic) for topic in (Topic.LOG, Topic.CHECKPOINTS, Topic.BATCHES))
    value, genesis = found
    faults = []
    if genesis.partitions != partitions:
        faults.append(
            TopicFault(
                log,
                f"has {partitions} partitions, its genesis says {genesis.partitions}",
                "partitions were added; that is not supported: use another prefix for a new deployment",
            )
        )
    if genesis.partition != partition:
        faults.append(
            TopicFault(
                log,
                f"partition {partition} holds the log of partition {genesis.partition}",
                "the topic was copied wrongly: restore it from the audit folder",
            )
        )
    if genesis.source_topic != batches:
        faults.append(
            TopicFault(
                log,
                f"its genesis names {genesis.source_topic} as the source, this process reads {batches}",
                "correct METERPROOF_KAFKA_TOPIC_PREFIX (or --prefix)",
            )
        )
    if genesis.origin not in kept:
        fault = f"lacks the genesis of {genesis.origin}"
        faults.append(TopicFault(checkpoints, fault, _create_command(settings, genesis)))
    elif kept[genesis.origin] != value:
        fault = f"holds another genesis of {genesis.origin} than {log}[{partition}]"
        faults.append(TopicFault(checkpoints, fault, "keep both topics as they are and compare with the audit folder"))
    return faults


def _create_command(settings: KafkaSettings, genesis: Genesis | None = None) -> str:
    """The command that completes a deployment; without a genesis to go by, the operator fills in its values."""
    prefix = f" --prefix {settings.topic_prefix}" if settings.topic_prefix else ""
    command = f"meterproof topics create --bootstrap {settings.bootstrap}{prefix}"
    if genesis is None:
        return f"{command} --name NAME --deployment DEPLOYMENT --partitions P"
    command = f"{command} --name {genesis.name} --deployment {genesis.deployment} --partitions {genesis.partitions}"
    command += f" --horizon-hours {genesis.limits.horizon_ms // 3_600_000}"
    return f"{command} --corrections" if genesis.limits.corrections else command


def _alter_command(settings: KafkaSettings, name: str, wanted: Mapping[str, str]) -> str:
    # Square brackets are how Kafka's own tool groups a value that holds a comma.
    changes = ",".join(f"{key}=[{value}]" if "," in value else f"{key}={value}" for key, value in wanted.items())
    return (
        f"kafka-configs.sh --bootstrap-server {settings.bootstrap} --alter --entity-type topics --entity-name {name} "
        f"--add-config {changes}"
    )
