"""Whether a deployment's topics are as the contract says; looked at by every worker at its start."""

from collections.abc import Mapping
from dataclasses import dataclass

from meterproof.kafka.connection import admin_client
from meterproof.kafka.errors import TopicsRefused, TopicsUnfit
from meterproof.kafka.geneses import accepted_geneses, read_geneses
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_descriptions import FoundTopic, describe_found, read_configs
from meterproof.kafka.topics import MIN_ISR, UNCLEAN
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.log_record import Genesis
from meterproof_schemas.topics import TOPICS, Topic, TopicSpec


@dataclass(frozen=True, slots=True)
class TopicFault:
    """One thing that is not as the contract says, and what an operator does about it."""

    topic: str
    """Full name."""
    fault: str
    remedy: str
    """A command, or a sentence; nothing is ever altered by meterproof itself."""


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
        found = await describe_found(admin, list(names.values()))
        present = {spec: name for spec, name in names.items() if name in found}
        configs = await read_configs(settings, admin, list(present.values()))
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
        geneses = await accepted_geneses(settings, found[log].partitions, kept)
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


def _setting_faults(
    settings: KafkaSettings, spec: TopicSpec, name: str, actual: Mapping[str, str], replicas: int
) -> list[TopicFault]:
    wrong = {key: value for key, value in spec.settings().items() if not _same_setting(key, actual.get(key, ""), value)}
    faults = []
    if wrong:
        differences = ", ".join(f"{key} is {actual.get(key, 'not set')} and must be {wrong[key]}" for key in wrong)
        faults.append(TopicFault(name, differences, _alter_command(settings, name, wrong)))
    in_sync = int(actual.get(MIN_ISR, "1"))
    if in_sync > replicas:
        fault = f"{MIN_ISR} is {in_sync} with {replicas} replicas: nothing could be acknowledged"
        faults.append(TopicFault(name, fault, _alter_command(settings, name, {MIN_ISR: str(max(1, replicas - 1))})))
    if replicas > 1 and actual.get(UNCLEAN) == "true":
        fault = f"{UNCLEAN} is true: acknowledged records could be lost"
        faults.append(TopicFault(name, fault, _alter_command(settings, name, {UNCLEAN: "false"})))
    return faults


def _same_setting(key: str, actual: str, expected: str) -> bool:
    if key == "cleanup.policy":
        return set(actual.replace(" ", "").split(",")) == set(expected.split(","))
    return actual == expected


def _count_faults(
    present: Mapping[TopicSpec, str], found: Mapping[str, FoundTopic], partitions: int
) -> list[TopicFault]:
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
    return command if genesis.limits.corrections else f"{command} --no-corrections"


def _alter_command(settings: KafkaSettings, name: str, wanted: Mapping[str, str]) -> str:
    # Square brackets are how Kafka's own tool groups a value that holds a comma.
    changes = ",".join(f"{key}=[{value}]" if "," in value else f"{key}={value}" for key, value in wanted.items())
    return (
        f"kafka-configs.sh --bootstrap-server {settings.bootstrap} --alter --entity-type topics --entity-name {name} "
        f"--add-config {changes}"
    )
