"""Java's own start-up cache for the broker: classes parsed and linked once (JEP 483 and 514, before that AppCDS).

It more than halves the start. The first start on a machine only leaves a note, the second is recorded and its
recording is kept when the broker stops in an orderly way (2 to 4 s more for that one stop), later starts use it.
So a single `up` pays nothing. The key covers the Java release, its options and the jars; a cache that does not fit
is ignored by Java itself, and one with which Java crashed is deleted.
"""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from meterproof_local.java import Java

_FIRST_WITH_AOT = 25


class StartupCache:
    """The cache for one way to run the broker, during one run: made before it, told of its end."""

    def __init__(self, folder: Path, java: Java, options: Sequence[str], jars: Sequence[Path], scratch: Path) -> None:
        """Decide whether this run uses a cache, is recorded, or neither.

        Args:
            folder: where caches are kept.
            java: the runtime.
            options: its options, without those for the cache.
            jars: the class path.
            scratch: a folder for the recording, emptied by the caller before each run.

        """
        parts = [str(java.executable), java.release, *options, *map(str, jars)]
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
        self._ahead_of_time = java.feature >= _FIRST_WITH_AOT
        self._kept = folder / f"startup-{key}.{'aot' if self._ahead_of_time else 'jsa'}"
        self._recording: Path | None = None
        self._used = self._kept.exists()
        note = self._kept.with_suffix(".seen")
        if not self._used and note.exists():
            self._recording = scratch / self._kept.name
        with contextlib.suppress(OSError):  # a folder that cannot be written has no cache
            note.touch()

    @property
    def is_recording(self) -> bool:
        """Whether the end of this run takes longer because its recording is written."""
        return self._recording is not None

    def options(self) -> tuple[str, ...]:
        """Return the options with which Java uses the cache; any of its programs on the same class path may."""
        if not self._used:
            return ()
        return (f"-XX:AOTCache={self._kept}" if self._ahead_of_time else f"-XX:SharedArchiveFile={self._kept}",)

    def recording_options(self) -> tuple[str, ...]:
        """Return the options with which Java records this run: for the broker itself only."""
        if self._recording is None:
            return ()
        return (f"-XX:{'AOTCacheOutput' if self._ahead_of_time else 'ArchiveClassesAtExit'}={self._recording}",)

    def ended(self, code: int) -> None:
        """Keep the recording after an orderly end; drop a cache with which Java crashed.

        Args:
            code: the exit code: 143 for Java that was asked to stop, negative for a signal.

        """
        recording, self._recording = self._recording, None
        if recording is not None and code == 143 and recording.exists():
            with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=self._kept.parent) as folder:
                shutil.move(recording, Path(folder, "whole"))
                Path(folder, "whole").replace(self._kept)
        if self._used and code == -6:  # SIGABRT: how Java ends after an error inside itself
            self._kept.unlink(missing_ok=True)
