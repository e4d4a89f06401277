"""What a worker says of itself: one small JSON file, replaced whole, that people and supervisors read."""

import logging
import os
from pathlib import Path
from typing import Any, Final

import orjson

_log: Final = logging.getLogger(__name__)


class StatusFile:
    """Writes `<folder>/<worker>.json`; a reader sees the old content or the new, never a part.

    Not durable on purpose: a status of before a crash is of no use. A file that cannot be written is told as a warning,
    once until it can be again: a display must not end what it displays. Lives as long as its worker.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self.path = folder / f"{worker}.json"
        self._temporary = folder / f".{worker}.{os.getpid()}.json"
        self._told = False

    def write(self, status: dict[str, Any]) -> None:
        """Replace the content; a folder that is not there is made."""
        content = orjson.dumps(status, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
        try:
            try:
                self._replace(content)
            except FileNotFoundError:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._replace(content)
        except OSError as fault:
            if not self._told:
                _log.warning("the status cannot be written to %s: %s", self.path, fault)
            self._told = True
        else:
            self._told = False

    def _replace(self, content: bytes) -> None:
        self._temporary.write_bytes(content)
        self._temporary.replace(self.path)


def read_status(folder: Path, worker: str) -> dict[str, Any] | None:
    """The last status that a worker wrote, or None if it never did."""
    try:
        status: dict[str, Any] = orjson.loads((folder / f"{worker}.json").read_bytes())
    except FileNotFoundError:
        return None
    return status
