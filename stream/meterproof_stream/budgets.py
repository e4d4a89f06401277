"""The budget stage: partial sums and alerts of each log, durable on `usage.budget-state` and `usage.alerts`."""

from collections.abc import Sequence
from typing import Any, Final

import structlog

from meterproof.kafka.price_books import read_price_books
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.budget import (
    Budget,
    Marker,
    PartialSum,
    alert_key,
    decode_budget_state,
    marker_key,
    state_key,
)
from meterproof_schemas.chain import Cursor, LogChain
from meterproof_schemas.errors import InvalidRecord, InvalidRegistry, StageStopped
from meterproof_schemas.log_record import Genesis, LogRecord
from meterproof_schemas.partitioner import partition_of
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.topics import Topic
from meterproof_stream.budget_ledger import BudgetLedger, definition_of
from meterproof_stream.topic_values import genesis_of_log, read_values

_log: Final = structlog.get_logger("meterproof.budgets")


class BudgetLane:
    """One log's budgets, from the stage's own durable sums on."""

    def __init__(
        self,
        *,
        chain: LogChain,
        genesis: Genesis,
        ledger: BudgetLedger,
        definition: str,
        producer: RecordProducer,
        kafka: KafkaSettings,
        marked: int,
    ) -> None:
        self.chain = chain
        self._genesis = genesis
        self._ledger = ledger
        self._definition = definition
        self._producer = producer
        self._alerts_topic = kafka.topic(Topic.ALERTS)
        self._state_topic = kafka.topic(Topic.BUDGET_STATE)
        self._marked = marked
        """Log offset of the last durable marker."""

    def take(self, offset: int, record: LogRecord) -> None:
        """See `StageLane.take`."""
        del offset
        self._ledger.take(record)

    async def flush(self) -> None:
        """Make durable, in this order, so that a crash anywhere repeats and never leaves out.

        1. Alerts: sums that were durable before their alert would hide that the threshold was crossed.
        2. Sums, absolute, each with its position.
        3. The marker: everything up to it is in the sums.
        """
        chain = self.chain
        if chain.log_offset == self._marked:
            return
        origin, partition = self._genesis.origin, self._genesis.partition
        alerts, sums = self._ledger.drain(chain.position, chain.clock_ms)
        for pending in [  # 1
            await self._producer.send(
                self._alerts_topic,
                partition_of(alert.subject, self._genesis.partitions),
                alert.model_dump_json().encode(),
                alert_key(alert),
            )
            for alert in alerts
        ]:
            await pending
        for pending in [  # 2
            await self._producer.send(self._state_topic, partition, total.model_dump_json().encode(), state_key(total))
            for total in sums
        ]:
            await pending
        marker = Marker(
            v=1,
            marker=True,
            log=origin,
            epoch=self._genesis.epoch,
            log_offset=chain.log_offset,
            digest=chain.digest,
            position=chain.position,
            definition=self._definition,
        )
        await (  # 3
            await self._producer.send(
                self._state_topic, partition, marker.model_dump_json().encode(), marker_key(origin)
            )
        )
        self._marked = chain.log_offset
        for alert in alerts:
            _log.warning(
                "budget_alert",
                budget=alert.budget,
                subject=alert.subject,
                threshold=alert.threshold,
                spend=alert.spend,
                limit=alert.limit,
            )

    def status(self) -> dict[str, Any]:
        """See `StageLane.status`."""
        return {"marked": self._marked, "sums": len(self._ledger), "alerts": self._ledger.alerts}


class BudgetLanes:
    """Opens the lanes of a budget stage. Lives from `start` to `stop`."""

    def __init__(self, kafka: KafkaSettings, budgets: Sequence[Budget]) -> None:
        self._kafka = kafka
        self._budgets = budgets
        self._definition = definition_of(budgets)
        self._producer = RecordProducer(kafka)
        self._books: dict[int, PriceBook] = {}

    async def start(self) -> None:
        """Connect and read the price books.

        Raises:
            InvalidRegistry: a budget is in another currency than the newest price book.
        """
        await self._refresh_books()
        await self._producer.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self._producer.stop()

    async def open(self, partition: int) -> BudgetLane:
        """Take a log over, in this order.

        1. Read the log's genesis.
        2. Read the own partition of `usage.budget-state`. A record of another epoch stops the stage; a marker made for
           other budgets sends it back to the log's beginning.
        3. Compare the marker with the log record that it names, and go on behind it; per sum, only what is above its
           position counts.

        Raises:
            StageStopped: `log_diverged`.
            KafkaProblem: a topic cannot be read.
        """
        await self._refresh_books()
        async with PartitionReader(self._kafka, self._kafka.topic(Topic.LOG), partition) as reader:
            genesis = await genesis_of_log(self._kafka, partition)  # 1
            marker, sums = await self._stored(genesis)  # 2
            chain = LogChain()
            if marker is not None:
                found = await reader.at(marker.log_offset)  # 3
                cursor = Cursor(marker.epoch, marker.log_offset, marker.digest, marker.position)
                chain.resume(cursor, None if found is None else found.value)
            elif (await reader.bounds())[0] > 0:
                raise StageStopped(
                    StopReason.LOG_DIVERGED,
                    f"partition {partition} of the log was trimmed and its budgets have no marker to start from.",
                )
        ledger = BudgetLedger(genesis.origin, genesis.limits.horizon_ms, self._budgets, self._book)
        ledger.restore(sums)
        return BudgetLane(
            chain=chain,
            genesis=genesis,
            ledger=ledger,
            definition=self._definition,
            producer=self._producer,
            kafka=self._kafka,
            marked=-1 if marker is None else marker.log_offset,
        )

    async def _stored(self, genesis: Genesis) -> tuple[Marker | None, list[PartialSum]]:
        marker: Marker | None = None
        sums: list[PartialSum] = []
        for _, value in await read_values(self._kafka, self._kafka.topic(Topic.BUDGET_STATE), genesis.partition):
            try:
                stored = decode_budget_state(value)
            except InvalidRecord as error:
                _log.warning("budget_state_ignored", error=str(error))
                continue
            if stored.log != genesis.origin:
                raise StageStopped(
                    StopReason.LOG_DIVERGED,
                    f"usage.budget-state holds sums of {stored.log}, but the log is {genesis.origin}: the log was "
                    "re-created. Restore it, or start a new deployment with empty topics.",
                )
            if isinstance(stored, Marker):
                marker = stored
            else:
                sums.append(stored)
        if marker is not None and marker.definition != self._definition:
            _log.warning("budgets_changed", log=genesis.origin, doing="reading the log from its beginning")
            return None, []
        return marker, sums

    async def _refresh_books(self) -> None:
        self._books = await read_price_books(self._kafka)
        newest = self._books.get(max(self._books, default=0))
        for budget in self._budgets:
            if newest is not None and budget.currency != newest.currency:
                message = f"budget {budget.name} is in {budget.currency}, the price book in {newest.currency}"
                raise InvalidRegistry(message)

    def _book(self, version: int) -> PriceBook:
        """The book that a record names.

        Raises:
            InvalidRegistry: it was published after the last look; the worker's restart reads it.
        """
        book = self._books.get(version)
        if book is None:
            message = f"price book {version} is not known yet; starting again reads it"
            raise InvalidRegistry(message)
        return book
