"""The key registry in force: a file that may be replaced while the sequencer runs."""

from pathlib import Path

from meterproof_schemas.ed25519_checks import QuickChecks
from meterproof_schemas.errors import InvalidRegistry
from meterproof_schemas.keys import KeyRegistry, load_registry


class RegistryFile:
    """Reads the registry at creation and again whenever the file was replaced.

    Promises: `current` is always a whole and valid registry; a file that turned faulty changes nothing until it is put
    right. Lives as long as its worker.

    Raises:
        InvalidRegistry: at creation, the file is faulty or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._stamp_now()
        self.current: KeyRegistry = _load(path)
        self.fault: str | None = None
        """Why the file as it is now is not in force."""

    def refresh(self) -> bool:
        """Look at the file; True if another registry, or another fault of the file, was found."""
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        before = (self.current.digest, self.fault)
        try:
            self.current, self.fault = _load(self._path), None
        except InvalidRegistry as error:
            self.fault = str(error)
        return (self.current.digest, self.fault) != before

    def _stamp_now(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size


def _load(path: Path) -> KeyRegistry:
    try:
        return load_registry(path, check=QuickChecks())
    except OSError as error:
        message = (
            f"key registry {path}: {error.strerror}; make it from public keys with `meterproof keygen`, or name "
            "another with --registry"
        )
        raise InvalidRegistry(message) from None
