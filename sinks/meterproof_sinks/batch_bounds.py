"""When a sink's batch is full: by rows, bytes or age."""

from dataclasses import dataclass, field

from meterproof_schemas.log_record import LogRecord


@dataclass(frozen=True, slots=True)
class BatchBounds:
    """The first bound that is reached ends a batch. A batch ends between log records, so one record may exceed it."""

    rows_max: int = 20_000
    """Accepted events. ClickHouse wants 10,000 or more at once."""
    bytes_max: int = 32 * 1024 * 1024
    """Sum of the log records' values."""
    records_max: int = 5_000
    """Log records: what bounds a batch when records carry few events or none."""
    age_max_s: float = 0.5
    """Since the first record of the batch was polled: how late a quiet log's event is at most."""


@dataclass(slots=True)
class Batch:
    """The records gathered for one write; one per log, emptied by `take`."""

    bounds: BatchBounds
    records: list[tuple[int, LogRecord]] = field(default_factory=list)
    rows: int = 0
    size_bytes: int = 0
    began_s: float = 0.0
    """On the caller's clock; means nothing while the batch is empty."""

    def add(self, offset: int, record: LogRecord, now_s: float) -> None:
        """Put in the next record."""
        if not self.records:
            self.began_s = now_s
        self.records.append((offset, record))
        self.rows += record.header.accepted
        self.size_bytes += len(record.value)

    @property
    def full(self) -> bool:
        """Whether a bound on rows, bytes or records is reached."""
        bounds = self.bounds
        return (
            self.rows >= bounds.rows_max
            or self.size_bytes >= bounds.bytes_max
            or len(self.records) >= bounds.records_max
        )

    def left_s(self, now_s: float) -> float | None:
        """How long the batch may still wait for more; None while it is empty."""
        return max(0.0, self.began_s + self.bounds.age_max_s - now_s) if self.records else None

    def take(self) -> list[tuple[int, LogRecord]]:
        """Take out what was gathered and begin anew."""
        records, self.records, self.rows, self.size_bytes = self.records, [], 0, 0
        return records
