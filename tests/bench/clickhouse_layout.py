"""Codecs and orders that `usage_rows` could have, side by side: bytes of a row, of each column, and query times.

`python -m tests.bench.clickhouse_layout [ROWS]` fills the table of the migrations with a million events over 30 days,
copies it into each alternative, merges both the same way, asks all of them the same questions, and prints two tables in
Markdown. What was chosen and why stands in `sinks/README.md`.
"""

import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from meterproof_sinks.clickhouse import ClickHouse
from tests.bench.clickhouse_rows import LOG, insert_rows

ROWS: Final = 1_000_000
_PARTS: Final = 5
_TIMES: Final = 7
_COLUMNS_SHOWN: Final = 12
_CHOSEN: Final = "as chosen"
_ORDER: Final = re.compile(r"^ORDER BY .*?\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to lay the same rows out."""

    name: str
    change: Callable[[str], str]
    """Of the table's CREATE statement."""


def _ordered(by: str) -> Callable[[str], str]:
    return lambda sql: _ORDER.sub(f"ORDER BY ({by})\n", sql)


def _codec(codec: str, *, everywhere: bool = False) -> Callable[[str], str]:
    """A codec for the columns that state none, or for every column."""

    def coded(line: re.Match[str]) -> str:
        stated = " CODEC(" in line[1]
        if stated and not everywhere:
            return line[0]
        return f"{re.sub(r' CODEC[(].*[)]$', '', line[1])} CODEC({codec}){line[2]}"

    return lambda sql: re.sub(r"^(\s+`\w+` .+?)(,?)$", coded, sql, flags=re.MULTILINE)


LAYOUTS: Final = (
    Layout(_CHOSEN, lambda sql: sql),
    Layout("order: agent, hour", _ordered("customer, agent, toStartOfHour(event_time), log, position")),
    Layout("order: hour, log, position", _ordered("toStartOfHour(event_time), log, position")),
    Layout("order: customer, agent, log, position", _ordered("customer, agent, log, position")),
    Layout("codec: LZ4 everywhere", _codec("LZ4", everywhere=True)),
    Layout("codec: ZSTD for the others too", _codec("ZSTD(1)")),
    Layout("codec: ZSTD(6) for the others too", _codec("ZSTD(6)")),
    Layout("map keys: String", lambda sql: sql.replace("Map(LowCardinality(String),", "Map(String,")),
)
_SETTINGS: Final = "SETTINGS do_not_merge_across_partitions_select_final = 1"
QUESTIONS: Final = {
    "one agent by day": (
        "SELECT toDate(event_time) AS day, sum(cost) FROM {table} FINAL "
        "WHERE customer = 'customer-7' AND agent = 'agent-7' GROUP BY day"
    ),
    "a customer, one day": (
        "SELECT agent, count(), sum(cost) FROM {table} FINAL WHERE customer = 'customer-7' "
        "AND event_time >= '2026-01-10 00:00:00' AND event_time < '2026-01-11 00:00:00' GROUP BY agent"
    ),
    "everybody, one day": (
        "SELECT customer, sum(cost), sumMap(usage) FROM {table} FINAL "
        "WHERE event_time >= '2026-01-10 00:00:00' AND event_time < '2026-01-11 00:00:00' GROUP BY customer"
    ),
    "everybody, all days": "SELECT agent, count(), sum(cost) FROM {table} FINAL GROUP BY agent",
    "one event by its position": "SELECT id, cost FROM {table} FINAL WHERE log = {log:String} AND position = 777777",
}


def _filled(clickhouse: ClickHouse, rows: int) -> str:
    """The table of the migrations with rows in several parts; its CREATE statement."""
    insert_rows(clickhouse, rows, "worst", _PARTS)
    ((sql,),) = clickhouse.rows("SHOW CREATE TABLE usage_rows")
    return str(sql).replace("\\n", "\n").replace("\\'", "'")


def _copy(clickhouse: ClickHouse, sql: str, table: str, layout: Layout) -> None:
    """Make the table of a layout, fill it from the first, and merge it.

    A column without a codec has LZ4, as on a server with its own defaults; what the engine would take here depends on
    the size of the part.
    """
    changed = layout.change(sql)
    if changed == sql and layout.name != _CHOSEN:
        raise ValueError(f"{layout.name} changes nothing")
    head, body = _codec("LZ4")(changed).split("(", 1)
    clickhouse.command(re.sub(r"\S+\s*$", f"{table} ", head) + "(" + body)
    clickhouse.command(f"INSERT INTO {table} SELECT * FROM usage_rows")
    clickhouse.command(f"OPTIMIZE TABLE {table} FINAL")


def _bytes_by_column(clickhouse: ClickHouse, table: str) -> dict[str, int]:
    return dict(
        clickhouse.rows(
            "SELECT name, data_compressed_bytes FROM system.columns "
            "WHERE database = currentDatabase() AND table = {table:String}",
            {"table": table},
        )
    )


def _asked_ms(clickhouse: ClickHouse, tables: Sequence[str]) -> dict[str, dict[str, float]]:
    """Median by table and question. They take turns, so that whatever else the machine does befalls all alike."""
    taken_s: dict[str, dict[str, list[float]]] = {table: {name: [] for name in QUESTIONS} for table in tables}
    for _ in range(_TIMES):
        for name, question in QUESTIONS.items():
            for table in tables:
                began_s = time.perf_counter()
                clickhouse.rows(f"{question.replace('{table}', table)} {_SETTINGS}", {"log": LOG})
                taken_s[table][name].append(time.perf_counter() - began_s)
    return {
        table: {name: 1000 * median(taken) for name, taken in questions.items()} for table, questions in taken_s.items()
    }


def measure(folder: Path, rows: int) -> str:
    """Both tables, in Markdown."""
    tables = {f"layout_{number}": layout for number, layout in enumerate(LAYOUTS)}
    clickhouse = ClickHouse.open_folder(folder)
    try:
        sql = _filled(clickhouse, rows)
        for table, layout in tables.items():
            _copy(clickhouse, sql, table, layout)
        columns = {table: _bytes_by_column(clickhouse, table) for table in tables}
        weights = dict(
            clickhouse.rows(
                "SELECT table, sum(data_compressed_bytes) FROM system.parts "
                "WHERE database = currentDatabase() AND active GROUP BY table"
            )
        )
        asked_ms = _asked_ms(clickhouse, list(tables))
    finally:
        clickhouse.close()
    chosen = columns["layout_0"]
    heaviest = sorted(chosen, key=lambda name: -chosen[name])[:_COLUMNS_SHOWN]
    names = [layout.name for layout in LAYOUTS]
    return "\n".join(
        [
            "| layout | bytes a row | " + " | ".join(f"{question}, ms" for question in QUESTIONS) + " |",
            "|---|---|" + "---|" * len(QUESTIONS),
            *(
                f"| {layout.name} | {weights[table] / rows:.0f} | "
                f"{' | '.join(f'{taken:.0f}' for taken in asked_ms[table].values())} |"
                for table, layout in tables.items()
            ),
            "",
            "| column | " + " | ".join(names) + " |",
            "|---|" + "---|" * len(names),
            *(
                f"| `{name}` | " + " | ".join(f"{columns[table].get(name, 0) / rows:.1f}" for table in tables) + " |"
                for name in heaviest
            ),
        ]
    )


def main() -> None:
    """Measure in a folder that is removed."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory() as folder:
        print(measure(Path(folder) / "clickhouse", rows))


if __name__ == "__main__":
    main()
