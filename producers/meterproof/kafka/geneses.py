"""The geneses of a deployment's logs, as readers accept them."""

import asyncio
from collections.abc import Mapping
from typing import Final

from meterproof.kafka.errors import GenesisMissing, TopicsRefused
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.chain import LogChain
from meterproof_schemas.checkpoint_record import genesis_key
from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.log_record import Genesis, LogRecord, decode_record
from meterproof_schemas.topics import Topic

_READERS_AT_ONCE: Final = 8
_GENESIS_KEY_END: Final = genesis_key("")


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


async def accepted_geneses(
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
