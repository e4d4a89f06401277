"""Taking a partition over: what the log says.

The log is the sequencer's only state. It is read from the genesis; or from a record that a folder on disk names, if the
log holds this very record there; or, for a partition that stayed with its owner over a rebalance, from the owner's own
expected offset.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from meterproof.kafka.geneses import read_geneses
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.trimming import read_beginnings
from meterproof_proofs.checkpoint import Checkpoint
from meterproof_proofs.note import SignedNote
from meterproof_schemas.chain import Cursor
from meterproof_schemas.errors import InvalidRecord, StageStopped
from meterproof_schemas.fold import LogState
from meterproof_schemas.log_record import Genesis, LogRecord, RecordHeader, decode_record
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.topics import Topic
from meterproof_stream.errors import IndexDamaged
from meterproof_stream.kept_state import KeptState
from meterproof_stream.rocksdb_index import RocksdbIndex

PROGRESS_INTERVAL_S: Final = 5.0
"""How often a long fold tells how far it is."""

_log: Final = structlog.get_logger("meterproof.take_over")


@dataclass(frozen=True, slots=True)
class FoldedLog:
    """One partition's log as it stands."""

    state: LogState
    end: int
    """The physical offset that the next record of the log will get."""
    last: RecordHeader | None
    """The last record accepted while reading; None if none was."""


async def fold_log(
    kafka: KafkaSettings,
    partition: int,
    kept: tuple[LogState, int] | None = None,
    *,
    folder: Path | None = None,
    on_progress: Callable[[int, int], object] = lambda _offset, _end: None,
) -> FoldedLog:
    """Fold a partition's log to its end.

    Args:
        kafka: where the log is.
        partition: of the log.
        kept: a state and the physical offset behind what it holds; folding goes on there. After an error it may hold
            more, up to what `on_progress` was told, and stays the caller's.
        folder: where the dedupe index is kept on disk, with all that is needed to go on behind what it holds; None
            keeps it in memory. A folder that does not fit the log is thrown away, and the log says why.
        on_progress: told the offset reached and the end, after each chunk.

    Raises:
        StageStopped: `log_diverged`.
        IndexUnusable, IndexDamaged: the folder cannot be used, or was damaged while it was used.
        KafkaProblem: the log cannot be read.

    """
    topic = kafka.topic(Topic.LOG)
    began_s = told_s = time.monotonic()
    last: RecordHeader | None = None
    async with PartitionReader(kafka, topic, partition) as reader:
        start, end = await reader.bounds()
        if kept is not None:
            state, begin = kept
        elif folder is not None:
            state, begin, last = await _resume(reader, folder, partition, (start, end))
        else:
            state, begin = LogState(), 0
        beginning = None
        if start > begin == 0:
            beginning = await find_beginning(kafka, reader, partition, (start, end))
        if beginning is not None:
            last = state.begin_behind(*beginning)
            begin = state.log_offset + 1
            _log.info("log_begins_trimmed", partition=partition, log_offset=state.log_offset, position=state.position)
        began_ms = state.clock_ms
        if start > begin or end < begin:
            raise StageStopped(
                StopReason.LOG_DIVERGED,
                f"{topic}[{partition}] holds offsets {start} to {end}, and is to be read from {begin}: it was trimmed, "
                "truncated or re-created. Restore the topic from the audit folder, or start a new deployment.",
            )
        try:
            async for records in reader.read(begin, end):
                for record in records:
                    accepted = state.offer(record.offset, record.value)
                    if accepted is not None:
                        last = accepted.header
                offset = records[-1].offset + 1
                on_progress(offset, end)
                if time.monotonic() - told_s > PROGRESS_INTERVAL_S:
                    told_s = time.monotonic()
                    _log.info("log_folding", partition=partition, offset=offset, end=end, position=state.position)
        except BaseException:
            if kept is None:
                state.close()
            raise
    if beginning is not None and state.clock_ms - began_ms <= beginning[0].limits.identities_kept_ms:
        state.close()
        raise StageStopped(
            StopReason.LOG_DIVERGED,
            f"{topic}[{partition}] begins at offset {start}, within the horizon: identities that may come again are "
            "gone. Only `meterproof log trim` may cut it off. Restore the topic from the audit folder.",
        )
    took_s = round(time.monotonic() - began_s, 3)
    _log.info("log_folded", partition=partition, begin=begin, end=end, position=state.position, took_s=took_s)
    return FoldedLog(state, end, last)


