"""Files that a command was asked to write: whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from meterproof_sinks.disk import naming


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that has its name once it is whole; after an error there is no file, or still the one of before.

    A link stays, and what it names is replaced. A pipe or a device is written into, since replacing it would take it
    away from everybody.

    Raises:
        FileNotFoundError: the folder is not there.
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_file():  # before links are resolved: a pipe in /dev/fd leads to no path
        with naming(path), path.open("wb") as file:
            yield file
        return
    path = path.resolve()
    if not path.parent.is_dir():
        message = f"{path}: there is no folder {path.parent}"
        raise FileNotFoundError(message)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path), beside.open("wb") as file:
            yield file
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
