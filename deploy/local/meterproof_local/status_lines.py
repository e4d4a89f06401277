"""What a person sees of a running pipeline: one line per process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.box import SIMPLE
from rich.table import Table

from meterproof_local.supervisor import BROKER, Supervisor
from meterproof_local.worker import State

_STYLES = {State.RUNNING: "green", State.WAITING: "yellow", State.NEEDS_YOU: "bold red", State.STOPPED: "dim"}
_KEY_CHARS: Final = 12


@dataclass(frozen=True, slots=True)
class StatusLine:
    """One process."""

    name: str
    state: State
    pid: int | None
    restarts: int
    where: str
    """How far it is, as it says itself."""


def status_lines(supervisor: Supervisor) -> list[StatusLine]:
    """One line per process, in the order in which data flows."""
    broker = supervisor.broker
    lines = [
        StatusLine(
            BROKER,
            State.WAITING if broker.pid is None else State.RUNNING,
            broker.pid,
            supervisor.broker_restarts,
            broker.bootstrap,
        )
    ]
    for name, worker in supervisor.workers.items():
        where = how_far(supervisor.status(name))
        if worker.state is State.NEEDS_YOU:
            where = "; ".join(worker.last_words(1)) or where
        lines.append(StatusLine(name, worker.state, worker.pid, worker.restarts, where))
    return lines


def status_table(lines: Sequence[StatusLine]) -> Table:
    """The lines as a table."""
    table = Table("worker", "state", "process", "restarts", "how far", box=SIMPLE, pad_edge=False)
    for line in lines:
        table.add_row(
            line.name,
            f"[{_STYLES[line.state]}]{line.state}[/]",
            "" if line.pid is None else str(line.pid),
            str(line.restarts),
            line.where,
        )
    return table


def how_far(status: Mapping[str, Any] | None) -> str:
    """A worker's own status in few words."""
    if status is None:
        return "no status yet"
    parts = status.get("partitions", {}).values()
    if (endpoints := status.get("endpoints")) is not None:
        words = [f"{name}: {_delivered(endpoint)}" for name, endpoint in endpoints.items()]
    else:
        words = [f"{sum(part.get('position', 0) for part in parts):,} events"]
    if status.get("state") not in {None, "running"}:
        words.insert(0, str(status["state"]))
    elif status.get("ready") is False:
        words.insert(0, f"not ready: {'; '.join(map(str, status['reasons']))}")
    lags = [part["lag"] for part in parts if part.get("lag") is not None]
    if lags:
        words.append(f"{sum(lags):,} records behind")
    for key, word in (("checkpoints", "checkpoints signed"), ("alerts", "alerts"), ("foreign", "echoes skipped")):
        if count := sum(part.get(key, 0) for part in parts):
            words.append(f"{count:,} {word}")
    words += [
        f"every event of {one['producer']} (key {one['key_id'][:_KEY_CHARS]}) refused for {one['refused_s']:.0f} s: "
        f"{one['reason']}"
        for one in status.get("refused_producers", ())
    ]
    return ", ".join(words)


def _delivered(endpoint: Mapping[str, Any]) -> str:
    """What became of a webhook's messages since its worker started."""
    words = [f"{endpoint['delivered']:,} delivered"]
    for key, word in (("waiting", "waiting"), ("dead", "given up")):
        if endpoint[key]:
            words.append(f"{endpoint[key]:,} {word}")
    if endpoint["failing"]:
        words.append(endpoint["failing"])
    return ", ".join(words)