async def find_beginning(
    kafka: KafkaSettings, reader: PartitionReader, partition: int, bounds: tuple[int, int]
) -> tuple[Genesis, Cursor, bytes | None] | None:
    """Where a trimmed log begins, as `usage.checkpoints` remembers it: genesis, the signed record, and its value.

    Trusted as the log itself is: the record must stand on the log with the digest, size and root that were signed.
    None where nothing is remembered, or the log does not hold it.

    Raises:
        KafkaProblem: a topic cannot be read.
    """
    geneses, beginnings = await first_geneses(kafka), await read_beginnings(kafka)
    if partition not in geneses or geneses[partition].origin not in beginnings:
        return None
    genesis = geneses[partition]
    checkpoint = beginnings[genesis.origin]
    signed = Checkpoint.parse(SignedNote.parse(checkpoint.note).text)
    offset = checkpoint.header.log_offset
    record = await _read_record(reader, offset) if bounds[0] <= offset < bounds[1] else None
    if record is None or (record.digest, record.header.size, record.header.root) != (
        checkpoint.header.digest,
        signed.size,
        signed.root.hex(),
    ):
        return None
    return genesis, Cursor(genesis.epoch, offset, record.digest, record.header.size), record.value


async def _resume(
    reader: PartitionReader, folder: Path, partition: int, bounds: tuple[int, int]
) -> tuple[LogState, int, RecordHeader | None]:
    """The state that a folder holds, the log offset behind it and its last record; a new state where it does not fit.

    Opening and restoring work for seconds where the horizon is full, so both run beside the event loop.
    """
    try:
        index = await asyncio.to_thread(RocksdbIndex.open, folder)
        if index is None:
            _log.info("index_new", partition=partition, folder=str(folder))
            return KeptState(folder), 0, None
        try:
            record = await _named_record(reader, folder, index, partition, bounds)
            state = await asyncio.to_thread(KeptState.resume_at, folder, index, record)
        except BaseException:
            index.close()
            raise
    except IndexDamaged as error:
        _log.warning("index_thrown_away", partition=partition, folder=str(folder), reason=error.fault)
        return KeptState(folder), 0, None
    _log.info("index_resumed", partition=partition, log_offset=state.log_offset, identities=len(index))
    return state, state.log_offset + 1, record.header


async def _named_record(
    reader: PartitionReader, folder: Path, index: RocksdbIndex, partition: int, bounds: tuple[int, int]
) -> LogRecord:
    """The record of the log that the index names.

    Raises:
        IndexDamaged: the log does not hold it; says which difference it is.
    """
    start, end = bounds
    try:
        genesis, offset, digest = index.cursor["genesis"], index.cursor["log_offset"], index.cursor["digest"]
        of_partition, of_epoch = genesis["partition"], genesis["epoch"]
    except (KeyError, TypeError) as error:
        raise IndexDamaged(folder, f"its cursor lacks {error}") from error
    if of_partition != partition:
        raise IndexDamaged(folder, f"it is of partition {of_partition}")
    first = None if start else await _read_record(reader, 0)
    if first is not None and first.header.genesis is not None and first.header.genesis.epoch != of_epoch:
        raise IndexDamaged(folder, f"it is of epoch {of_epoch}, the log of epoch {first.header.genesis.epoch}")
    if not start <= offset < end:
        raise IndexDamaged(folder, f"it goes up to log offset {offset}, but the log holds offsets {start} to {end}")
    record = await _read_record(reader, offset)
    if record is None or record.digest != digest:
        raise IndexDamaged(folder, f"the log holds another record at offset {offset} than the one that it names")
    return record


async def _read_record(reader: PartitionReader, offset: int) -> LogRecord | None:
    record = await reader.at(offset)
    try:
        return None if record is None else decode_record(record.value)
    except InvalidRecord:
        return None


def check_genesis(
    state: LogState, partition: int, *, partitions: int, source_topic: str, kept: Mapping[int, Genesis]
) -> None:
    """Compare the log's genesis with the topic that is to be sequenced, and with the copy in `usage.checkpoints`.

    Raises:
        StageStopped: `log_diverged` when there is no genesis, or it is another partition's, topic's or log's.
    """
    genesis = state.genesis
    if genesis is None:
        fault = "has no genesis record; create it with `meterproof topics create`"
    elif genesis.partition != partition:
        fault = f"is the log of partition {genesis.partition}"
    elif genesis.partitions != partitions:
        fault = f"was created for {genesis.partitions} partitions, but {source_topic} has {partitions}"
    elif genesis.source_topic != source_topic:
        fault = f"was made from {genesis.source_topic}, not from {source_topic}"
    elif kept.get(partition, genesis) != genesis:
        fault = (
            f"has epoch {genesis.epoch}, but usage.checkpoints remembers epoch {kept[partition].epoch}: the topic was "
            "re-created. Restore it from the audit folder, or start a new deployment with empty topics"
        )
    else:
        return
    raise StageStopped(StopReason.LOG_DIVERGED, f"the log of partition {partition} {fault}.")


async def first_geneses(kafka: KafkaSettings) -> dict[int, Genesis]:
    """By partition, the oldest genesis that `usage.checkpoints` remembers.

    Raises:
        KafkaProblem: the topic cannot be read.
    """
    geneses: dict[int, Genesis] = {}
    for value in (await read_geneses(kafka)).values():
        try:
            genesis = decode_record(value).header.genesis
        except InvalidRecord:
            continue
        if genesis is not None:
            geneses.setdefault(genesis.partition, genesis)
    return geneses
