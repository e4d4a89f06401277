"""The webhook sink: alerts to every endpoint, each by a lane of its own."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from meterproof.kafka.errors import BrokerUnreachable, KafkaProblem
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.topics import Topic
from meterproof_sinks.sink_process import run_together
from meterproof_sinks.sink_status import StatusWriter
from meterproof_sinks.webhook_deliveries import read_histories, recorder
from meterproof_sinks.webhook_endpoints import Endpoint
from meterproof_sinks.webhook_lane import WebhookLane
from meterproof_sinks.webhook_memory import DeliveriesMemory
from meterproof_sinks.webhook_turn import WebhookTurn
from meterproof_sinks.worker import STATUS_INTERVAL_S

NAME: Final = "webhook"


async def run_webhooks(
    endpoints: Sequence[Endpoint],
    kafka: KafkaSettings,
    *,
    instance: str,
    memory: Path,
    status: StatusWriter,
    stop: asyncio.Event,
    now_ms: Callable[[], int],
    draw: Callable[[], float],
) -> None:
    """Carry `usage.alerts` to the endpoints until `stop` is set; attempts that are under way are finished.

    Of several workers one sends, and the others stand by (`WebhookTurn`). Each time that it is this one's turn:

    1. read what every endpoint got, from `usage.deliveries`
    2. run a lane for each endpoint, until the turn ends; before each message it is asked whether it is this one's turn
       still, and `usage.deliveries` the same topic

    Not a `Sink`: an endpoint cannot be asked what it has, and reads alerts, not the log. The one rule is the same: the
    cursor is the output's own, here `usage.deliveries`, one record per endpoint and message. An offset would not do,
    since messages are done in another order than they came.

    Args:
        endpoints: where to; their names differ.
        kafka: where alerts and deliveries are.
        instance: unique name of this worker.
        memory: file that remembers which topic `usage.deliveries` is.
        status: told what each lane does.
        stop: ends it.
        now_ms: the time, ms since 1970.
        draw: random, from 0 to below 1.

    Raises:
        StageStopped: `log_diverged`: `usage.deliveries` is not the topic any more that it was.
        InvalidRecord: a record of `usage.deliveries` is not of this version.
        KafkaProblem: alerts cannot be read, or deliveries not be recorded; an endpoint that fails raises nothing.

    """

    def show(state: str, lanes: Sequence[WebhookLane] = (), error: BaseException | None = None) -> None:
        status.write(
            {
                "worker": NAME,
                "pid": os.getpid(),
                "state": state,
                "written_ms": now_ms(),
                "error": None if error is None else str(error),
                "topic": kafka.topic(Topic.ALERTS),
                "endpoints": {lane.endpoint.name: asdict(lane.status) for lane in lanes},
            }
        )

    lanes: list[WebhookLane] = []

    async def show_until_stop() -> None:
        while not stop.is_set():
            if turn.held:
                show("running", lanes)
            else:
                show("standing by")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), STATUS_INTERVAL_S)
        show("stopping", lanes)

    show("starting")
    async with (
        DeliveriesMemory(kafka, memory) as deliveries,
        RecordProducer(kafka) as producer,
        WebhookTurn(kafka, instance) as turn,
    ):
        record = recorder(producer, kafka)

        async def may_send() -> bool:
            try:
                await deliveries.check()
            except BrokerUnreachable:
                return False
            return await turn.is_mine()

        async def term(ends: asyncio.Event) -> None:
            histories = await read_histories(kafka, (endpoint.name for endpoint in endpoints))  # 1
            lanes[:] = [
                WebhookLane(
                    one,
                    histories[one.name],
                    kafka=kafka,
                    record=record,
                    may_send=may_send,
                    now_ms=now_ms,
                    draw=draw,
                )
                for one in endpoints
            ]
            await run_together(ends, *(lane.run(ends) for lane in lanes))  # 2

        async def take_turns() -> None:
            try:
                await turn.run(term, stop)
            except KafkaProblem:
                with contextlib.suppress(BrokerUnreachable):
                    await deliveries.check()  # which may be why
                raise

        try:
            await run_together(stop, take_turns(), deliveries.watch(stop), show_until_stop())
        except Exception as error:
            show("failed", lanes, error)
            raise
    show("stopped", lanes)
