"""The budget stage: partial sums and alerts of each log, durable on `usage.budget-state` and `usage.alerts`."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import Any, Final
from weakref import WeakValueDictionary

import structlog

from meterproof.kafka.price_books import read_price_books
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.budget import (
    Alert,
    Budget,
    Marker,
    SumKey,
    alert_key,
    decode_budget_state,
    definition_of,
    encode,
    is_marker_key,
    marker_key,
    parse_state_key,
    read_sum_head,
    state_key,
)
from meterproof_schemas.chain import Cursor, LogChain
from meterproof_schemas.errors import InvalidRecord, InvalidRegistry, StageStopped
from meterproof_schemas.log_record import Genesis, LogRecord
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.scopes import home_partition
from meterproof_schemas.topics import Topic
from meterproof_stream.budget_follower import TAIL_RECORDS, BudgetFollower
from meterproof_stream.budget_ledger import BudgetLedger
from meterproof_stream.raised_alerts import RaisedAlerts
from meterproof_stream.stored_budgets import StoredBudgets
from meterproof_stream.topic_values import genesis_of_log, read_values

_log: Final = structlog.get_logger("meterproof.budgets")


class BudgetLane:
    """One log's budgets, from the stage's own durable sums on; and the home of the alerts of one partition.

    Promises: of an alert that this lane finds or is told of, every one that does not yet stand on its partition is put
    there, once. What a sum of this log says on the topic is put right when a late writer said something older.
    """

    def __init__(
        self,
        *,
        chain: LogChain,
        genesis: Genesis,
        ledger: BudgetLedger,
        raised: RaisedAlerts,
        definition: str,
        producer: RecordProducer,
        kafka: KafkaSettings,
        follower: BudgetFollower,
        marker: Marker | None,
        read_to: int,
    ) -> None:
        self.chain = chain
        self.read_to = read_to
        """Offset on `usage.budget-state` up to which the ledger was restored."""
        self._genesis = genesis
        self._ledger = ledger
        self._raised = raised
        self._definition = definition
        self._producer = producer
        self._alerts_topic = kafka.topic(Topic.ALERTS)
        self._state_topic = kafka.topic(Topic.BUDGET_STATE)
        self._follower = follower
        self._marked = -1 if marker is None else marker.log_offset
        """Log offset of the last durable marker."""
        self._since = None if marker is None else marker.since
        self._announced = 0
        self._sending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Alerts that `take` has sent; those that it finds meanwhile wait for a later record, or for a flush, which
        fails as this does."""
        self._sending.set_result(None)

    def take(self, offset: int, record: LogRecord) -> None:
        """See `StageLane.take`. What the log alone says to alert is sent at once, before any sum is: see `flush`."""
        del offset
        self._ledger.take(record)
        sent = self._sending.done() and not self._sending.cancelled() and self._sending.exception() is None
        if sent and (alerts := self._ledger.alerts()):
            self._sending = asyncio.ensure_future(self.announce(alerts))

    def noticed(self, key: SumKey, position: int, definition: str) -> None:
        """See `Home.noticed`."""
        self._ledger.seen(key, position, definition)

    async def announce(self, alerts: Iterable[Alert]) -> None:
        """See `Home.announce`."""
        new = self._raised.new(alerts)
        partitions = self._genesis.partitions
        for pending in [
            await self._producer.send(
                self._alerts_topic,
                home_partition(alert.scope, alert.subject, partitions),
                encode(alert),
                alert_key(alert),
            )
            for alert in new
        ]:
            await pending
        self._announced += len(new)
        for alert in new:
            _log.warning(
                "budget_alert",
                budget=alert.budget,
                scope=alert.scope,
                subject=alert.subject,
                threshold=alert.threshold,
                spend=alert.spend,
                limit=alert.limit,
            )

    async def flush(self) -> None:
        """Make durable, in this order, so that a crash anywhere repeats and never leaves out.

        1. Alerts of scopes that lie in this log: sums that were durable before their alert would hide that the
           threshold was crossed.
        2. Sums, absolute, each with its position. What other scopes have spent in all is added up from them.
        3. The marker: everything up to it is in the sums.
        """
        chain = copy(self.chain)  # it goes on while this waits
        if chain.log_offset == self._marked and not self._ledger.pending:
            return
        origin, partition = self._genesis.origin, self._genesis.partition
        alerts, sums = self._ledger.drain(chain.position, chain.clock_ms)
        await self._sending  # 1
        await self.announce(alerts)
        for key, posted in [  # 2
            (key, await self._producer.post(self._state_topic, partition, encode(total), state_key(total)))
            for key, total in sums
        ]:
            await posted.batch
            self._ledger.written(key, posted.offset())
        marker = Marker(
            v=1,
            marker=True,
            log=origin,
            epoch=self._genesis.epoch,
            log_offset=chain.log_offset,
            digest=chain.digest,
            position=chain.position,
            definition=self._definition,
            clock_ms=chain.clock_ms,
            floor=self._ledger.floor,
            since=self._since,
        )
        await (await self._producer.send(self._state_topic, partition, encode(marker), marker_key(origin)))  # 3
        self._marked = chain.log_offset

    def status(self) -> dict[str, Any]:
        """See `StageLane.status`; `marked` is up to where sums are durable, and every alert that follows from them."""
        return {
            "marked": min(self._marked, self._follower.followed.get(self._genesis.partition, -1)),
            "sums": len(self._ledger),
            "alerts": self._announced,
        }


