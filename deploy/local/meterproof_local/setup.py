"""The files of a deployment on this machine: made on the first start, kept and completed on every later one."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import BaseModel

from meterproof.deployment import DataFolder, DeploymentFile
from meterproof.kafka.topics import Deployment
from meterproof.keys import ProducerKey
from meterproof.log_key import LogKey, LogKeys
from meterproof_local.defaults import default_budgets, default_price_book
from meterproof_local.errors import SetupRefused
from meterproof_schemas.budget import BudgetFile, parse_budgets
from meterproof_schemas.errors import InvalidRegistry
from meterproof_schemas.keys import encode_registry, load_registry
from meterproof_schemas.price_book import PriceBook, parse_price_book

DEFAULT_NAME = "localhost/meterproof"
DEFAULT_DEPLOYMENT = "local"
DEFAULT_PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class ProducerWish:
    """A producer that the deployment should know: it gets a key, and its entry in the registry."""

    producer: str
    sources: tuple[str, ...] = ("*",)
    agents: tuple[str, ...] = ("*",)
    customers: tuple[str, ...] = ("*",)


REPLAY = ProducerWish("replay")
"""Whose key `meterproof replay` signs with."""


@dataclass(frozen=True, slots=True)
class SetupWish:
    """What was asked for; None takes what the folder has, or the default of a new one."""

    name: str | None = None
    """Schema-less URL that names the logs' owner."""
    deployment: str | None = None
    """The audience that batches must be signed for."""
    partitions: int | None = None
    prices: Path | None = None
    budgets: Path | None = None
    producers: tuple[ProducerWish, ...] = (REPLAY,)


def set_up(folder: DataFolder, wish: SetupWish, random_bytes: Callable[[int], bytes] = os.urandom) -> Deployment:
    """Make what is missing in the folder; returns what its topics are to be created with. Needs no broker.

    1. Compare the wish with the deployment that is there. 2. Folders. 3. The log's key. 4. Producers' keys and their
    registry. 5. Price book and budgets: the files given, else those there, else the defaults.

    Raises:
        SetupRefused: the folder is of another deployment, or a file that was given is faulty.
        MeterError: a key file is faulty or readable by others.
        OSError: the folder cannot be written.
    """
    deployment = _agreed(folder, wish)  # 1
    for path in (folder.audit, folder.clickhouse, folder.status, folder.logs):  # 2
        path.mkdir(parents=True, exist_ok=True)
    folder.keys.mkdir(mode=0o700, exist_ok=True)
    if not folder.log_key.exists():  # 3
        LogKey.generate(random_bytes).save(folder.log_key)
    _complete_registry(folder, wish.producers, random_bytes)  # 4
    _put(folder.price_book, wish.prices, default_price_book, parse_price_book)  # 5
    _put(folder.budgets, wish.budgets, default_budgets, parse_budgets)
    return deployment


def write_deployment(folder: DataFolder, deployment: Deployment, bootstrap: str, origins: Sequence[str]) -> None:
    """Tell clients of this folder where the broker is, and verifiers which keys sign its logs."""
    replace(folder.vkeys, LogKeys.load(folder.log_keys).verifier_keys(origins).encode())
    stated = DeploymentFile(
        name=deployment.name,
        deployment=deployment.deployment,
        bootstrap=bootstrap,
        topic_prefix="",
        partitions=deployment.partitions,
    )
    replace(folder.deployment_file, encode_indented(stated))


def read_price_book(folder: DataFolder) -> PriceBook:
    """The folder's price book, the one that is published."""
    return parse_price_book(folder.price_book.read_bytes())


def encode_indented(value: BaseModel) -> bytes:
    """A model as indented JSON, ended by LF."""
    return orjson.dumps(value.model_dump(exclude_none=True), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def replace(path: Path, content: bytes) -> None:
    """Replace a file whole: readers see the old content or the new."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content)
    temporary.replace(path)


def _agreed(folder: DataFolder, wish: SetupWish) -> Deployment:
    if not folder.deployment_file.exists():
        return Deployment(
            name=wish.name or DEFAULT_NAME,
            deployment=wish.deployment or DEFAULT_DEPLOYMENT,
            partitions=wish.partitions or DEFAULT_PARTITIONS,
        )
    found = folder.deployment()
    for what, asked, there in (
        ("name", wish.name, found.name),
        ("deployment", wish.deployment, found.deployment),
        ("number of partitions", wish.partitions, found.partitions),
    ):
        if asked not in {None, there}:
            raise SetupRefused(
                f"the deployment in {folder.root} has the {what} {there!r}, and that is fixed for ever; leave the "
                f"option out, or start a new deployment with {asked!r} in another folder"
            )
    return Deployment(name=found.name, deployment=found.deployment, partitions=found.partitions)


def _complete_registry(
    folder: DataFolder, wishes: Sequence[ProducerWish], random_bytes: Callable[[int], bytes]
) -> None:
    """Give each producer that has no key a new one; entries that are there stay as they are, also those taken out.

    The registry first: an entry whose key was never saved harms nobody, a key without an entry would be refused.
    """
    new = {
        wish: ProducerKey.generate(random_bytes)
        for wish in wishes
        if not (folder.keys / f"{wish.producer}.key").exists()
    }
    exists = folder.registry.exists()
    if new or not exists:
        entries = list(load_registry(folder.registry).entries.values()) if exists else []
        entries += [
            key.entry(wish.producer, sources=wish.sources, agents=wish.agents, customers=wish.customers)
            for wish, key in new.items()
        ]
        replace(folder.registry, encode_registry(entries))
    for wish, key in new.items():
        key.save(folder.keys / f"{wish.producer}.key")


def _put(
    path: Path,
    given: Path | None,
    default: Callable[[], PriceBook | BudgetFile],
    parse: Callable[[bytes], object],
) -> None:
    """The file given, else the one there, else the default; checked before it takes its place."""
    if given is None and path.exists():
        return
    try:
        content = encode_indented(default()) if given is None else given.read_bytes()
        parse(content)
    except (OSError, InvalidRegistry) as error:
        raise SetupRefused(f"{given}: {error}") from error
    replace(path, content)
