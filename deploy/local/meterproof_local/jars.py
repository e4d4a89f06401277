"""The jars of Apache Kafka: a fixed list with sizes and digests, fetched once per user.

`kafka-jars.lock` holds one line per jar, `sha256 size path`, the path as every Maven repository has it. It was made
with Maven's own resolution (`dependency:copy-dependencies -DincludeScope=runtime`) of

    org.apache.kafka:kafka_2.13:4.3.1
    org.apache.logging.log4j:log4j-slf4j-impl:2.25.4     the SLF4J 1.7 binding

so nothing is resolved on the user's machine. A jar is looked for in the cache folder, then in the local Maven
repository, then fetched from Maven Central or the mirror named by METERPROOF_MAVEN_MIRROR; whatever its source, it
is used only with the size and SHA-256 of the lock. urllib honours the proxy variables and SSL_CERT_FILE.
"""

import contextlib
import hashlib
import http.client
import os
import random
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO

from meterproof_local.errors import JarError

_CHUNK_BYTES = 1 << 16
_TIMEOUT_S = 20
_ANY_TIME = 1_000_000_000
_HOPELESS = frozenset({401, 403, 404, 407, 410})


@dataclass(frozen=True)
class Jar:
    """One line of the lock."""

    sha256: str
    """Digest in lower-case hexadecimal."""
    size: int
    """Bytes."""
    path: str
    """`group/path/artifact/version/file.jar`, relative to the base address of a Maven repository."""

    @property
    def name(self) -> str:
        """File name in the cache: begins with the digest, so that two versions never meet."""
        return f"{self.sha256[:16]}-{self.path.rpartition('/')[2]}"


@dataclass(frozen=True)
class Progress:
    """How far `fetch_jars` is."""

    jars: int
    """Jars that are in place."""
    jars_total: int
    bytes: int
    """Bytes of these jars."""
    bytes_total: int
    fetched: int
    """Jars among them that came over the network in this call."""


def read_lock(lock: Path | None = None) -> list[Jar]:
    """Return the jars of a lock, the broker's by default, in class path order."""
    text = (lock or resources.files(__package__).joinpath("kafka-jars.lock")).read_text("ascii")
    fields = (line.split(" ") for line in text.splitlines())
    return [Jar(sha256, int(size), path) for sha256, size, path in fields]


def kafka_version() -> str:
    """Return the version of Apache Kafka that the lock holds."""
    return next(
        jar.path.split("/")[-2] for jar in read_lock() if jar.path.startswith("org/apache/kafka/kafka-clients/")
    )


def cache_folder(data: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for what can be had again, and create it.

    METERPROOF_CACHE if set; else `meterproof` below XDG_CACHE_HOME or `~/.cache`; where that cannot be written,
    `cache` in the data folder.
    """
    if chosen := environment.get("METERPROOF_CACHE"):
        folder = Path(chosen).absolute()
        with _explained(f"cannot create the folder that METERPROOF_CACHE names, {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder
    base = environment.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - Path.home() may raise
    folder = Path(base, "meterproof")
    if folder.is_absolute():  # "~" stays as it is for a user without a home
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
    folder = data.absolute() / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fetch_jars(
    cache: Path,
    jars: list[Jar] | None = None,
    *,
    base: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    tries: int = 5,
    pause: Callable[[float], None] = time.sleep,
) -> list[Path]:
    """Return the path of every jar in the cache, in the order of the lock, each with its digest checked in this call.

    Args:
        cache: a folder that exists; several processes may fetch into it at the same time.
        jars: the lock's by default.
        base: address of a Maven repository; METERPROOF_MAVEN_MIRROR or Maven Central by default.
        on_progress: called after each jar.
        tries: attempts per jar before giving up.
        pause: waits the seconds it is given between attempts: from 0.6 to 8, with jitter.

    Raises:
        JarError: a jar could not be had, or only with other bytes. What was fetched before stays in the cache.

    """
    jars = read_lock() if jars is None else jars
    total = sum(jar.size for jar in jars)
    paths: list[Path] = []
    done = fetched = 0
    # One after the other: setting up connections costs more than it saves (45 MB in 46 files).
    for jar in jars:
        path = cache / jar.name
        if not _is_intact(path, jar):
            with _explained(f"cannot write into the cache folder {cache}; set METERPROOF_CACHE to a writable folder"):
                path.unlink(missing_ok=True)  # damaged on disk
                if not _copy_from_maven(jar, path):
                    _download(base or maven_repository(), jar, path, tries, pause)
                    fetched += 1
        paths.append(path)
        done += jar.size
        if on_progress is not None:
            on_progress(Progress(len(paths), len(jars), done, total, fetched))
    return paths


def maven_repository(environment: Mapping[str, str] = os.environ) -> str:
    """Return the base address of the Maven repository: METERPROOF_MAVEN_MIRROR, else Maven Central."""
    if mirror := environment.get("METERPROOF_MAVEN_MIRROR"):
        return mirror
    from jgo.constants import MAVEN_CENTRAL_URL  # noqa: PLC0415 - only when something is to be fetched

    return str(MAVEN_CENTRAL_URL)


def _copy_from_maven(jar: Jar, target: Path) -> bool:
    from jgo.constants import default_maven_repo  # noqa: PLC0415 - as above

    source = Path(default_maven_repo(), jar.path)
    if not _is_intact(source, jar):
        return False
    with source.open("rb") as stream:
        _store(stream, jar, target)
    return True


def _download(base: str, jar: Jar, target: Path, tries: int, pause: Callable[[float], None]) -> None:
    address = f"{base.rstrip('/')}/{jar.path}"
    failure = ""
    for attempt in range(tries):
        if attempt:
            pause(min(8.0, 0.3 * 2**attempt) * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        try:
            # Sourced from configuration, never from a record or an event.
            with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as stream:  # noqa: S310
                _store(stream, jar, target)
        except urllib.error.HTTPError as error:
            failure = str(error)
            if error.code in _HOPELESS:
                break
        except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException, JarError) as error:
            failure = str(error)
        else:
            return
    raise JarError(
        f"could not fetch {address}: {failure}. Check the network (HTTPS_PROXY, SSL_CERT_FILE), "
        "or set METERPROOF_MAVEN_MIRROR to a Maven repository that you can reach."
    )


def _store(stream: IO[bytes], jar: Jar, target: Path) -> None:
    """Copy to a temporary name, check, and only then rename: under its final name a jar is always whole."""
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".part-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(stream, file, _CHUNK_BYTES)
        if not _is_intact(Path(temporary), jar):
            raise JarError(f"{Path(temporary).stat().st_size} bytes that do not have the digest of the lock")
        # Java's start-up caches remember a jar by its time: a jar fetched again must not make them useless.
        os.utime(temporary, (_ANY_TIME, _ANY_TIME))
        Path(temporary).replace(target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _is_intact(path: Path, jar: Jar) -> bool:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != jar.size:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == jar.sha256
    except OSError:
        return False


class _explained(contextlib.AbstractContextManager[None]):  # noqa: N801 - reads as a statement
    """Turn an OSError of the file system into a JarError that says which folder it was."""

    def __init__(self, message: str) -> None:
        self._message = message

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise JarError(f"{self._message}: {error}") from error
