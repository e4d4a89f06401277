"""The way of alerts to one endpoint, which no other endpoint shares."""

import asyncio
import contextlib
import heapq
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import Final, NamedTuple

import structlog

from meterproof.kafka.errors import BrokerUnreachable, OffsetBeyondEnd, OffsetTrimmed
from meterproof.kafka.reader import Record
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_ids import MadeAgain
from meterproof.kafka.topic_reader import TopicReader
from meterproof_schemas.budget import decode_alert
from meterproof_schemas.delivery import Delivery, Outcome
from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.instant import format_instant_ms
from meterproof_schemas.topics import Topic
from meterproof_sinks.small_topic import LOOK_INTERVAL_S
from meterproof_sinks.webhook_backoff import retry_after_ms
from meterproof_sinks.webhook_deliveries import SINK, History, Pending
from meterproof_sinks.webhook_deliveries import Record as RecordDelivery
from meterproof_sinks.webhook_endpoints import Endpoint
from meterproof_sinks.webhook_message import WebhookMessage, message_of
from meterproof_sinks.webhook_sender import Answer, WebhookSender

WAITING_MAX: Final = 1_000
"""Messages that a lane holds; with so many nothing more is read for its endpoint until one is done."""
REST_MAX_MS: Final = 60_000
"""An endpoint that fails is left alone between attempts, whatever their messages, by the back-off up to this."""
_ASK_AGAIN_MS: Final = 1_000
"""After an answer that nothing may be sent now."""
_IDLE_S: Final = 0.5
"""The longest wait: bounds how long a stop takes."""
_LOAD_STATUSES: Final = (429, 503)
"""Whose `Retry-After` speaks of the endpoint, not of a message (RFC 9110, section 10.2.3; RFC 6585, section 4)."""
_log: structlog.stdlib.BoundLogger = structlog.get_logger("meterproof.sink")


class _Due(NamedTuple):
    """A message and when it may be sent. Compared by time, then by the order in which they came."""

    at_ms: int
    number: int
    message: WebhookMessage
    attempts: int


@dataclass(slots=True)
class LaneStatus:
    """What the status file shows of an endpoint."""

    waiting: int = 0
    """Messages that were read and are not done."""
    delivered: int = 0
    """Since the worker started; so the next two."""
    retries: int = 0
    dead: int = 0
    unreadable: int = 0
    """Records of `usage.alerts` that are no alert of a version that this worker knows; a newer one sends them."""
    failing: str | None = None
    """Why the last attempt failed; None if it did not."""


