"""Formatted folders for the broker, kept and copied: Kafka's storage tool is a Java program that runs for a second.

What it writes into a new folder follows from its version and its settings, but for two ids: the cluster's, which
stands in `meta.properties` and nowhere else, and the folder's own, which need differ only within one cluster. So the
files that the tool wrote itself are kept once per user, and the next new folder is a copy for a cluster of its own. The
controller's address in it is that of an earlier broker: one that is its own quorum looks for no other voter, and states
its own address when it starts, as after a change of ports.
"""

import contextlib
import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_META: Final = "meta.properties"
_ADDRESSES: Final = frozenset({"listeners", "advertised.listeners", "controller.quorum.bootstrap.servers"})
"""Settings that differ from broker to broker, and of which nothing that lasts is written."""


class FormattedFolder:
    """What formatting gives with one set of jars and settings. Lives as long as the start of one broker."""

    def __init__(self, cache: Path, jars: Sequence[Path], properties: str) -> None:
        """Name it; nothing is read or written yet.

        Args:
            cache: where copies are kept.
            jars: the class path; their names begin with their digests.
            properties: the text of `server.properties`.

        """
        settings = sorted(line for line in properties.splitlines() if line.partition("=")[0] not in _ADDRESSES)
        key = hashlib.sha256("\0".join([*(jar.name for jar in jars), *settings]).encode()).hexdigest()[:24]
        self._kept = cache / f"formatted-{key}.zip"

    def copy_to(self, folder: Path, cluster_id: str) -> bool:
        """Make a new folder of the kept one, whole or not at all; returns whether it is there.

        Every file is checked against its sum. A copy that is damaged is as good as none.
        """
        new = folder.with_name(f"{folder.name}.new")
        try:
            shutil.rmtree(new, ignore_errors=True)
            with zipfile.ZipFile(self._kept) as kept:
                kept.extractall(new)
            meta = (new / _META).read_text("ascii").splitlines()
            lines = [f"cluster.id={cluster_id}" if line.startswith("cluster.id=") else line for line in meta]
            (new / _META).write_text("".join(f"{line}\n" for line in lines), "ascii")
            new.replace(folder)
        except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile):
            shutil.rmtree(new, ignore_errors=True)
            return False
        return True

    def keep(self, folder: Path) -> None:
        """Keep what the tool wrote; a cache that cannot be written keeps nothing."""
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=self._kept.parent) as scratch:
            whole = Path(scratch, "whole")
            with zipfile.ZipFile(whole, "w") as kept:
                for file in sorted(folder.rglob("*")):
                    kept.write(file, file.relative_to(folder))
            whole.replace(self._kept)
