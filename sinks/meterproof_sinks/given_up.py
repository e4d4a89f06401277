"""What was given up of a log: its oldest sealed segments, after their time. Their manifests and all tiles stay.

`given-up.jsonl` in the log's folder gets a line each time, before any file is removed; the last one counts:

```text
{"version":1,"below":4096,"records":52,"segments":3,"at":"2026-11-21T10:00:00.000Z","by":"…","reason":"…"}
```
Positions below `below` are not in the folder any more. What is left of them are their entries in the published bundles,
so the log's root still follows from the folder, and the manifests, which say where the log was behind each segment.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meterproof_sinks.audit_errors import DamagedAudit
from meterproof_sinks.audit_segment import MANIFEST_SUFFIX, Segment
from meterproof_sinks.disk import Disk
from meterproof_sinks.segment_manifest import SegmentManifest, read_manifest

GIVEN_UP_FILE: Final = "given-up.jsonl"


class GivenUp(BaseModel):
    """One time that segments were given up."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    version: Literal[1] = 1
    below: Annotated[int, Field(gt=0)]
    """First position that is kept."""
    records: Annotated[int, Field(gt=0)]
    """Records of the log before it."""
    segments: Annotated[int, Field(gt=0)]
    """Given up this time."""
    at: str
    """RFC 3339."""
    by: str
    reason: str

    @property
    def line(self) -> bytes:
        """The line of the file."""
        return orjson.dumps(self.model_dump(), option=orjson.OPT_APPEND_NEWLINE)


def read_given_up(folder: Path) -> list[GivenUp]:
    """All that was given up of a log, oldest first.

    Raises:
        DamagedAudit: the file is not as it was written.
        OSError: it cannot be read.
    """
    file = folder / GIVEN_UP_FILE
    try:
        return parse_given_up(file, file.read_bytes())
    except FileNotFoundError:
        return []


def parse_given_up(file: Path, content: bytes) -> list[GivenUp]:
    """What the content of such a file says.

    Raises:
        DamagedAudit: it is not as it was written.
    """
    found: list[GivenUp] = []
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        try:
            one = GivenUp.model_validate_json(line)
        except ValidationError as error:
            raise DamagedAudit(file, number, None, "does not say what was given up") from error
        if one.line != line or (found and one.below <= found[-1].below):
            raise DamagedAudit(file, number, None, "is not as it was written")
        found.append(one)
    return found


def note_given_up(folder: Path, one: GivenUp, disk: Disk) -> None:
    """Add a line; on the device when it returns.

    Raises:
        OSError: the disk refuses.
    """
    lines = [known.line for known in read_given_up(folder)]
    disk.replace(folder / GIVEN_UP_FILE, b"".join([*lines, one.line]))


def beginning_of(folder: Path) -> SegmentManifest | None:
    """The manifest of the last segment that was given up: the log is kept from its end on. None if all is kept.

    Raises:
        DamagedAudit: the manifest is missing, or not as it was written.
        OSError: a file cannot be read.
    """
    given_up = read_given_up(folder)
    if not given_up:
        return None
    below = given_up[-1].below
    firsts = [int(path.name[:20]) for path in folder.glob(f"[0-9]*{MANIFEST_SUFFIX}")]
    first = max((one for one in firsts if one < below), default=None)
    manifest = None if first is None else read_manifest(Segment(folder, first))
    if manifest is None or (manifest.end.size, manifest.end.records) != (below, given_up[-1].records):
        fault = f"says that positions below {below} were given up, and no manifest ends there"
        raise DamagedAudit(folder / GIVEN_UP_FILE, len(given_up), below, fault)
    return manifest