class WebhookLane:
    """Carries alerts to one endpoint, one message at a time. Lives as long as the worker.

    Promises: an alert that the endpoint wants is sent until it is delivered or given up, across restarts; what was
    recorded as delivered or given up is never sent again; only the one message that was under way when the process
    died may be repeated, under the same id; a message that fails keeps no other waiting beyond the rest that its
    endpoint is given; a topic that was cut off, or deleted and made again, is read from its beginning.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        history: History,
        *,
        kafka: KafkaSettings,
        record: RecordDelivery,
        may_send: Callable[[], Awaitable[bool]],
        now_ms: Callable[[], int],
        draw: Callable[[], float],
    ) -> None:
        """Send nothing yet.

        Args:
            endpoint: where to.
            history: what it got; kept up to date from now on.
            kafka: where the alerts are.
            record: says durably what became of a message.
            may_send: asked before each attempt: whether no other worker may be sending the same.
            now_ms: the time, ms since 1970.
            draw: random, from 0 to below 1.

        """
        self.endpoint = endpoint
        self.status = LaneStatus()
        self._history = history
        self._kafka = kafka
        self._record = record
        self._may_send = may_send
        self._clock_ms = now_ms
        self._latest_ms = now_ms()
        """What the clock said when it was last asked."""
        self._draw = draw
        self._waiting: list[_Due] = []
        self._waiting_ids: set[str] = set()
        self._numbers = count()
        self._failures = 0
        """Attempts that failed since one did not."""
        self._rest_until_ms = 0
        self._from_beginning = False
        """The topic is to be read again from its first record."""

    async def run(self, stop: asyncio.Event) -> None:
        """Read from the first alert on, and send what the endpoint has not got, until `stop` is set.

        1. read alerts, as many as there is room for, until the next message is due
        2. leave out what is done, waits already, or is not for this endpoint; the others wait, those that were tried
           before for as long as was recorded
        3. ask whether it may be sent; if not now, wait a moment
        4. send the message that has been due the longest
        5. record what became of it, durably
        6. only then count it as done, or let it wait again; back to 1

        Raises:
            KafkaProblem: alerts cannot be read, or deliveries not be recorded.
        """
        topic = self._kafka.topic(Topic.ALERTS)
        async with WebhookSender(self.endpoint) as sender, TopicReader(self._kafka, topic) as reader:
            made_again = MadeAgain(reader.topic_id, interval_s=LOOK_INTERVAL_S)
            while not stop.is_set():
                await self._read(reader, made_again, stop)  # 1, 2
                if stop.is_set() or self._wait_ms() != 0:
                    continue
                if not await self._may_send():  # 3
                    self._rest_until_ms = self._now_ms() + _ASK_AGAIN_MS
                elif not stop.is_set():
                    await self._attempt(sender, heapq.heappop(self._waiting))  # 4, 5, 6

    async def _read(self, reader: TopicReader, made_again: MadeAgain, stop: asyncio.Event) -> None:
        wait_ms, room = self._wait_ms(), WAITING_MAX - len(self._waiting)
        wait_s = _IDLE_S if wait_ms is None else min(wait_ms / 1000, _IDLE_S)
        if room <= 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), wait_s)
            return
        with contextlib.suppress(BrokerUnreachable):  # the reader below outlives that
            self._from_beginning |= await made_again.look()
            if self._from_beginning:
                reader.seek({partition: start for partition, (start, _) in (await reader.bounds()).items()})
                self._from_beginning = False
        try:
            polled = await reader.poll(wait_s, room)
        except (OffsetBeyondEnd, OffsetTrimmed):
            self._from_beginning = True
            return
        for records in polled.values():
            for record in records:
                self._take(record)
        self.status.waiting = len(self._waiting)

    def _now_ms(self) -> int:
        """The time. When the clock was set back, what waits is set back with it, or it would wait for that long."""
        now_ms = self._clock_ms()
        if (back_ms := self._latest_ms - now_ms) > 0:
            self._waiting = [due._replace(at_ms=due.at_ms - back_ms) for due in self._waiting]
            self._rest_until_ms -= back_ms
        self._latest_ms = now_ms
        return now_ms

    def _wait_ms(self) -> int | None:
        """Until a message may be sent; None while there is none."""
        if not self._waiting:
            return None
        now_ms = self._now_ms()
        return max(0, max(self._waiting[0].at_ms, self._rest_until_ms) - now_ms)

    def _take(self, record: Record) -> None:
        """Step 2 of `run`, for one record."""
        if record.value is None:
            return  # an alert that was taken away
        try:
            alert = decode_alert(record.value)
        except InvalidRecord as error:
            self.status.unreadable += 1
            _log.error("unreadable_alert", endpoint=self.endpoint.name, offset=record.offset, reason=str(error))
            return
        if not self.endpoint.wants(alert):
            return
        message = message_of(alert)
        if message.id in self._history.done or message.id in self._waiting_ids:
            return
        pending = self._history.retrying.pop(message.id, Pending(0, self._now_ms()))
        # A clock that was wrong when this was recorded must not keep it for ever.
        latest_ms = self._now_ms() + self.endpoint.backoff.longest_ms
        self._wait(min(pending.next_attempt_ms, latest_ms), message, pending.attempts)
        self._waiting_ids.add(message.id)

    def _wait(self, at_ms: int, message: WebhookMessage, attempts: int) -> None:
        heapq.heappush(self._waiting, _Due(at_ms, next(self._numbers), message, attempts))

    async def _attempt(self, sender: WebhookSender, due: _Due) -> None:
        """Steps 4 to 6 of `run`."""
        message, attempts = due.message, due.attempts + 1
        answer = await sender.send(message, self._now_ms() // 1000)  # 4
        now_ms = self._now_ms()
        outcome, next_ms = self._judge(answer, attempts, now_ms)
        await self._record(
            Delivery(
                v=1,
                sink=SINK,
                endpoint=self.endpoint.name,
                id=message.id,
                alert=message.alert,
                outcome=outcome,
                attempts=attempts,
                time=format_instant_ms(now_ms),
                status=answer.status,
                reason=answer.reason,
                next_attempt=None if next_ms is None else format_instant_ms(next_ms),
            )
        )  # 5
        self._settle(message, attempts, outcome, next_ms, answer)  # 6

    def _judge(self, answer: Answer, attempts: int, now_ms: int) -> tuple[Outcome, int | None]:
        """What becomes of a message, and when it is sent again; and how long the endpoint is left alone."""
        if answer.delivered:
            self._failures = 0
            return "delivered", None
        if answer.final:
            return "dead", None
        self._failures += 1
        backoff = self.endpoint.backoff
        asked_ms = retry_after_ms(answer.retry_after, now_ms) or 0
        rest_ms = min(backoff.pause_ms(self._failures, self._draw()), REST_MAX_MS)
        if answer.status in _LOAD_STATUSES:
            rest_ms = max(rest_ms, asked_ms)
        self._rest_until_ms = now_ms + rest_ms
        if attempts >= backoff.attempts_max:
            return "dead", None
        return "retrying", now_ms + max(backoff.pause_ms(attempts, self._draw()), asked_ms)

    def _settle(
        self, message: WebhookMessage, attempts: int, outcome: Outcome, next_ms: int | None, answer: Answer
    ) -> None:
        status, told = self.status, {"endpoint": self.endpoint.name, "id": message.id, "attempts": attempts}
        status.failing = answer.reason
        if next_ms is not None:
            status.retries += 1
            self._wait(next_ms, message, attempts)
            _log.warning("delivery_failed", **told, reason=answer.reason)
        else:
            self._waiting_ids.discard(message.id)
            self._history.done.add(message.id)
            if outcome == "dead":
                status.dead += 1
                _log.error("delivery_given_up", **told, reason=answer.reason)
            else:
                status.delivered += 1
        status.waiting = len(self._waiting)
