"""Follows `usage.budget-state` of all logs: a scope over several logs is added up here, and alerted at its home."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

import structlog

from meterproof.kafka.errors import BrokerUnreachable
from meterproof.kafka.reader import Record
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_reader import TopicReader
from meterproof_schemas.budget import (
    Alert,
    Budget,
    Marker,
    PartialSum,
    SumKey,
    decode_budget_state,
    definition_of,
    is_marker_key,
    parse_state_key,
    read_sum_head,
)
from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.scopes import lies_in_one_log
from meterproof_schemas.topics import Topic
from meterproof_stream.scope_totals import ScopeTotals, WindowForgotten

_POLL_S: Final = 1.0
"""A poll ends with the first record, so this is no delay."""
TAIL_RECORDS: Final = 1_000
"""How far from a partition's end its last marker is looked for before everything is read."""

_log: Final = structlog.get_logger("meterproof.budgets")


class Home(Protocol):
    """The owner of a log, seen as the owner of the alerts of one partition."""

    read_to: int
    """Offset on `usage.budget-state` up to which it has looked itself."""

    def noticed(self, key: SumKey, position: int, definition: str) -> None:
        """A value of a sum of its log stands on the topic, behind those noticed before."""

    async def announce(self, alerts: Iterable[Alert]) -> None:
        """Raise those that were not raised yet; returns when they are durable."""


