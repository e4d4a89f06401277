"""Which of a deployment's webhook workers sends: the member of a consumer group that holds its only partition."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Final, Self

import structlog

from meterproof.kafka.group_reader import GroupReader
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.delivery import parse_delivery_key
from meterproof_schemas.topics import Topic
from meterproof_sinks.webhook_deliveries import SINK

SESSION_TIMEOUT_S: Final = 10
"""A worker that died or stands still has lost its turn after this."""
_POLL_S: Final = 0.5
"""Bounds how long a stop takes."""
_TERM_END_S: Final = 15.0
"""Attempts that are under way when the turn passes on are finished within this, or given up."""
_ASK_S: Final = 5.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger("meterproof.sink")

Term = Callable[[asyncio.Event], Coroutine[None, None, None]]
"""What a worker does while it is its turn, until the event is set."""


class WebhookTurn:
    """A worker's place among all that would send the same alerts.

    Promises: of the workers of a deployment one at a time has its turn; the next one's begins when the last one has
    ended what it did, or has not been heard of for `SESSION_TIMEOUT_S`. One that stood still meanwhile learns by
    `is_mine`, before it sends anything, that its turn is over. Nothing is taken from the group but this: where to go on
    stands in `usage.deliveries`, and the group can be deleted. Lives within `async with`.
    """

    def __init__(self, kafka: KafkaSettings, instance: str) -> None:
        """Join nothing yet; `instance` names the worker, and another of that name takes its place."""
        self._kafka = kafka
        self._topic = kafka.topic(Topic.DELIVERIES)
        self._reader = GroupReader(
            kafka,
            self._topic,
            self,
            group=f"{kafka.topic_prefix}webhook",
            instance=instance,
            session_timeout_s=SESSION_TIMEOUT_S,
        )
        self._ends: dict[int, int] = {}
        self._term: asyncio.Task[None] | None = None
        self._term_stop = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._reader.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end_term()
        await self._reader.stop()

    @property
    def held(self) -> bool:
        """Whether it is this worker's turn, as far as it knows."""
        return bool(self._reader.held)

    async def run(self, term: Term, stop: asyncio.Event) -> None:
        """Run `term` whenever it is this worker's turn, until `stop` is set.

        A term is begun anew when somebody took a delivery away: its message is to be sent again.

        Raises:
            KafkaProblem: the group or the topic cannot be read.
            Exception: what a term raised.
        """
        while not stop.is_set():
            polled = await self._reader.poll(_POLL_S)
            if self._term is not None and self._term.done():
                ended, self._term = self._term, None
                if not ended.cancelled():
                    ended.result()
            if self._term is None:
                if self.held:
                    _log.info("webhook_turn_begins", topic=self._topic)
                    self._term_stop = asyncio.Event()
                    self._term = asyncio.create_task(term(self._term_stop))
            elif any(record.value is None and _is_ours(record.key) for part in polled.values() for record in part):
                self._term_stop.set()
        await self._end_term()
        if self._term is not None and not self._term.cancelled():
            self._term.result()

    async def is_mine(self) -> bool:
        """Ask the group's coordinator whether it is still this worker's turn; False also if it does not answer soon.

        Raises:
            KafkaProblem: the brokers refuse this member.
        """
        try:
            async with asyncio.timeout(_ASK_S):
                # It answers a commit of its present member only. What is committed is never read.
                return await self._reader.commit(self._ends)
        except TimeoutError:
            return False

    async def on_assigned(self, partitions: frozenset[int], generation: int) -> Mapping[int, int]:
        """Called by the group's reader: read on at the topic's end, since a term reads all that stands below it."""
        del generation
        self._ends = {}
        for partition in partitions:
            async with PartitionReader(self._kafka, self._topic, partition) as reader:
                _, self._ends[partition] = await reader.bounds()
        return self._ends

    async def on_revoked(self, partitions: frozenset[int]) -> None:
        """Called by the group's reader: end the term before another worker's begins."""
        del partitions
        _log.info("webhook_turn_ends", topic=self._topic)
        await self._end_term()

    async def _end_term(self) -> None:
        term = self._term
        self._term_stop.set()
        if term is None:
            return
        await asyncio.wait([term], timeout=_TERM_END_S)
        if not term.done():
            term.cancel()
            await asyncio.wait([term])


def _is_ours(key: bytes | None) -> bool:
    named = parse_delivery_key(key)
    return named is not None and named[0] == SINK
