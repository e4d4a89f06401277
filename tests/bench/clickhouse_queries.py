"""How long the shipped queries take, and what an event weighs, over millions of rows: made inside the engine.

`python -m tests.bench.clickhouse_queries JOB` makes events over 30 days (`clickhouse_rows`), builds the roll-ups, runs
every query several times and prints what it found as JSON. Needs about 200 bytes of disk per row. Targets are for
the load as in use; the worst that sums can get is measured beside it.
"""

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from typing import Any, Final, Literal

import orjson

from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.log_total import log_total
from meterproof_sinks.merge_priority import let_merges_wait
from tests.bench.clickhouse_rows import LOG, Load, make
from tests.bench.figure import Figure
from tests.bench.rig import Rig

ROWS: Final = 10_000_000
ROWS_QUICK: Final = 20_000
_TIMES: Final = 10
_TIMES_QUICK: Final = 2
_PATIENCE_MS: Final = 5_000
"""A query that took so long altogether is not asked again."""
_TARGETS_MS: Final = {"roll-ups": 200, "sums by day (aim: 200)": 700, "raw rows": 700}
"""By what a query reads. Sums of sessions, runs, calls, peaks and waste are no roll-ups, of which 200 was asked."""
_TOTAL_TARGET_MS: Final = 10
_ROLLED_UP: Final = re.compile(r"FROM (?:usage_by_|usage_sums\b)")
_SUMMED: Final = re.compile(r"FROM (?:\w+_sums\b|model_peaks\b)")
QUERIES: Final = Path(__file__).parents[2] / "sinks" / "queries"


async def measure_queries(rig: Rig) -> list[Figure]:
    """Of both loads: the 95th percentile of every query in milliseconds, and bytes per row on disk."""
    return [*await _measure(rig, "lifelike"), *await _measure(rig, "worst")]


async def _measure(rig: Rig, load: Load) -> list[Figure]:
    rig.say(f"making {ROWS_QUICK if rig.quick else ROWS:,} rows ({load}) and asking them")
    job = {
        "folder": str(rig.folder / f"queries-{load}"),
        "rows": ROWS_QUICK if rig.quick else ROWS,
        "load": load,
        "times": _TIMES_QUICK if rig.quick else _TIMES,
    }
    command = [sys.executable, "-m", "tests.bench.clickhouse_queries", orjson.dumps(job).decode()]
    with rig.started(command, everywhere=True) as process:
        found: dict[str, Any] = orjson.loads((await process.end()).splitlines()[-1])
    bench = "queries" if load == "lifelike" else "queries-worst"

    def at_most(target_ms: int) -> tuple[Literal["≤"], int] | None:
        return ("≤", target_ms) if load == "lifelike" else None

    figures = [
        Figure(
            bench,
            f"{name}, p95, from {read}",
            "ms",
            at_most(_TARGETS_MS[read]),
            [p95_ms],
        )
        for name, (p95_ms, read) in found["queries"].items()
    ]
    figures.append(Figure(bench, "exact total of one log, p95", "ms", at_most(_TOTAL_TARGET_MS), [found["total_ms"]]))
    figures.append(Figure(bench, "an event in ClickHouse", "bytes", None, [found["bytes_per_row"]]))
    figures.append(Figure(bench, "building the roll-ups of 30 days", "ms", None, [1000 * found["rollups_s"]]))
    return figures


def _timed_ms(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    call()
    return round(1000 * (time.perf_counter() - began_s), 1)


def _p95_ms(call: Callable[[], object], times: int) -> float:
    """Of so many calls, or of at least two where they take long; a first one, which finds nothing cached, left out."""
    found: list[float] = []
    call()
    while len(found) < 2 or (len(found) < times and sum(found) < _PATIENCE_MS):
        found.append(_timed_ms(call))
    return quantiles(found, n=20, method="inclusive")[18]


def _read(sql: str) -> str:
    """What a query reads, as `_TARGETS_MS` names it."""
    if _ROLLED_UP.search(sql):
        return "roll-ups"
    return "sums by day (aim: 200)" if _SUMMED.search(sql) else "raw rows"


def ask(clickhouse: ClickHouse, rows: int, times: int) -> dict[str, Any]:
    """Ask every query so often; (95th percentile in milliseconds, what it reads) by name, and sizes."""
    queries = {}
    for file in sorted(QUERIES.glob("*.sql")):
        sql = file.read_text("utf-8")
        p95_ms = _p95_ms(lambda sql=sql: clickhouse.raw(sql, "Null"), times)  # type: ignore[misc]
        queries[file.stem] = (p95_ms, _read(sql))
    total_ms = _p95_ms(lambda: log_total(clickhouse, LOG), 10 * times)
    total = log_total(clickhouse, LOG)
    if total is None or (total.positions, total.dense) != (rows, True):
        raise SystemExit(f"the check of the log found {total}")
    ((size,),) = clickhouse.rows(
        "SELECT sum(data_compressed_bytes) / sum(rows) FROM system.parts "
        "WHERE active AND database = currentDatabase() AND table = 'usage_rows'"
    )
    return {"queries": queries, "total_ms": total_ms, "bytes_per_row": size}


def main(folder: str, rows: int, load: Load, times: int) -> dict[str, Any]:
    """Make the rows and ask, while what is left of merges stands back as in a worker."""
    clickhouse = ClickHouse.open_folder(Path(folder))
    try:
        rollups_s = make(clickhouse, rows, load)
        let_merges_wait()
        return {"rollups_s": rollups_s, **ask(clickhouse, rows, times)}
    finally:
        clickhouse.close()


if __name__ == "__main__":
    sys.stdout.write(orjson.dumps(main(**orjson.loads(sys.argv[1]))).decode() + "\n")
