"""The few file operations that durability rests on, in one place, so that a test can make each of them fail."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_FILE_MODE: Final = 0o640
_FOLDER_MODE: Final = 0o750
NEW_SUFFIX: Final = ".new"
"""What a file is called until it is whole; a crash may leave one behind, and it means nothing."""

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of writing a file for which there is no room name it: the system does not say where that was."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM and error.filename is None:
            error.filename = str(path)
        raise


class Disk:
    """The real operations. Promises what the operating system promises: after `sync` the bytes are on the device.

    Stateless; every failure is an `OSError`, and after one the caller must not believe a later success.
    """

    def make_folders(self, folder: Path) -> None:
        """Make a folder and those above it, where they are missing; durable when it returns."""
        for missing in reversed([one for one in (folder, *folder.parents) if not one.is_dir()]):
            self.make_folder(missing)
            self.sync_folder(missing.parent)

    def open_append(self, path: Path) -> int:
        """Open a file for appending only, made if missing (mode 0640), and return its descriptor."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)

    def append(self, descriptor: int, content: bytes) -> None:
        """Write all of `content` at the end of the file."""
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    def sync(self, descriptor: int) -> None:
        """Return when the file's bytes are on the device."""
        os.fsync(descriptor)

    def sync_folder(self, folder: Path) -> None:
        """Return when the folder's names are on the device: a new file is lost without its name."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sync(descriptor)
        finally:
            os.close(descriptor)

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file to `size` bytes and wait until that is on the device."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            self.sync(descriptor)
        finally:
            os.close(descriptor)

    def replace(self, path: Path, content: bytes) -> None:
        """Give a file new content: readers see the old or the new one whole, and a crash leaves one of them.

        1. Write the content beside it. 2. Sync. 3. Rename over it. 4. Sync the folder.
        """
        self.put(path, content)
        self.sync_folder(path.parent)

    def put(self, path: Path, content: bytes) -> None:
        """As `replace` without its last step: for many files, whose folders the caller syncs once, afterwards.

        What was begun is removed if that fails.
        """
        beside = path.with_name(path.name + NEW_SUFFIX)
        if beside.exists():
            self.remove(beside)
        try:
            with naming(path):
                self._write(beside, content)
                self.rename(beside, path)
        except OSError:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise

    def _write(self, path: Path, content: bytes) -> None:
        descriptor = self.open_append(path)
        try:
            self.append(descriptor, content)
            self.sync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name in its folder; what had that name is gone. Durable once the folder is synced."""
        old.replace(new)

    def remove(self, path: Path) -> None:
        """Remove a file, or an empty folder. Durable once the folder around it is synced."""
        path.rmdir() if path.is_dir() else path.unlink()

    def make_folder(self, folder: Path) -> None:
        """Make a folder (mode 0750) in one that is there. Durable once the folder around it is synced."""
        folder.mkdir(mode=_FOLDER_MODE)
