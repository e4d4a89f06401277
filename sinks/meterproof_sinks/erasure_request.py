"""Asking the sink that has a ClickHouse folder to erase rows from it: chDB lets no other process open it meanwhile.

```
DATA/clickhouse/requests/<id>.json        to be erased; holds the name until it is done
                         <id>.done.json   what became of it, until whoever asked has read it
```
A sink does what it finds when it starts, too, so a request outlives both processes.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError
from meterproof_sinks.erasure import Erasure
from meterproof_sinks.event_owner import Owner, OwnerKind
from meterproof_sinks.query_front import read_endpoint
from meterproof_sinks.row_erasure import erase_rows

_FOLDER: Final = "requests"
_SUFFIX: Final = ".json"
_DONE_SUFFIX: Final = ".done.json"
_POLL_S: Final = 0.5
_CLOSED: Final = ConfigDict(extra="forbid", frozen=True, strict=True)

_log: structlog.stdlib.BoundLogger = structlog.get_logger("meterproof.sink")

OnWait = Callable[[str, float], None]
"""Called with who is waited for, and the seconds for which it has been."""


class ErasureRequest(BaseModel):
    """The file that asks."""

    model_config = _CLOSED
    version: Literal[1] = 1
    request: str = Field(pattern=r"^[0-9a-f]{16}$")
    kind: OwnerKind
    name: str
    requested_by: str
    reason: str
    requested_ms: int
    salt: str = Field(pattern=r"^[0-9a-f]{32}$")

    @classmethod
    def of(cls, erasure: Erasure) -> "ErasureRequest":
        """What is asked for."""
        return cls(
            request=erasure.request,
            kind=erasure.owner.kind,
            name=erasure.owner.name,
            requested_by=erasure.requested_by,
            reason=erasure.reason,
            requested_ms=erasure.requested_ms,
            salt=erasure.salt.hex(),
        )

    @property
    def erasure(self) -> Erasure:
        """What is asked for."""
        owner, salt = Owner(self.kind, self.name), bytes.fromhex(self.salt)
        return Erasure(self.request, owner, self.requested_by, self.reason, self.requested_ms, salt)


class ErasureOutcome(BaseModel):
    """The file that answers."""

    model_config = _CLOSED
    events: int = 0
    """Rows erased."""
    days: int = 0
    """Of roll-ups that were built again."""
    failure: str | None = None
    """Why it was not done, or not to its end."""


def ask_sink(
    folder: Path, erasure: Erasure, *, patience_s: float, on_wait: OnWait = lambda *_: None
) -> tuple[int, int]:
    """Have the sink that owns a ClickHouse folder erase rows, and wait until it has; see `erase_rows`.

    Raises:
        ClickHouseError: it could not, or did not within the time; what it was asked stays asked.
        OSError: a file cannot be written or read.
    """
    requests = folder / _FOLDER
    requests.mkdir(exist_ok=True)
    _put(requests / f"{erasure.request}{_SUFFIX}", ErasureRequest.of(erasure))
    done = requests / f"{erasure.request}{_DONE_SUFFIX}"
    began_s = time.monotonic()
    while not done.is_file():
        waited_s = time.monotonic() - began_s
        if waited_s >= patience_s or read_endpoint(folder) is None:
            why = f"did not do it within {patience_s:g} s" if waited_s >= patience_s else "ended meanwhile"
            raise ClickHouseError(
                f"the ClickHouse sink {why}. It stays asked, and is done by it, or by the next one that starts. Run "
                "the command again then: nothing is erased twice"
            )
        on_wait("ClickHouse", waited_s)
        time.sleep(_POLL_S / 2)
    outcome = ErasureOutcome.model_validate_json(done.read_bytes())
    done.unlink(missing_ok=True)
    if outcome.failure is not None:
        raise ClickHouseError(outcome.failure)
    return outcome.events, outcome.days


def carry_out_erasures(clickhouse: ClickHouse, folder: Path) -> int:
    """Erase what is asked for in a ClickHouse folder; how many requests were answered.

    Per request: 1. erase; 2. write what became of it; 3. remove the request. A crash between any two repeats it.
    One that fails is told in its outcome, and keeps nobody from anything.

    Raises:
        OSError: a file cannot be read, written or removed.
    """
    answered = 0
    for file in _asked(folder):
        outcome = _outcome(clickhouse, file)  # 1
        _put(file.with_name(file.name.removesuffix(_SUFFIX) + _DONE_SUFFIX), outcome)  # 2
        file.unlink()  # 3
        answered += 1
        _log.info("erasure_carried_out", request=file.name.removesuffix(_SUFFIX), rows=outcome.events)
    return answered


async def keep_erasures(clickhouse: ClickHouse, stop: asyncio.Event, turn: asyncio.Lock) -> None:
    """Erase what is asked for in the folder of a ClickHouse until `stop` is set; `turn` is had while that is done."""
    folder = clickhouse.folder
    while not stop.is_set():
        if _asked(folder):
            async with turn:
                connection = await asyncio.to_thread(clickhouse.another)
                try:
                    await asyncio.to_thread(carry_out_erasures, connection, folder)
                finally:
                    connection.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _POLL_S)


def _asked(folder: Path) -> list[Path]:
    found = (folder / _FOLDER).glob(f"*{_SUFFIX}")
    return sorted(file for file in found if not file.name.endswith(_DONE_SUFFIX))


def _outcome(clickhouse: ClickHouse, file: Path) -> ErasureOutcome:
    try:
        erasure = ErasureRequest.model_validate_json(file.read_bytes()).erasure
        events, days = erase_rows(clickhouse, erasure)
    except ValidationError:
        return ErasureOutcome(failure=f"{file.name} does not say what is to be erased")
    except ClickHouseError as error:
        return ErasureOutcome(failure=str(error))
    return ErasureOutcome(events=events, days=days)


def _put(file: Path, content: BaseModel) -> None:
    """Write a file whole or not at all, for its owner alone."""
    beside = file.with_suffix(".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as written:
        written.write(content.model_dump_json().encode() + b"\n")
        written.flush()
        os.fsync(written.fileno())
    beside.replace(file)
