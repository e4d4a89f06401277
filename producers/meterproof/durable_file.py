"""Files that are replaced whole, and are on the device when that is said."""

import os
from pathlib import Path


def replace_durably(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Replace a file in one step: readers see the old content or the new, also after a crash.

    1. Write the content beside it. 2. Sync. 3. Rename over it. 4. Sync the folder, which is made if it is missing.

    Args:
        path: the file.
        content: all of it.
        mode: its permissions, less the process's mask.

    Raises:
        OSError: it cannot be written; the old content stands, unless the folder alone could not be synced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Return when the folder's names are on the device: a new file is lost without its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
