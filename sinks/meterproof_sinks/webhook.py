"""The webhook sink: alerts to every endpoint, each by a lane of its own."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Final

from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.topics import Topic
from meterproof_sinks.sink_process import run_together
from meterproof_sinks.sink_status import StatusWriter
from meterproof_sinks.webhook_deliveries import read_histories, recorder
from meterproof_sinks.webhook_endpoints import Endpoint
from meterproof_sinks.webhook_lane import WebhookLane
from meterproof_sinks.webhook_turn import WebhookTurn
from meterproof_sinks.worker import STATUS_INTERVAL_S

NAME: Final = "webhook"


async def run_webhooks(
    endpoints: Sequence[Endpoint],
    kafka: KafkaSettings,
    *,
    instance: str,
    status: StatusWriter,
    stop: asyncio.Event,
    now_ms: Callable[[], int],
    draw: Callable[[], float],
) -> None:
    """Carry `usage.alerts` to the endpoints until `stop` is set; attempts that are under way are finished.

    Of several workers one sends, and the others stand by (`WebhookTurn`). Each time that it is this one's turn:

    1. read what every endpoint got, from `usage.deliveries`
    2. run a lane for each endpoint, until the turn ends

    Not a `Sink`: an endpoint cannot be asked what it has, and reads alerts, not the log. The one rule is the same: the
    cursor is the output's own, here `usage.deliveries`, one record per endpoint and message. An offset would not do,
    since messages are done in another order than they came.

    Args:
        endpoints: where to; their names differ.
        kafka: where alerts and deliveries are.
        instance: unique name of this worker.
        status: told what each lane does.
        stop: ends it.
        now_ms: the time, ms since 1970.
        draw: random, from 0 to below 1.

    Raises:
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
    async with RecordProducer(kafka) as producer, WebhookTurn(kafka, instance) as turn:
        record = recorder(producer, kafka)

        async def term(ends: asyncio.Event) -> None:
            histories = await read_histories(kafka, (endpoint.name for endpoint in endpoints))  # 1
            lanes[:] = [
                WebhookLane(
                    one,
                    histories[one.name],
                    kafka=kafka,
                    record=record,
                    may_send=turn.is_mine,
                    now_ms=now_ms,
                    draw=draw,
                )
                for one in endpoints
            ]
            await run_together(ends, *(lane.run(ends) for lane in lanes))  # 2

        try:
            await run_together(stop, turn.run(term, stop), show_until_stop())
        except Exception as error:
            show("failed", lanes, error)
            raise
    show("stopped", lanes)