class BudgetFollower:
    """Reads the partial sums of all logs, and lets each home that this process holds know what concerns it.

    Promises: a threshold of a scope that lies in several logs is announced to its home as soon as the partial sums that
    reach it stand on the topic, and again to whoever becomes its home; homes tell repeats apart. `followed` says how
    far that is true. Lives as long as `run` runs; errors come out of it.
    """

    def __init__(
        self, kafka: KafkaSettings, budgets: Sequence[Budget], horizon_ms: int, homes: Mapping[int, Home]
    ) -> None:
        self.followed: dict[int, int] = {}
        """By log, the offset of its last marker behind which every alert that follows from it is durable."""
        self.next: dict[int, int] = {}
        """By partition, the offset behind everything that was read of `usage.budget-state`."""
        self._kafka = kafka
        self._budgets = budgets
        self._definition = definition_of(budgets)
        self._horizon_ms = horizon_ms
        self._homes = homes
        self._totals = ScopeTotals(budgets, horizon_ms, 1)
        self._loaded = False

    def __len__(self) -> int:
        return len(self._totals)

    async def run(self) -> None:
        """Follow for ever.

        Raises:
            KafkaProblem: the topic cannot be read, or is no longer the one that was read so far.
        """
        lagging: dict[str, int] = {}
        while True:
            try:
                async with TopicReader(self._kafka, self._kafka.topic(Topic.BUDGET_STATE)) as reader:
                    self._totals = ScopeTotals(self._budgets, self._horizon_ms, reader.partitions, lagging)
                    await self._load(reader)
                    while True:
                        await self._take(await reader.poll(_POLL_S))
            except WindowForgotten as forgotten:
                _log.info("budget_totals_read_again", log=forgotten.log)
                lagging = self._totals.lagging | {forgotten.log: self._totals.clocks.get(forgotten.log, 0)}
            except BrokerUnreachable as error:  # what is known of the sums is still true, and the runtime waits too
                _log.warning("budget_totals_wait", error=str(error))
                await asyncio.sleep(_POLL_S)

    async def look_for(self, partition: int) -> None:
        """Announce to the home of a partition, just taken over, all that is due there."""
        if self._loaded:
            await self._announce(self._totals.reached({partition}))

    async def _load(self, reader: TopicReader) -> None:
        """Read the topic to its end.

        1. The last marker of each partition: how far the logs' clocks are, and so which windows are over; and how far
           back the others stand, which holds where no log lags behind.
        2. Everything from there, keeping of each sum the value with the highest position.
        3. Add up, announce what is due, and forget what is over.
        """
        self._loaded = False
        bounds = await reader.bounds()
        markers: dict[int, Marker] = {}
        reader.seek({partition: max(start, end - TAIL_RECORDS) for partition, (start, end) in bounds.items()})  # 1
        async for partition, record in reader.read_until(bounds):
            if is_marker_key(record.key or b"") and (marker := self._marker(record)) is not None:
                self._totals.mark(marker)
                markers[partition] = marker
        if not self._totals.lagging:
            for partition, marker in markers.items():
                start, end = bounds[partition]
                bounds[partition] = min(end, max(start, marker.floor or 0)), end
        reader.seek({partition: start for partition, (start, _) in bounds.items()})  # 2
        best: dict[bytes, tuple[int, bytes]] = {}
        async for partition, record in reader.read_until(bounds):
            self._show(partition, record)
            key, value = record.key, record.value
            if key is None or value is None or _in_one_log(key):
                continue
            named = parse_state_key(key)
            if named is None or not self._totals.wants(named[1]):
                continue
            head = read_sum_head(value)
            if head is not None and head.definition == self._definition and head.position >= best.get(key, (-1,))[0]:
                best[key] = head.position, value
        for _, value in best.values():  # 3
            self._offer(value)
        self._loaded = True
        await self._announce(self._totals.reached(self._homes))
        self._totals.forget()
        for partition, (_, end) in bounds.items():
            self.next[partition] = max(self.next.get(partition, 0), end)
        for partition, marker in markers.items():
            self._follow(partition, marker)

    async def _take(self, chunks: Mapping[int, list[Record]]) -> None:
        changed: set[SumKey] = set()
        markers: dict[int, Marker] = {}
        for partition, records in chunks.items():
            for record in records:
                self._show(partition, record)
                key = record.key or b""
                if is_marker_key(key):
                    if (marker := self._marker(record)) is not None:
                        markers[partition] = marker
                elif record.value is not None and not _in_one_log(key):
                    total = self._offer(record.value)
                    if total is not None:
                        changed.add(total)
        await self._announce(self._totals.reached(self._homes, changed))
        # Only now, since a clock lets windows go that may have just changed.
        for partition, marker in markers.items():
            self._totals.mark(marker)
            self._follow(partition, marker)
        self._totals.forget()
        for partition, records in chunks.items():
            self.next[partition] = max(self.next.get(partition, 0), records[-1].offset + 1)

    def _show(self, partition: int, record: Record) -> None:
        """Let the owner of a log know what stands there, if it has not looked itself."""
        home = self._homes.get(partition)
        if home is None or record.offset < max(home.read_to, self.next.get(partition, 0)) or record.value is None:
            return
        named = parse_state_key(record.key or b"")
        head = None if named is None else read_sum_head(record.value)
        if named is not None and head is not None:
            home.noticed(named[1], head.position, head.definition)

    def _offer(self, value: bytes) -> SumKey | None:
        head = read_sum_head(value)
        if head is None or head.definition != self._definition:
            return None
        try:
            stored = decode_budget_state(value)
        except InvalidRecord as error:
            _log.warning("budget_state_ignored", error=str(error))
            return None
        return self._totals.offer(stored) if isinstance(stored, PartialSum) else None

    def _marker(self, record: Record) -> Marker | None:
        try:
            marker = decode_budget_state(record.value)
        except InvalidRecord:
            return None
        return marker if isinstance(marker, Marker) and marker.definition == self._definition else None

    def _follow(self, partition: int, marker: Marker) -> None:
        self.followed[partition] = max(self.followed.get(partition, -1), marker.log_offset)

    async def _announce(self, reached: Iterable[tuple[int, Alert]]) -> None:
        by_home: dict[int, list[Alert]] = {}
        for partition, alert in reached:
            by_home.setdefault(partition, []).append(alert)
        for partition, alerts in by_home.items():
            home = self._homes.get(partition)
            if home is not None:
                await home.announce(alerts)


def _in_one_log(key: bytes) -> bool:
    """Whether a sum's key names a scope that lies in one log, at the price of a glance."""
    _, _, named = key.partition(b"|")
    return lies_in_one_log(named[: named.find(b":")].decode("ascii", "replace"))
