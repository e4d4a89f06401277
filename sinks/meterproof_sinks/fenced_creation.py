"""Create tables and views so that a statement which a server runs late puts nothing back that was replaced or dropped.

A request can hang in the network, or in a server, until long after its sender has given it up. A server runs it then,
and `CREATE OR REPLACE VIEW` has no condition that could refuse it. `RENAME` and `EXCHANGE` have one: the name that they
take must be there. So what is created gets a name of its own first, which whoever goes on takes away. What is created
late under such a name is read by nobody, and goes with the next `meterproof migrate`; through a view of that kind rows
come in twice meanwhile, and are read once.
"""

import re
from collections.abc import Callable
from typing import Final

from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError

_CREATION: Final = re.compile(
    r"CREATE (?P<replaces>OR REPLACE )?(?:TABLE|VIEW|MATERIALIZED VIEW) (?:IF NOT EXISTS )?(?P<name>\w+)"
)
_PREFIX: Final = "migrating_"
_NO_EXCHANGE: Final = 48
"""ClickHouse's number for what a server cannot do, here because its file system cannot."""
_OUTRUN: Final = frozenset({57, 60})
"""ClickHouse's numbers for: there is such a table already; there is no such table."""


def sweep(clickhouse: ClickHouse) -> None:
    """Take away what anybody has created and not put in its place: whatever would do so now, fails.

    Raises:
        ClickHouseError: refused.
    """
    for (name,) in clickhouse.rows(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND startsWith(name, {prefix:String})",
        {"prefix": _PREFIX},
    ):
        _drop(clickhouse, name)


def create_fenced(clickhouse: ClickHouse, statement: str, token: str, is_due: Callable[[], bool]) -> bool:
    """Create what the statement says, if that is still due; False if the statement creates nothing.

    1. a table or view that is there, and is not to be replaced, stays
    2. create it under a name of its own
    3. see that it is still due: so whoever makes it not due, sweeps behind that, and step 4 comes later, has it fail
    4. give it its name, in exchange for the one that has it
    5. drop that one

    Args:
        clickhouse: a server.
        statement: one statement of a migration.
        token: of the caller, random: two never create under one name.
        is_due: whether nobody else has done this and gone on.

    Raises:
        ClickHouseError: refused.

    """
    creation = _CREATION.match(statement)
    if creation is None:
        return False
    name = creation["name"]
    own = f"{_PREFIX}{token}_{name}"
    while is_due():
        ((is_there,),) = clickhouse.rows(
            "SELECT count() > 0 FROM system.tables WHERE database = currentDatabase() AND name = {name:String}",
            {"name": name},
        )
        if is_there and not creation["replaces"]:  # 1
            break
        clickhouse.command(statement[: creation.start("name")] + own + statement[creation.end("name") :])  # 2
        try:
            if is_due():  # 3
                put_in_place = f"EXCHANGE TABLES {own} AND {name}" if is_there else f"RENAME TABLE {own} TO {name}"
                clickhouse.command(put_in_place)  # 4
            break
        except ClickHouseError as error:
            if error.code == _NO_EXCHANGE:
                clickhouse.command(statement)
                break
            if error.code not in _OUTRUN:
                raise
        finally:
            _drop(clickhouse, own)  # 5
    return True


def _drop(clickhouse: ClickHouse, name: str) -> None:
    clickhouse.command(f"DROP TABLE IF EXISTS {name} SYNC")
