"""Whether `usage.deliveries` is still the topic that this worker's deliveries stand on."""

import asyncio
import contextlib
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from meterproof.durable_file import replace_durably
from meterproof.kafka.errors import BrokerUnreachable, TopicMissing
from meterproof.kafka.kept_reader import KeptReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.topics import Topic
from meterproof_sinks.small_topic import LOOK_INTERVAL_S

_LOOKS_MAX: Final = 6
_LOOK_AGAIN_S: Final = 1.0
"""A broker that has just become the leader may know a part of what was acknowledged as such for a moment later."""


class _Seen(BaseModel):
    """The topic as it was seen last; also the form of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    topic: str
    topic_id: str | None
    """In hexadecimal; None from a broker that gives topics none."""
    next: int
    """The offset behind its last record."""


class DeliveriesMemory:
    """Remembers which topic `usage.deliveries` was, and how far it went.

    Promises: once the topic was deleted, made again, or lost records at either end, `check` raises, in this process and
    in a later one that has the same file: what was delivered could not be told from it any more, so all alerts would be
    sent again. The file is an alarm, never a cursor: without it the topic is believed. Lives within `async with`.
    """

    def __init__(self, kafka: KafkaSettings, file: Path) -> None:
        """Ask nothing yet."""
        self._topic = kafka.topic(Topic.DELIVERIES)
        self._reader = KeptReader(kafka, self._topic)
        self._file = file
        self._seen: _Seen | None = None
        self._kept: _Seen | None = None
        """What stands in the file."""

    async def __aenter__(self) -> Self:
        with contextlib.suppress(FileNotFoundError, ValidationError):
            kept = _Seen.model_validate_json(self._file.read_bytes())
            if kept.topic == self._topic:
                self._seen = self._kept = kept
        await self.check()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._reader.stop()

    async def check(self) -> None:
        """Compare the topic with what was seen of it.

        Raises:
            StageStopped: `log_diverged`.
            BrokerUnreachable: it cannot be asked now.
            KafkaProblem: the brokers deny access.
        """
        before, looks = self._seen, 0
        while True:
            topic_id, start, end = await self._ask()
            looks += 1
            if before is not None and None not in {before.topic_id, topic_id} and before.topic_id != topic_id:
                raise self._diverged("was deleted and made again")
            if before is None or end >= before.next:
                break
            if looks == _LOOKS_MAX:
                raise self._diverged(f"ends at offset {end}, and went up to {before.next}")
            await asyncio.sleep(_LOOK_AGAIN_S)
        if start > 0:
            raise self._diverged(f"begins at offset {start}: what stood before was deleted, and not by compaction")
        self._seen = _Seen(topic=self._topic, topic_id=topic_id, next=end)

    async def _ask(self) -> tuple[str | None, int, int]:
        """The topic's id, its first offset, and the one behind its last record."""
        try:
            async with self._reader.of(0) as reader:
                topic_id = await reader.topic_id()
                return None if topic_id is None else topic_id.hex(), *await reader.bounds()
        except TopicMissing:
            if self._seen is None:
                raise
            raise self._diverged("was deleted") from None

    async def watch(self, stop: asyncio.Event) -> None:
        """Check now and then until `stop` is set, and keep what was seen.

        Raises:
            StageStopped: `log_diverged`.
            OSError: the file cannot be written.
        """
        while not stop.is_set():
            with contextlib.suppress(BrokerUnreachable):
                await self.check()
            if self._seen is not None and self._seen != self._kept:
                await asyncio.to_thread(replace_durably, self._file, self._seen.model_dump_json().encode() + b"\n")
                self._kept = self._seen
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_INTERVAL_S)

    def _diverged(self, fault: str) -> StageStopped:
        return StageStopped(
            StopReason.LOG_DIVERGED,
            f"{self._topic} {fault}. What it does not hold would be sent again: restore it; or, to go on without, set "
            f"`since` of every endpoint to the time from which on alerts may be sent. Then remove {self._file}",
        )
