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
from meterproof_sinks.worker import STATUS_INTERVAL_S

NAME: Final = "webhook"


async def run_webhooks(
    endpoints: Sequence[Endpoint],
    kafka: KafkaSettings,
    *,
    status: StatusWriter,
    stop: asyncio.Event,
    now_ms: Callable[[], int],
    draw: Callable[[], float],
) -> None:
    """Carry `usage.alerts` to the endpoints until `stop` is set; attempts that are under way are finished.

    Not a `Sink`: an endpoint cannot be asked what it has, and reads alerts, not the log. The one rule is the same: the
    cursor is the output's own, here `usage.deliveries`, one record per endpoint and message. An offset would not do,
    since messages are done in another order than they came.

    One worker at a time: two would send everything twice, under the same ids.

    Args:
        endpoints: where to; their names differ.
        kafka: where alerts and deliveries are.
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

    async def show_until_stop(lanes: Sequence[WebhookLane]) -> None:
        while not stop.is_set():
            show("running", lanes)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), STATUS_INTERVAL_S)
        show("stopping", lanes)

    show("starting")
    histories = await read_histories(kafka, (endpoint.name for endpoint in endpoints))
    async with RecordProducer(kafka) as producer:
        record = recorder(producer, kafka)
        lanes = [
            WebhookLane(one, histories[one.name], kafka=kafka, record=record, now_ms=now_ms, draw=draw)
            for one in endpoints
        ]
        try:
            await run_together(stop, *(lane.run(stop) for lane in lanes), show_until_stop(lanes))
        except Exception as error:
            show("failed", lanes, error)
            raise
    show("stopped", lanes)
