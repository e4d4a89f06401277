"""`SourceWatch`: compares the source with the logs that are made from it, after pauses and beside the feeding."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import structlog

from meterproof.kafka.errors import BrokerUnreachable, KafkaProblem, TopicMissing
from meterproof.kafka.kept_reader import KeptReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_ids import MadeAgain
from meterproof_stream.in_turn import in_turn
from meterproof_stream.lane import Lane
from meterproof_stream.source_comparison import check_source

SOURCE_PAUSE_S: Final = 0.5
"""After a pause of this length in a partition's records, its source is compared with its log before the next counts."""
SOURCE_CHECK_INTERVAL_S: Final = 5.0
"""How often it is compared without a pause."""
SOURCE_ID_INTERVAL_S: Final = 0.5
"""How often it is looked whether the topic was made again: then all its partitions are compared at once."""
_REST_FACTOR: Final = 20
"""Between two looks it rests this many times as long as one took."""
BROKER_POLL_INTERVAL_S: Final = 0.5
"""How often a broker that does not answer is asked again."""

_log: Final = structlog.get_logger("meterproof.source_watch")


class SourceWatch:
    """Whether the source may have become another topic since its records were last compared with the log.

    A topic that is deleted and created again delivers nothing meanwhile, and a process that was frozen sees its clock
    jump: so after each pause nothing counts before the comparison. For what came without one, each partition is
    compared once in an interval while its records are fed, and all at once when the topic has another id; what is wrong
    then fails its lane. All over one connection.

    Lives from `run` to `stop`.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        topic: str,
        lanes: Callable[[], Mapping[int, Lane]],
        *,
        monotonic_s: Callable[[], float],
        interval_s: float,
    ) -> None:
        """Compare nothing yet.

        Args:
            kafka: where the topic is.
            topic: its name, with the prefix.
            lanes: those held at the moment, by partition.
            monotonic_s: a clock that goes on while the process is frozen.
            interval_s: how often each partition is compared without a pause.

        """
        self._topic = topic
        self._lanes = lanes
        self._monotonic_s = monotonic_s
        self._interval_s = interval_s
        self._reader = KeptReader(kafka, topic)
        self._fed_s: dict[int, float] = {}
        self._waiting: set[int] = set()

    @property
    def waits(self) -> bool:
        """Whether records wait for a comparison."""
        return bool(self._waiting)

    async def stop(self) -> None:
        """Disconnect; whoever runs it was cancelled before."""
        await self._reader.stop()

    def taken(self, partition: int) -> None:
        """A partition was taken over, and compared just now."""
        self._fed_s[partition] = self._monotonic_s()

    def paused(self, partition: int) -> bool:
        """Whether its last record was long ago; asked once before each record, or several that come together."""
        now_s = self._monotonic_s()
        fed_s, self._fed_s[partition] = self._fed_s[partition], now_s
        return now_s - fed_s >= SOURCE_PAUSE_S

    async def compare(self, lane: Lane) -> None:
        """Return when source and log were compared. A broker that is away is waited for: nothing may count before.

        Raises:
            StageStopped: `source_lost` or `source_diverged`.
            KafkaProblem: the topic cannot be read.
        """
        began_s = self._monotonic_s()
        self._waiting.add(lane.partition)
        try:
            while not lane.closed:
                try:
                    await self._compare(lane)
                except BrokerUnreachable as error:
                    _log.warning("source_unchecked", partition=lane.partition, error=str(error))
                    await asyncio.sleep(BROKER_POLL_INTERVAL_S)
                else:
                    break
        finally:
            self._waiting.discard(lane.partition)
        # A comparison that takes its time on a busy machine is no pause, or every record would be compared. One that
        # took very long is: the process may have been frozen in it.
        # For all partitions, since none is fed meanwhile.
        took_s = self._monotonic_s() - began_s
        if took_s < self._interval_s:
            for partition, fed_s in self._fed_s.items():
                self._fed_s[partition] = fed_s + took_s

    async def run(self) -> None:
        """Compare each partition once in an interval, for ever, while its records are fed."""
        await asyncio.gather(self._compare_in_turn(), self._compare_if_made_again())

    async def _compare_in_turn(self) -> None:
        async for partition in in_turn(self._lanes, self._interval_s):
            await self._compare_beside(partition)

    async def _compare_if_made_again(self) -> None:
        made_again = MadeAgain(self._topic_id)
        while True:
            began_s = self._monotonic_s()
            with suppress(KafkaProblem):  # which the comparisons in turn meet too, and tell
                if await made_again.look():
                    _log.warning("source_made_again", topic=self._topic)
                    for partition in sorted(self._lanes()):
                        await self._compare_beside(partition)
            # Of a topic with thousands of partitions the answer is long.
            await asyncio.sleep(max(SOURCE_ID_INTERVAL_S, (self._monotonic_s() - began_s) * _REST_FACTOR))

    async def _compare_beside(self, partition: int) -> None:
        lane = self._lanes().get(partition)
        if lane is None or lane.closed or lane.failure is not None:
            return
        try:
            await self._compare(lane)
        except (BrokerUnreachable, TopicMissing) as error:
            # It delivers nothing. What comes later comes after a pause or a take-over, or is looked at again.
            _log.warning("source_unchecked", partition=partition, error=str(error))
        except Exception as error:  # noqa: BLE001 - handed to the process, which ends by it
            if not lane.closed:
                lane.fail(error)

    async def _topic_id(self) -> bytes | None:
        async with self._reader.of(0) as reader:
            return await reader.topic_id()

    async def _compare(self, lane: Lane) -> None:
        async with self._reader.of(lane.partition) as reader:
            await check_source(reader, self._topic, lane)
