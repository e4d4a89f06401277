"""How long after each fault the pipeline had caught up with everything sent until then."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

from meterproof.kafka.errors import KafkaProblem
from meterproof_local.log_ends import LogEnd, LogEnds
from tests.chaos.load import Sent
from tests.chaos.rig import PARTITIONS, SINKS, STAGES, Rig
from tests.chaos.schedule import Planned

_LOOK_INTERVAL_S: Final = 0.25
_DURABLE: Final = {
    "checkpointer": "signed_size",
    "budgets": "marked",
    "clickhouse": "log_offset",
    "audit": "log_offset",
}
"""Where a stage's status says how much of a partition is durable."""
LIMIT_S: Final = 180.0
"""A fault from which the pipeline has not recovered after this long is one too many."""


@dataclass(slots=True)
class Recovery:
    """One fault and what came after it."""

    planned: Planned
    detail: str
    """What the fault did, in a few words."""
    began_s: float
    """The end of the injection, on the monotonic clock."""
    sent: Sent
    """What had been sent by then."""
    log_s: float | None = None
    """Until all of it was answered in the log."""
    everywhere_s: float | None = None
    """Until every stage and sink had made all of that durable."""
    ends: list[tuple[int, int]] = field(default_factory=list)
    """By partition, log offset and position of the last accepted record when the log had all of it."""


class RecoveryWatch:
    """Looks at the log and at every stage's own words all the time, past the proxy. Lives as long as a run."""

    def __init__(self, rig: Rig) -> None:
        self.recoveries: list[Recovery] = []
        self._rig = rig
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    def begin(self, planned: Planned, detail: str) -> Recovery:
        """An injection has ended."""
        recovery = Recovery(planned, detail, time.monotonic(), self._rig.load.deliveries.sent())
        self.recoveries.append(recovery)
        return recovery

    async def recovered(self, recovery: Recovery) -> None:
        """Wait for a recovery.

        Raises:
            TimeoutError: it took more than `LIMIT_S`; names what was waited for.
            PipelineStopped: a worker needs a person.
        """

        def done() -> bool:
            self._rig.load.check()
            if self._watching is not None and self._watching.done():
                self._watching.result()
            if time.monotonic() - recovery.began_s > LIMIT_S:
                missing = "the log has not all" if recovery.log_s is None else "a stage or sink has not all"
                raise TimeoutError(
                    f"fault {recovery.planned.number} ({recovery.planned.fault}, {recovery.detail}): {missing} of "
                    f"what had been sent, after {LIMIT_S:g} s"
                )
            return recovery.everywhere_s is not None

        await self._rig.supervisor.wait_until(done, "recovery", patience_s=10 * LIMIT_S)

    async def _watch(self) -> None:
        async with LogEnds(self._rig.kafka, PARTITIONS) as ends:
            while True:
                await asyncio.sleep(_LOOK_INTERVAL_S)
                try:
                    logs = await ends.refresh()
                except KafkaProblem:  # the broker is away: that is what is measured
                    continue
                now_s = time.monotonic()
                for recovery in self.recoveries:
                    if recovery.log_s is None:
                        self._look_at_log(recovery, logs, now_s)
                    if recovery.log_s is not None and recovery.everywhere_s is None:
                        self._look_everywhere(recovery, now_s)

    def _look_at_log(self, recovery: Recovery, logs: list[LogEnd], now_s: float) -> None:
        targets = recovery.sent.targets()
        if targets is None:
            return
        if all(logs[partition].chain.next_source_offset >= end for partition, end in targets.items()):
            recovery.log_s = now_s - recovery.began_s
            recovery.ends = [(log.chain.log_offset, log.chain.position) for log in logs]

    def _look_everywhere(self, recovery: Recovery, now_s: float) -> None:
        for partition, (log_offset, position) in enumerate(recovery.ends):
            for name in (*STAGES, *SINKS):
                part = self._rig.part(name, partition)
                if part is None:
                    return
                said, wanted = _DURABLE[name], position if name == "checkpointer" else log_offset
                if part[said] < wanted:
                    return
        recovery.everywhere_s = now_s - recovery.began_s
