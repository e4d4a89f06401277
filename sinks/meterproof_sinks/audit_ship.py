"""The worker that keeps a copy of the audit folder in an object store: what is sealed goes there as soon as it is."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import structlog

from meterproof_sinks.audit_copy import Copied, copy_audit
from meterproof_sinks.object_store import ObjectStore, StoreUnavailable
from meterproof_sinks.sink_process import Work, run_process
from meterproof_sinks.sink_status import SinkStatus, StatusWriter
from meterproof_sinks.worker import STATUS_INTERVAL_S

NAME: Final = "audit-ship"
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger("meterproof.audit")


async def ship(
    audit: Path, store: ObjectStore, *, status: StatusWriter, stop: asyncio.Event, interval_s: float
) -> None:
    """Copy what is sealed, and look again every so often, until `stop` is set.

    A store that is away is waited for, ever longer: the folder keeps what comes. Asked to stop, it finishes the object
    at hand; the next run goes on behind it.

    Raises:
        ObjectDiffers: copy and folder contradict each other.
        StoreProblem: the store refuses.
        DamagedAudit: the folder does not hold.
        OSError: a file cannot be read.
    """
    state: dict[str, Any] = {"objects": 0, "bytes": 0, "away": None, "attempts": 0}
    copied = Copied()

    def show(name: str, error: BaseException | None = None) -> None:
        status.write(
            {
                "worker": NAME,
                "pid": os.getpid(),
                "state": name,
                "written_ms": time.time_ns() // 1_000_000,
                "error": None if error is None else str(error),
                "url": store.url,
                "slow": [] if state["away"] is None else [state["away"]],
                "logs": {origin: asdict(log) for origin, log in copied.logs.items()},
                "partitions": {str(log.partition): {"position": log.events} for log in copied.logs.values()},
                **state,
            }
        )

    def count(size: int) -> None:
        state["objects"] += 1
        state["bytes"] += size
        if stop.is_set():
            raise _AskedToStop

    show("starting")
    pause_s = _FIRST_PAUSE_S
    try:
        while not stop.is_set():
            copying = asyncio.create_task(asyncio.to_thread(copy_audit, audit, store, count))
            while not (await asyncio.wait([copying], timeout=STATUS_INTERVAL_S))[0]:
                show("running" if state["away"] is None else "waiting")
            try:
                copied = copying.result()
            except StoreUnavailable as error:
                if state["away"] is None:
                    _log.warning("store_away", reason=str(error))
                state |= {"away": str(error), "attempts": state["attempts"] + 1}
                rest_s, pause_s = pause_s * random.uniform(0.5, 1), min(2 * pause_s, _LONGEST_PAUSE_S)  # noqa: S311
            else:
                if state["away"] is not None:
                    _log.info("store_back")
                state["away"], rest_s, pause_s = None, interval_s, _FIRST_PAUSE_S
            until_s = time.monotonic() + rest_s
            while not stop.is_set() and (left_s := until_s - time.monotonic()) > 0:
                show("running" if state["away"] is None else "waiting")
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), min(left_s, STATUS_INTERVAL_S))
    except _AskedToStop:
        pass
    except Exception as error:
        show("failed", error)
        raise
    show("stopped")


class _AskedToStop(Exception):
    """The worker was asked to stop between two objects."""


def run_ship_process(audit: Path, store: ObjectStore, *, data: Path, interval_s: float) -> int:
    """Run the worker until SIGTERM or SIGINT; its exit code, see `sink_process`.

    Args:
        audit: the audit folder.
        store: where the copy is.
        data: the deployment's folder on this machine: the status goes there.
        interval_s: between two looks.

    Raises:
        PortTaken: its health cannot be served where the settings say.

    """

    @asynccontextmanager
    async def opened() -> AsyncIterator[Work]:
        async def work(status: SinkStatus, stop: asyncio.Event) -> None:
            await ship(audit, store, status=status, stop=stop, interval_s=interval_s)

        yield work

    return run_process(opened, name=NAME, data=data)
