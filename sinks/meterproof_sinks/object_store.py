"""Objects by name in a store: S3 and what speaks like it, Google's, Azure's, or a folder. obstore's one importer.

Credentials come from the environment alone, as each vendor's own tools read them (`AWS_ACCESS_KEY_ID`, …); they are
never part of an address, and never told.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import ClassVar, Final, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import MemoryStore, from_url

from meterproof_schemas.errors import StageStopped
from meterproof_schemas.reasons import StopReason
from meterproof_sinks.sink import SinkFault

_REQUEST_TIMEOUT: Final = timedelta(minutes=10)
"""A sealed segment goes up in one request, so that the store can refuse to replace an object."""
_RETRIES_MAX: Final = 3
_CHUNK_BYTES: Final = 1 << 22
_AT_ONCE: Final = 16
_PER_THREAD: Final = 16
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_NOT_FOUND: Final = (NotFoundError, FileNotFoundError)
"""The library says it in either way."""


class StoreProblem(SinkFault):
    """The store cannot be used so; the text says what to do."""


class StoreUnavailable(StoreProblem):
    """The store does not answer, or not as it should. Trying again later may help."""

    retriable: ClassVar[bool] = True


class ObjectDiffers(StageStopped):
    """An object has other content than it must have. Nothing was overwritten, and a person must look."""

    def __init__(self, detail: str) -> None:
        super().__init__(StopReason.LOG_DIVERGED, detail)


class ObjectStore:
    """A store, or the part of it below a prefix. Promises: what `put` returned from was read back, and is as given.

    Blocking; may be used by several threads. Lives as long as somebody copies.
    """

    def __init__(self, url: str) -> None:
        """Take the address: `s3://bucket/prefix`, `gs://…`, `az://…`, `memory:///`, `file:///folder`, or just a folder.

        Raises:
            StoreProblem: it is no address of a store.
        """
        parts = urlsplit(url)
        if parts.username or parts.password:
            raise StoreProblem("no credentials in the address: they are taken from the environment")
        self.url = url if parts.scheme else Path(url).absolute().as_uri()
        try:
            if parts.scheme in {"", "file"}:
                self._store = from_url(self.url, mkdir=True)
            elif parts.scheme == "memory":
                self._store = MemoryStore()
            else:
                allow_http = os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true"
                self._store = from_url(
                    url,
                    client_options={"timeout": _REQUEST_TIMEOUT, "allow_http": allow_http},
                    retry_config={"max_retries": _RETRIES_MAX},
                )
        except (BaseError, ValueError, OSError) as error:
            raise StoreProblem(
                f"{url}: {_first_line(error)}. An address is like s3://bucket/prefix, gs://bucket/prefix, "
                "az://container/prefix or a folder"
            ) from error

    def names(self, folder: str) -> dict[str, int]:
        """The objects directly below a folder, and their sizes in bytes; names are whole, from the prefix on.

        Raises:
            StoreProblem: they cannot be listed.
        """
        with self._told(folder):
            found = obstore.list_with_delimiter(self._store, folder or None)
        return {one["path"]: one["size"] for one in found["objects"]}

    def folders(self) -> list[str]:
        """The folders at the top.

        Raises:
            StoreProblem: they cannot be listed.
        """
        with self._told(""):
            return sorted(obstore.list_with_delimiter(self._store)["common_prefixes"])

    def get(self, name: str) -> bytes | None:
        """An object's content; None if there is none.

        Raises:
            StoreProblem: it cannot be read.
        """
        with self._told(name):
            try:
                return bytes(obstore.get(self._store, name).bytes())
            except _NOT_FOUND:
                return None

    def chunks(self, name: str) -> Iterator[bytes]:
        """An object's content, piece by piece, at least one piece; nothing if there is none.

        Raises:
            StoreProblem: it cannot be read.
        """
        with self._told(name):
            try:
                pieces = obstore.get(self._store, name).stream(min_chunk_size=_CHUNK_BYTES)
            except _NOT_FOUND:
                return
            yield b""
            for piece in pieces:
                yield bytes(piece)

    def digest(self, name: str) -> str | None:
        """SHA-256 of an object as it is read back, in hexadecimal; None if there is none.

        Raises:
            StoreProblem: it cannot be read.
        """
        digest, there = hashlib.sha256(), False
        for chunk in self.chunks(name):
            there = True
            digest.update(chunk)
        return digest.hexdigest() if there else None

    def put(self, name: str, content: bytes | Path, sha256: str | None = None) -> bool:
        """Make an object that never changes; False if it was there, with equal content.

        1. The store makes it only if there is none. 2. It is read back and compared, whoever made it.

        Args:
            name: of the object.
            content: or the file that has it.
            sha256: of the content, if the caller knows what it must be.

        Raises:
            ObjectDiffers: there is one with other content, or what was written is not what is read.
            StoreProblem: the store does not take it.
            OSError: the file cannot be read.
        """
        content = content.read_bytes() if isinstance(content, Path) else content
        due = hashlib.sha256(content).hexdigest()
        if sha256 is not None and sha256 != due:
            raise ObjectDiffers(
                f"{name}: has SHA-256 {due} here, and {sha256} is due: it was changed; nothing was copied"
            )
        made = True
        with self._told(name):
            try:
                obstore.put(self._store, name, content, mode="create")  # 1
            except (AlreadyExistsError, PreconditionError):
                made = False
        self.compare(name, due)  # 2
        return made

    def replace(self, name: str, content: bytes) -> None:
        """Give an object that may change new content, and read it back.

        Raises:
            ObjectDiffers: what was written is not what is read.
            StoreProblem: the store does not take it.
        """
        with self._told(name):
            obstore.put(self._store, name, content, use_multipart=False)
        self.compare(name, hashlib.sha256(content).hexdigest())

    def compare(self, name: str, due: str) -> None:
        """Read an object back, and return if its SHA-256 is the one that is due.

        Raises:
            ObjectDiffers: it is not.
            StoreProblem: it cannot be read.
        """
        found = self.digest(name) or "none"
        if found != due:
            raise ObjectDiffers(
                f"{self.url}: {name} has SHA-256 {found}, and {due} is due. Nothing was overwritten: find out which of "
                "the two was changed before anything else is copied there"
            )

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Tell a library's error in one line."""
        place = f"{self.url}: {name}" if name else self.url
        try:
            yield
        except _NOT_FOUND as error:
            raise StoreProblem(f"{place}: no such bucket or folder") from error
        except (PermissionDeniedError, PermissionError, UnauthenticatedError) as error:
            raise StoreProblem(
                f"{place}: the store denies access. Credentials are read from the environment, for S3 from "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; they must be allowed to list, get and put"
            ) from error
        except BaseError as error:
            raise StoreUnavailable(f"{place}: {_first_line(error)}") from error


def at_once(call: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """What a call gives for each of many small objects, in order: several are under way, since each mostly waits.

    When one fails, or whoever asks stops asking, those that are under way are finished and no others begun.
    """
    rest = iter(items)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        while chunk := list(islice(rest, _AT_ONCE * _PER_THREAD)):
            under_way = [pool.submit(call, item) for item in chunk]
            try:
                for one in under_way:
                    yield one.result()
            finally:
                for one in under_way:
                    one.cancel()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
