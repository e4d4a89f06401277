"""Events of an audit folder as Parquet: quantities and money as decimals, times as instants."""

from collections.abc import Iterable
from decimal import Decimal
from typing import IO, Any, Final

import pyarrow as pa
from pyarrow import parquet

from meterproof_schemas.instant import parse_instant_us
from meterproof_sinks.event_export import COLUMNS, NUMBERS

_ROWS_PER_GROUP: Final = 50_000
_EXACT: Final = pa.decimal128(38, 12)
_TYPES: Final = {
    **dict.fromkeys(COLUMNS, pa.string()),
    **dict.fromkeys(NUMBERS, pa.int64()),
    "position": pa.int64(),
    "erased": pa.bool_(),
    "time": pa.timestamp("us", tz="UTC"),
    "usage": pa.map_(pa.string(), _EXACT),
    "stated_cost": _EXACT,
    "tags": pa.map_(pa.string(), pa.string()),
}


def write_parquet(rows: Iterable[dict[str, Any]], into: IO[bytes]) -> None:
    """Write rows of `columns_of`; holds one row group in memory."""
    schema = pa.schema(list(_TYPES.items()))
    with parquet.ParquetWriter(into, schema, compression="zstd") as writer:
        group: list[dict[str, Any]] = []
        for row in rows:
            group.append(_typed(row))
            if len(group) == _ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group = []
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema))


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    if "time" in row:
        row["time"] = parse_instant_us(row["time"])
    if "usage" in row:
        row["usage"] = [(meter, Decimal(quantity)) for meter, quantity in row["usage"].items()]
    if "tags" in row:
        row["tags"] = list(row["tags"].items())
    if "stated_cost" in row:
        row["stated_cost"] = Decimal(row["stated_cost"])
    return row
