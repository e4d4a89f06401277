"""A worker whose engine does nothing but write down what is asked of it: `python -m …noting_worker <Orders as JSON>`.

What it writes, one JSON object per line on standard output, is all that a runtime is: the calls, in their order.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from meterproof.health import HealthSettings
from meterproof.json_log import set_up_logging
from meterproof.kafka.errors import BrokerUnreachable
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.topics import Topic
from meterproof_stream.runtime import Runtime
from meterproof_stream.settings import WorkerSettings
from meterproof_stream.worker_process import driver_of


@dataclass(frozen=True)
class Orders:
    """What the engine does, and how the worker runs."""

    bootstrap: str
    prefix: str
    data: str
    runtime: Runtime
    begin: int = 0
    """Where it wants every partition to begin."""
    take_over_s: float = 0
    stop_s: float = 0
    fail_at: int | None = None
    """The offset whose record it cannot stand."""
    back: str | None = None
    """A file: as long as it is not there, a take-over finds no broker."""
    hang_at: int | None = None
    """The offset whose record it never gets done with, while the event loop turns."""
    spin_at: int | None = None
    """The offset whose record it computes for ever with, so that the event loop stands."""
    waits_for: str | None = None
    """What it claims to wait for."""
    health_port: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def note(**what: Any) -> None:
    """Write a line."""
    sys.stdout.buffer.write(orjson.dumps(what) + b"\n")
    sys.stdout.buffer.flush()


class NotingEngine:
    """Takes everything, acknowledges at once."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.back = None if orders.back is None else Path(orders.back)
        self.next: dict[int, int] = {}

    async def start(self) -> None:
        note(call="start")

    async def stop(self) -> None:
        note(call="stop")
        await asyncio.sleep(self.orders.stop_s)

    async def take_over(self, partitions: Iterable[int], generation: int) -> None:
        wanted = sorted(partitions)
        note(call="take over", partitions=wanted)
        if self.back is not None and not self.back.exists():
            raise BrokerUnreachable("nowhere:1", "told so")
        until_s = time.monotonic() + self.orders.take_over_s
        while time.monotonic() < until_s:
            time.sleep(0.1)  # noqa: ASYNC251 - a fold computes: the loop turns now and then
            await asyncio.sleep(0)
        self.next = {partition: self.next.get(partition, self.orders.begin) for partition in wanted}
        note(call="taken over", partitions=wanted)

    async def revoke(self, partitions: Iterable[int]) -> None:
        note(call="revoke", partitions=sorted(partitions))

    def next_offsets(self) -> dict[int, int]:
        return dict(self.next)

    async def feed(
        self, partition: int, offset: int, value: bytes | None, append_ms: int, acknowledge: Callable[[], object]
    ) -> None:
        if offset == self.orders.fail_at:
            raise RuntimeError("cannot stand it")
        if offset == self.orders.hang_at:
            note(call="hang")
            await asyncio.Event().wait()
        if offset == self.orders.spin_at:
            note(call="spin")
            while True:
                pass
        note(call="feed", partition=partition, offset=offset, value=(value or b"").decode())
        self.next[partition] = offset + 1
        acknowledge()

    def waits_for(self) -> str | None:
        return self.orders.waits_for

    def status(self) -> dict[str, Any]:
        return {"partitions": {str(partition): {"next": offset} for partition, offset in self.next.items()}}


def main() -> int:
    orders = Orders(**orjson.loads(sys.argv[1]))
    kafka = KafkaSettings(bootstrap=orders.bootstrap, topic_prefix=orders.prefix)
    settings = WorkerSettings(
        instance="noting", runtime=Runtime(orders.runtime), data_dir=Path(orders.data), **orders.settings
    )
    set_up_logging("noting", "noting")
    driver = driver_of(settings.runtime)(
        NotingEngine(orders),
        worker="noting",
        topic=Topic.BATCHES,
        kafka=kafka,
        settings=settings,
        health=HealthSettings(port=orders.health_port, host="127.0.0.1"),
    )
    return driver.run()


if __name__ == "__main__":
    sys.exit(main())
