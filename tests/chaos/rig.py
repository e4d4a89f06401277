"""The pipeline that faults strike: real broker, every worker a process, all of them behind a proxy."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

from meterproof.deployment import DataFolder
from meterproof.kafka.settings import KafkaSettings
from meterproof.status import read_status
from meterproof_local import setup
from meterproof_local.child import Child
from meterproof_local.ledger import Ledger
from meterproof_local.setup import SetupWish
from meterproof_local.simulation import PRODUCERS, budget_file
from meterproof_local.supervisor import Supervisor, worker_specs
from meterproof_local.worker import State, Worker, WorkerSpec
from tests.chaos.load import Load
from tests.chaos.proxied_broker import REQUEST_TIMEOUT_S, proxied_broker

PARTITIONS: Final = 4
SESSION_TIMEOUT_S: Final = 6
SEQUENCERS: Final = ("sequencer-0", "sequencer-1")
STAGES: Final = ("checkpointer", "budgets")
SINKS: Final = ("clickhouse", "audit")
WORKERS: Final = (*SEQUENCERS, *STAGES, *SINKS)
GROUP_MEMBERS: Final = (*SEQUENCERS, *STAGES)
ON_DISK: Final = "sequencer-0"
"""The sequencer that keeps its index in a folder."""
_VARIABLES: Final = {
    ON_DISK: {"METERPROOF_WORKER_INDEX": "rocksdb"},
    "sequencer-1": {"METERPROOF_WORKER_RUNTIME": "asyncio"},
}
"""Members of one group may differ in their runtime and in where they keep their index, so here they do."""
_EVENTS_EXPECTED: Final = 40_000
"""What the budget is cut for: some thresholds are reached in a short run, others never."""
_STARTS_IN_S: Final = 90.0
_POLL_S: Final = 0.02


class Rig:
    """A pipeline, the load on it, and hands to hurt it with. Lives from `async with` on, in the main thread's loop."""

    def __init__(self, root: Path, *, seed: int, rate: int, say: Callable[[str], None]) -> None:
        self.folder = DataFolder(root)
        self.seed = seed
        self._rate = rate
        self._stack = AsyncExitStack()
        self.broker, self.proxy, self.proxied = proxied_broker(self.folder.kafka)
        self.supervisor = Supervisor(
            self.folder,
            SetupWish(deployment="chaos", name="localhost/chaos", partitions=PARTITIONS, producers=PRODUCERS),
            sequencers=len(SEQUENCERS),
            say=say,
            specs=self._specs,
        )
        self.supervisor.broker = self.broker
        self.load: Load

    async def __aenter__(self) -> Self:
        """Start everything; returns when every worker is at work and the load runs."""
        async with AsyncExitStack() as stack:
            stack.enter_context(self.proxy)
            setup.replace(self.folder.budgets, budget_file(_EVENTS_EXPECTED))
            await stack.enter_async_context(self.supervisor)
            await self.supervisor.wait_until_ready(patience_s=_STARTS_IN_S)
            ledger = Ledger.open(self.folder.price_book, self.folder.budgets)
            self.load = Load(self.folder, self.proxied, ledger, seed=self.seed, rate=self._rate)
            await self.load.start()
            stack.push_async_callback(self.load.cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def kafka(self) -> KafkaSettings:
        """Kafka past the proxy."""
        return self.supervisor.kafka

    def worker(self, name: str) -> Worker:
        """A worker under supervision."""
        return self.supervisor.workers[name]

    def part(self, name: str, partition: int) -> dict[str, Any] | None:
        """What a worker last said of a partition."""
        found: dict[str, Any] | None = (self.supervisor.status(name) or {}).get("partitions", {}).get(str(partition))
        return found

    async def running(self, name: str, *, but: int | None = None, patience_s: float = 120.0) -> int:
        """Wait until a worker's process runs, another one than `but`; its process id.

        Raises:
            TimeoutError: not within `patience_s`.
            AssertionError: it needs a person.
        """
        limit_s = time.monotonic() + patience_s
        while (pid := self.worker(name).pid) is None or pid == but:
            needs_you = self.worker(name).state is State.NEEDS_YOU
            if needs_you or time.monotonic() > limit_s:
                kind = AssertionError if needs_you else TimeoutError
                raise kind(f"{name} does not run: {self.worker(name).last_words()}")
            await asyncio.sleep(_POLL_S)
        return pid

    async def stop_workers(self, names: tuple[str, ...]) -> None:
        """SIGTERM to these; returns when they ended. They stay stopped until `start_workers`."""
        for name in names:
            self.worker(name).ask_to_stop(time.monotonic())
        left = list(names)
        while left:
            await asyncio.sleep(_POLL_S)
            left = [name for name in left if not self.worker(name).has_ended(time.monotonic())]

    def guest(self, number: int) -> str:
        """The instance name of a sequencer that is here for a short time."""
        return f"guest-{number}"

    def guest_status(self, number: int) -> dict[str, Any] | None:
        """What such a one last said; None before it said anything."""
        return read_status(self.folder.status, self.guest(number))

    def index_folder(self, partition: int) -> Path:
        """Where the sequencer `ON_DISK` keeps the index of a partition."""
        return self.folder.root / "cache" / ON_DISK / "index" / f"p{partition}"

    def start_workers(self, names: tuple[str, ...]) -> None:
        """Start them again."""
        for name in names:
            self.worker(name).start(time.monotonic())

    def spawn(self, name: str, command: list[str], variables: Mapping[str, str]) -> Child:
        """Another process beside the workers, that ends with us; it logs beside theirs."""
        environment = os.environ | {"METERPROOF_WORKER_SESSION_TIMEOUT_S": str(SESSION_TIMEOUT_S)} | dict(variables)
        with (self.folder.logs / f"{name}.log").open("ab") as output:
            return Child(
                [sys.executable, *command], folder=Path(__file__).parents[2], environment=environment, output=output
            )

    def command_of(self, name: str) -> tuple[list[str], Mapping[str, str]]:
        """The command line (behind Python's name) and the variables of a worker."""
        spec = self.worker(name).spec
        program = "import sys; from meterproof_proofs.command import main; sys.exit(main(sys.argv[1:]))"
        return ["-c", program, *spec.arguments], spec.variables

    def _specs(self, folder: DataFolder, sequencers: int) -> list[WorkerSpec]:
        variables = {
            "METERPROOF_KAFKA_BOOTSTRAP": self.proxied.bootstrap,
            "METERPROOF_KAFKA_REQUEST_TIMEOUT_S": str(REQUEST_TIMEOUT_S),
            "METERPROOF_WORKER_SESSION_TIMEOUT_S": str(SESSION_TIMEOUT_S),
        }
        return [
            replace(spec, variables=variables | _VARIABLES.get(spec.name, {}))
            for spec in worker_specs(folder, sequencers)
        ]


def pause(pid: int) -> None:
    """Freeze a process and its group."""
    os.killpg(pid, signal.SIGSTOP)


def resume(pid: int) -> None:
    """Let it go on; nothing happens if it is gone."""
    try:
        os.killpg(pid, signal.SIGCONT)
    except ProcessLookupError:
        return
