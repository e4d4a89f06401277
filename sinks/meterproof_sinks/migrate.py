"""Bring a database's tables to the version that this package writes: numbered files, applied in order, once each."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.resources import files
from secrets import token_hex
from typing import Final

from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError, ClickHouseUnavailable
from meterproof_sinks.fenced_creation import create_fenced, sweep

_FILE_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_STATEMENT_END: Final = re.compile(r";[ \t]*$", re.MULTILINE)
_COMMENT: Final = re.compile(r"^--(?! for each: ).*$", re.MULTILINE)
_EACH: Final = re.compile(r"-- for each: (.+)\n")
"""Before a statement: it is run once for each row of this query, with its one column as the parameter `value`."""
_ENGINE: Final = re.compile(r"\bENGINE = (\w*MergeTree)\b")
_LEDGER: Final = """
CREATE TABLE IF NOT EXISTS migrations (
  number UInt32, name String, digest String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = ReplacingMergeTree ORDER BY number SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
"""


class MigrationChanged(ClickHouseError):
    """The database was made by another text of a migration than this package holds."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `migrations/`, the same for chDB and a server; never edited after its release."""

    number: int
    name: str
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text in hexadecimal."""
        return sha256(self.text.encode()).hexdigest()

    def statements(self, *, replicated: bool = False) -> list[str]:
        """Its statements, each of which can be repeated.

        Args:
            replicated: name the replicated engines, for a database of ClickHouse's engine `Replicated`, which runs them
                on every replica.

        """
        text = _engines(_COMMENT.sub("", self.text), replicated=replicated)
        return [statement for part in _STATEMENT_END.split(text) if (statement := part.strip())]


def _engines(text: str, *, replicated: bool) -> str:
    return _ENGINE.sub(r"ENGINE = Replicated\1", text) if replicated else text


def all_migrations() -> list[Migration]:
    """The migrations of this package, by number."""
    found = []
    for file in files("meterproof_sinks").joinpath("migrations").iterdir():
        match = _FILE_NAME.fullmatch(file.name)
        if match is not None:
            found.append(Migration(int(match[1]), match[2], file.read_text("utf-8")))
    return sorted(found, key=lambda migration: migration.number)


def migrate(
    clickhouse: ClickHouse, migrations: list[Migration] | None = None, *, replicated: bool = False
) -> list[Migration]:
    """Apply what the database lacks, in order, and return it.

    1. read the ledger; refuse a database that was made by another text
    2. run each missing migration's statements; a crash in between is made good by running them again
    3. note the migration in the ledger

    Several processes may do this to a server at the same time, and a request of one that hung may be run at any time
    later. Nothing of that undoes what later migrations did: there, before each statement the ledger is read again, what
    another one has noted is left to it; what a statement creates is given its name in a way that fails once another one
    has gone on (`fenced_creation`); and any other statement of a migration does nothing, or fails, where later
    migrations have been applied. For that, a name that a migration dropped is never used again.

    Raises:
        MigrationChanged: an applied migration has another text here.
        ClickHouseError: a statement was refused.
    """
    clickhouse.command(_engines(_LEDGER, replicated=replicated))
    applied = _applied(clickhouse)  # 1
    token, done = token_hex(8), []
    for migration in all_migrations() if migrations is None else migrations:
        if _is_in(applied, migration):
            continue
        if not clickhouse.embedded:
            sweep(clickhouse)
        is_due = partial(_is_due, clickhouse, migration)
        for statement in migration.statements(replicated=replicated):
            _run(clickhouse, statement, token, is_due)  # 2
        if is_due():
            clickhouse.command(  # 3
                "INSERT INTO migrations (number, name, digest) "
                "VALUES ({number:UInt32}, {name:String}, {digest:String})",
                {"number": migration.number, "name": migration.name, "digest": migration.digest},
            )
            done.append(migration)
    if not clickhouse.embedded:
        sweep(clickhouse)
    return done


def _applied(clickhouse: ClickHouse) -> dict[int, str]:
    """The ledger: digests by number."""
    return dict(clickhouse.rows("SELECT number, digest FROM migrations FINAL"))


def _is_in(applied: dict[int, str], migration: Migration) -> bool:
    digest = applied.get(migration.number)
    if digest not in {None, migration.digest}:
        raise MigrationChanged(
            f"migration {migration.number:04} ({migration.name}) was applied with another text "
            f"(SHA-256 {str(digest)[:16]}…) than this version of meterproof-sinks has; use the version that made "
            "the database, or a new database: the sink fills it from the log"
        )
    return digest is not None


def _is_due(clickhouse: ClickHouse, migration: Migration) -> bool:
    # A folder has one process: what that has not noted, nobody has. Reading it was half the time of all migrations.
    return clickhouse.embedded or not _is_in(_applied(clickhouse), migration)


def _run(clickhouse: ClickHouse, statement: str, token: str, is_due: Callable[[], bool]) -> None:
    each = _EACH.match(statement)
    try:
        if each is not None:
            for (value,) in clickhouse.rows(each[1]):
                if is_due():
                    clickhouse.command(statement[each.end() :], {"value": value})
        elif (clickhouse.embedded or not create_fenced(clickhouse, statement, token, is_due)) and is_due():
            clickhouse.command(statement)
    except ClickHouseUnavailable:
        raise
    except ClickHouseError:
        if is_due():
            raise  # and else it asked for what later migrations have dropped


def pending(clickhouse: ClickHouse) -> list[Migration]:
    """What `migrate` would apply; changes nothing.

    Raises:
        ClickHouseError: the database cannot be asked.
    """
    applied: set[int] = set()
    if clickhouse.rows(
        "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'migrations'"
    ) != [(0,)]:
        applied = {number for (number,) in clickhouse.rows("SELECT number FROM migrations")}
    return [migration for migration in all_migrations() if migration.number not in applied]
