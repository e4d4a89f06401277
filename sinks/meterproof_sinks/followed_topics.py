"""What the ClickHouse sink does beside carrying the log: it keeps tables of alerts, checkpoints and price books."""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import structlog

from meterproof.kafka.errors import KafkaProblem
from meterproof.kafka.reader import PartitionReader, Record
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_ids import MadeAgain
from meterproof.kafka.topic_reader import TopicReader
from meterproof_schemas.errors import ContractError
from meterproof_schemas.instant import format_instant_ms
from meterproof_schemas.topics import Topic
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError, UnfitRows
from meterproof_sinks.followed_rows import (
    ErasedName,
    alert_row,
    checkpoint_row,
    column_time,
    is_erased,
    published_price_book_row,
)
from meterproof_sinks.small_topic import LOOK_INTERVAL_S

_POLL_S: Final = 0.5
"""How long a poll waits for records: bounds how long a stop takes."""
_REST_S: Final = 0.5
"""Between two inserts: what comes meanwhile goes in together."""
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 15.0
"""Between two attempts after a failure: doubled from the first to the longest."""

_PROGRESS: Final = """
SELECT topic_partition, argMax(tuple(next, digest), written_at) FROM topic_progress
WHERE topic = {topic:String} GROUP BY topic_partition
"""
_ERASURES: Final = "SELECT kind, salt, name_digest, toUnixTimestamp64Milli(requested_at) FROM erasures FINAL"

_log: structlog.stdlib.BoundLogger = structlog.get_logger("meterproof.sink")


@dataclass(frozen=True, slots=True)
class FollowedTopic:
    """A topic whose records become rows of a table."""

    topic: Topic
    table: str
    row_of: Callable[[int, Record], dict[str, Any] | None]
    """The row of a record of a partition; None where there is nothing to keep. Raises `ContractError`."""


FOLLOWED: Final = (
    FollowedTopic(Topic.ALERTS, "usage_alerts", alert_row),
    FollowedTopic(Topic.CHECKPOINTS, "usage_checkpoints", checkpoint_row),
    FollowedTopic(Topic.PRICE_BOOKS, "price_books", published_price_book_row),
)


async def follow_topics(clickhouse: ClickHouse, kafka: KafkaSettings, stop: asyncio.Event) -> None:
    """Keep the tables of `FOLLOWED` up to date until `stop` is set, over a connection of its own.

    A failure is told, and tried again: these tables never keep the events from arriving. Several may do this to one
    database: rows are absolute, so the same comes of it. A topic that is deleted and made again is read from its
    beginning.
    """
    async with asyncio.TaskGroup() as tasks:
        for one in FOLLOWED:
            tasks.create_task(_follow_for_ever(clickhouse, kafka, stop, one))


