"""What a worker says of itself: one small JSON file, replaced whole, that people and supervisors read."""

import os
from pathlib import Path
from typing import Any

import orjson


class StatusFile:
    """Writes `<folder>/<worker>.json`; a reader sees the old content or the new, never a part.

    Not durable on purpose: a status of before a crash is of no use. Lives as long as its worker.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self.path = folder / f"{worker}.json"
        self._temporary = folder / f".{worker}.{os.getpid()}.json"
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, status: dict[str, Any]) -> None:
        """Replace the content; a folder that was deleted meanwhile is made again.

        Raises:
            OSError: the folder cannot be written to.
        """
        content = orjson.dumps(status, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
        try:
            self._replace(content)
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._replace(content)

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
