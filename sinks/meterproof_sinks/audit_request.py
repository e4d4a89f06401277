"""What a command wants done to a log's folder, and what became of it, as files in that folder.

```
<log>/requests/<id>.json     a request that is not done yet; one to erase holds the name that is to be erased
      requests.jsonl         a line for each request that was done, or could not be; never the name
```
`audit_upkeep` says who carries requests out, and when these files come and go.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from meterproof_sinks.audit_errors import DamagedAudit
from meterproof_sinks.audit_folder import REQUESTS_FILE, REQUESTS_FOLDER
from meterproof_sinks.audit_retention import RetainedLog, RetentionRequest
from meterproof_sinks.disk import Disk
from meterproof_sinks.event_owner import Owner
from meterproof_sinks.legal_holds import Hold

_SUFFIX: Final = ".json"
RequestId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class UpkeepRequest(BaseModel):
    """A request: to erase somebody's events, or to give up what is old."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    version: Literal[1] = 1
    request: RequestId
    """Random."""
    holds: tuple[Hold, ...] = ()
    """That were in force when it was asked for; those that are when it is carried out hold too."""
    erase: Owner | None = None
    retain: RetentionRequest | None = None

    @model_validator(mode="after")
    def _one(self) -> "UpkeepRequest":
        if (self.erase is None) == (self.retain is None):
            raise ValueError("a request is either to erase or to retain")
        return self


class UpkeepOutcome(BaseModel):
    """What became of a request in one log's folder: a line of `requests.jsonl`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    version: Literal[1] = 1
    request: str
    erased: int | None = None
    """Lines, of a request to erase."""
    retained: RetainedLog | None = None
    """Of a request to retain."""
    failure: str | None = None
    """Why it was not done, or not to its end."""


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A request that is not done."""

    file: Path
    request: UpkeepRequest | None
    """None if the file does not say what is asked for."""
    fault: str = "the request does not say what is asked for"
    """What to tell then."""

    @property
    def name(self) -> str:
        """The request's id, by the file's name."""
        return self.file.name.removesuffix(_SUFFIX)


def put_request(folder: Path, request: UpkeepRequest, disk: Disk) -> None:
    """Ask for something to be done to a log's folder; on the device when it returns.

    Raises:
        OSError: the disk refuses.
    """
    requests = folder / REQUESTS_FOLDER
    if not requests.is_dir():
        disk.make_folder(requests)
        disk.sync_folder(folder)
    disk.replace(requests / f"{request.request}{_SUFFIX}", orjson.dumps(request.model_dump(mode="json")))


def pending_requests(folder: Path) -> list[PendingRequest]:
    """What is to be done to a log's folder; what one that is gone meanwhile asked for is left out."""
    found = []
    for file in sorted((folder / REQUESTS_FOLDER).glob(f"*{_SUFFIX}")):
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            fault = f"{error}: the request cannot be read; run the command as the user of the audit sink"
            found.append(PendingRequest(file, None, fault))
            continue
        try:
            found.append(PendingRequest(file, UpkeepRequest.model_validate_json(content)))
        except ValidationError:
            found.append(PendingRequest(file, None))
    return found


def outcome_of(folder: Path, request: str) -> UpkeepOutcome | None:
    """What became of a request; None while it is not done.

    Raises:
        DamagedAudit: the line that tells is not as it was written.
        OSError: the file cannot be read.
    """
    file = folder / REQUESTS_FILE
    for number, line in enumerate(_lines(file), 1):
        if f'"request":"{request}"'.encode() in line:
            try:
                return UpkeepOutcome.model_validate_json(line)
            except ValidationError as error:
                raise DamagedAudit(file, number, None, "does not say what became of a request") from error
    return None


def note_outcome(folder: Path, outcome: UpkeepOutcome, disk: Disk) -> None:
    """Add a line; on the device when it returns.

    Raises:
        OSError: the disk refuses.
    """
    line = orjson.dumps(outcome.model_dump(mode="json", exclude_none=True), option=orjson.OPT_APPEND_NEWLINE)
    disk.replace(folder / REQUESTS_FILE, b"".join([*_lines(folder / REQUESTS_FILE), line]))


def _lines(file: Path) -> list[bytes]:
    try:
        return file.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