class BudgetLanes:
    """Opens the lanes of a budget stage. Lives from `start` to `stop`; a fault of its own goes to `on_failure`."""

    def __init__(
        self, kafka: KafkaSettings, budgets: Sequence[Budget], on_failure: Callable[[BaseException], None]
    ) -> None:
        self._kafka = kafka
        self._budgets = budgets
        self._on_failure = on_failure
        self._definition = definition_of(budgets)
        self._producer = RecordProducer(kafka)
        self._books: dict[int, PriceBook] = {}
        # A stage keeps the lanes that it holds and lets go of all others: what is here is what it holds.
        self._homes: WeakValueDictionary[int, BudgetLane] = WeakValueDictionary()
        self._follower: BudgetFollower
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect, read the price books, and begin to follow the sums of all logs.

        Raises:
            InvalidRegistry: a budget is in another currency than the newest price book, or in a meter that it lacks.
        """
        await self._refresh_books()
        genesis = await genesis_of_log(self._kafka, 0)
        self._follower = BudgetFollower(self._kafka, self._budgets, genesis.limits.horizon_ms, self._homes)
        await self._producer.start()
        self._following = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Disconnect."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        await self._producer.stop()

    async def open(self, partition: int) -> BudgetLane:
        """Take a log over, in this order.

        1. Read the log's genesis, and the alerts that stand on this partition.
        2. Read the own partition of `usage.budget-state`. A record of another epoch stops the stage; a marker made for
           other budgets sends it back to the log's beginning.
        3. Compare the marker with the log record that it names, and go on behind it; per sum, only what is above its
           position counts.
        4. Look at what was written to `usage.budget-state` meanwhile, so that the follower goes on without a gap.
        5. Raise the alerts of this partition that are due.

        Raises:
            StageStopped: `log_diverged`.
            KafkaProblem: a topic cannot be read.
        """
        await self._refresh_books()
        genesis = await genesis_of_log(self._kafka, partition)  # 1
        raised = RaisedAlerts(await read_values(self._kafka, self._kafka.topic(Topic.ALERTS), partition))
        async with PartitionReader(self._kafka, self._kafka.topic(Topic.BUDGET_STATE), partition) as state:
            stored, read_to = await self._stored(state, genesis)  # 2
            marker = stored.marker
            chain = await self._resumed(partition, marker)  # 3
            ledger = self._ledger(genesis)
            ledger.restore(stored.sums())
            for key, position, definition in stored.last():
                ledger.seen(key, position, definition)
            while (end := self._follower.next.get(partition, 0)) > read_to:  # 4
                async for records in state.read(read_to, end):
                    for record in records:
                        named, head = parse_state_key(record.key or b""), read_sum_head(record.value or b"")
                        if named is not None and head is not None:
                            ledger.seen(named[1], head.position, head.definition)
                read_to = end
            lane = BudgetLane(
                chain=chain,
                genesis=genesis,
                ledger=ledger,
                raised=raised,
                definition=self._definition,
                producer=self._producer,
                kafka=self._kafka,
                follower=self._follower,
                marker=marker,
                read_to=read_to,
            )
            self._homes[partition] = lane
        await self._follower.look_for(partition)  # 5
        return lane

    async def _resumed(self, partition: int, marker: Marker | None) -> LogChain:
        chain = LogChain()
        async with PartitionReader(self._kafka, self._kafka.topic(Topic.LOG), partition) as reader:
            if marker is not None:
                found = await reader.at(marker.log_offset)
                cursor = Cursor(marker.epoch, marker.log_offset, marker.digest, marker.position)
                chain.resume(cursor, None if found is None else found.value)
            elif (await reader.bounds())[0] > 0:
                raise StageStopped(
                    StopReason.LOG_DIVERGED,
                    f"partition {partition} of the log was trimmed, so that these budgets, which are new or were "
                    "changed since, cannot be counted from its beginning. Put the budget file back as it was; or, if "
                    "it is enough to count what is left, run `meterproof budgets accept-gap`.",
                )
        return chain

    async def _stored(self, reader: PartitionReader, genesis: Genesis) -> tuple[StoredBudgets, int]:
        """What stands on a log's partition of `usage.budget-state`, and the offset behind it.

        How far the log's clock is, and how far back the sums stand, the last marker says before all is read.
        """
        start, end = await reader.bounds()
        hint: Marker | None = None
        async for records in reader.read(max(start, end - TAIL_RECORDS), end):
            for record in records:
                if is_marker_key(record.key or b""):
                    try:
                        found = decode_budget_state(record.value)
                    except InvalidRecord:
                        continue
                    if isinstance(found, Marker) and found.log == genesis.origin:
                        hint = found
        calendar = self._ledger(genesis)
        clock_ms = (hint.clock_ms if hint is not None else None) or 0
        start = max(start, (hint.floor if hint is not None else None) or 0)
        stored = StoredBudgets(genesis.origin, self._definition, lambda key: calendar.is_over(key, clock_ms))
        async for records in reader.read(min(start, end), end):
            for record in records:
                if record.value is not None:
                    stored.offer(record.offset, record.key or b"", record.value)
        if stored.other_budgets:
            _log.warning("budgets_changed", log=genesis.origin, doing="reading the log from its beginning")
        return stored, end

    def _ledger(self, genesis: Genesis) -> BudgetLedger:
        return BudgetLedger(genesis.origin, genesis.limits.horizon_ms, self._budgets, self._book)

    async def _follow(self) -> None:
        try:
            await self._follower.run()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - handed to the process, which ends by it
            self._on_failure(error)

    async def _refresh_books(self) -> None:
        self._books = await read_price_books(self._kafka)
        newest = self._books.get(max(self._books, default=0))
        for budget in self._budgets:
            if newest is not None and budget.currency not in {None, newest.currency}:
                message = f"budget {budget.name} is in {budget.currency}, the price book in {newest.currency}"
                raise InvalidRegistry(message)
            unknown = sorted(set(budget.meters or ()) - newest.meter_names()) if newest is not None else []
            if unknown:
                message = f"budget {budget.name} is in {unknown[0]}, a meter that the price book does not declare"
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