async def _follow_for_ever(
    clickhouse: ClickHouse, kafka: KafkaSettings, stop: asyncio.Event, followed: FollowedTopic
) -> None:
    pause_s = _FIRST_PAUSE_S
    while not stop.is_set():
        try:
            connection = await asyncio.to_thread(clickhouse.another)
            try:
                follower = TopicFollower(connection, kafka, followed)
                async with TopicReader(kafka, follower.name) as reader:
                    made_again = MadeAgain(reader.topic_id, interval_s=LOOK_INTERVAL_S)
                    await made_again.look()
                    await follower.begin(reader)
                    pause_s = _FIRST_PAUSE_S
                    while not stop.is_set():
                        if await follower.step(reader, _POLL_S):
                            await _wait(stop, _REST_S)
                        elif await made_again.look():
                            reader.seek({partition: start for partition, (start, _) in (await reader.bounds()).items()})
            finally:
                connection.close()
        except (ClickHouseError, KafkaProblem) as error:
            _log.warning("topic_not_followed", topic=kafka.topic(followed.topic), reason=str(error))
            await _wait(stop, pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class TopicFollower:
    """Carries one topic into its table.

    Promises: whatever is repeated or read again, each record's row is there once for whoever reads the views; progress
    names a record only after every row up to it was acknowledged; a record that is no row is in `quarantine`, with its
    error, before that. Lives as long as its connections.
    """

    def __init__(self, clickhouse: ClickHouse, kafka: KafkaSettings, followed: FollowedTopic) -> None:
        """Read nothing yet."""
        self.name = kafka.topic(followed.topic)
        """The topic's full name."""
        self._clickhouse = clickhouse
        self._kafka = kafka
        self._followed = followed

    async def begin(self, reader: TopicReader) -> None:
        """Let the reader go on where the progress rows end.

        The record that a progress row names is read again. If it is another one, or the topic ends before it, the topic
        was made anew, and is read from its beginning; rows name what they say, so nothing can be doubled by that. One
        that compaction or retention has removed says nothing.

        Raises:
            ClickHouseError, KafkaProblem: one of both cannot be asked.
        """
        rows = await asyncio.to_thread(self._clickhouse.rows, _PROGRESS, {"topic": self.name})
        bounds = await reader.bounds()
        offsets = {}
        for partition, (next_offset, digest) in rows:
            if partition not in bounds:
                continue
            start, end = bounds[partition]
            if next_offset > end or not await self._is_named(partition, next_offset - 1, digest):
                _log.warning("topic_read_again", topic=self.name, partition=partition, progress=next_offset, end=end)
                continue
            offsets[partition] = max(start, next_offset)
        reader.seek(offsets)

    async def step(self, reader: TopicReader, wait_s: float) -> int:
        """Carry the next records, and say how many they were; 0 if none came in time.

        1. read
        2. rows; a record that is none of this version is set aside
        3. insert the rows; each that the table will not have is set aside
        4. those that were set aside go into `quarantine`
        5. all are acknowledged: the progress rows

        Raises:
            ClickHouseError: the database is away, or refuses; the same records are to be read again.
            KafkaProblem: the topic cannot be read.
        """
        polled = await reader.poll(wait_s)  # 1
        if polled:
            await asyncio.to_thread(self._write, polled)
        return sum(map(len, polled.values()))

    def _write(self, polled: dict[int, list[Record]]) -> None:
        unfit: list[dict[str, Any]] = []
        rows: list[tuple[int, Record, bytes]] = []
        erasures = self._erasures() if self._followed.topic is Topic.ALERTS else []
        for partition, records in polled.items():  # 2
            for record in records:
                if record.value is None:
                    continue  # taken away: what was said stays said
                try:
                    row = self._followed.row_of(partition, record)
                except ContractError as error:
                    unfit.append(self._unfit(partition, record, str(error)))
                    continue
                if row is not None and not (erasures and is_erased(row, erasures)):
                    rows.append((partition, record, orjson.dumps(row)))
        for partition, record, error_text in self._insert(rows):  # 3
            unfit.append(self._unfit(partition, record, error_text))
        if unfit:  # 4
            self._insert_json("unfit_rows", [orjson.dumps(row) for row in unfit])
            _log.error("row_quarantined", topic=self.name, count=len(unfit), error=unfit[0]["error"])
        self._insert_json(  # 5
            "topic_progress",
            [
                orjson.dumps(
                    {
                        "topic": self.name,
                        "topic_partition": partition,
                        "next": records[-1].offset + 1,
                        "digest": _digest(records[-1]),
                        "recorded_at": column_time(format_instant_ms(records[-1].timestamp_ms)),
                    }
                )
                for partition, records in polled.items()
                if records
            ],
        )

    def _insert(self, rows: list[tuple[int, Record, bytes]]) -> list[tuple[int, Record, str]]:
        """Insert rows; those that can't be, each with the engine's error, all others being in."""
        if not rows:
            return []
        try:
            self._insert_json(self._followed.table, [row for _, _, row in rows])
        except UnfitRows as error:
            if len(rows) == 1:
                partition, record, _ = rows[0]
                return [(partition, record, str(error))]
            half = len(rows) // 2
            return [*self._insert(rows[:half]), *self._insert(rows[half:])]
        return []

    def _insert_json(self, table: str, rows: Sequence[bytes]) -> None:
        self._clickhouse.insert(table, (), b"\n".join([*rows, b""]), "JSONEachRow", len(rows))

    def _unfit(self, partition: int, record: Record, error: str) -> dict[str, Any]:
        return {
            "log": f"{self.name}[{partition}]",
            "kind": self._followed.table,
            "position": record.offset,
            "digest": _digest(record),
            "error": error,
            "row": (record.value or b"").decode("utf-8", "backslashreplace"),
        }

    def _erasures(self) -> list[ErasedName]:
        return [
            ErasedName(kind, bytes.fromhex(salt), digest, requested_ms)
            for kind, salt, digest, requested_ms in self._clickhouse.rows(_ERASURES)
        ]

    async def _is_named(self, partition: int, offset: int, digest: str) -> bool:
        """Whether the topic has this very record there, or none any more."""
        async with PartitionReader(self._kafka, self.name, partition, fetch_bytes_max=1) as reader:
            record = await reader.at(offset)
        return record is None or _digest(record) == digest


def _digest(record: Record) -> str:
    return "" if record.value is None else hashlib.sha256(record.value).hexdigest()


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
