"""`LogWatch`: whether the logs that a stage has read are still the ones that stand on the topic."""

from contextlib import suppress

from meterproof.kafka.errors import BrokerUnreachable, TopicMissing
from meterproof.kafka.kept_reader import KeptReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.log_record import record_digest
from meterproof_schemas.reasons import StopReason
from meterproof_stream.in_turn import in_turn


class LogWatch:
    """Looks now and then at the last record that was taken from each log, for as long as `run` runs.

    Of a topic that was deleted and created again the group takes the partitions away, and then nothing is delivered
    that could be looked at; so this looks by itself, also at partitions that were held before. It does so over one
    connection, one log after the other through the interval: to connect costs more than to look, and all at once would
    keep waiting what comes meanwhile.
    """

    def __init__(self, kafka: KafkaSettings, topic_name: str, interval_s: float) -> None:
        self._topic = topic_name
        self._interval_s = interval_s
        self._seen: dict[int, tuple[int, str]] = {}
        self._reader = KeptReader(kafka, topic_name)

    def remember(self, partition: int, offset: int, digest: str) -> None:
        """The last record that was taken from a log: it has to stand there from now on."""
        self._seen[partition] = offset, digest

    async def run(self) -> None:
        """Look at each log once in an interval, for ever. A broker that is away is for the runtime to deal with.

        Raises:
            StageStopped: `log_diverged`: a log no longer holds the record.
            KafkaProblem: the brokers refuse.
        """
        try:
            async for partition in in_turn(lambda: self._seen, self._interval_s):
                with suppress(BrokerUnreachable):
                    await self._look(partition)
        finally:
            await self._reader.stop()

    async def _look(self, partition: int) -> None:
        offset, digest = self._seen[partition]
        try:
            async with self._reader.of(partition) as reader:
                record = await reader.at(offset)
                trimmed = record is None and (await reader.bounds())[0] > offset
        except TopicMissing:
            record, trimmed = None, False
        value = None if record is None else record.value
        if not trimmed and (value is None or record_digest(value) != digest):
            raise StageStopped(
                StopReason.LOG_DIVERGED,
                f"{self._topic}[{partition}] no longer holds the record at offset {offset} that this stage has taken "
                "from it: the topic was re-created or truncated. Restore it, or start a new deployment with empty "
                "topics.",
            )
