"""What a runtime can run: the sequencer, and the stages behind the log."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar, runtime_checkable

TOGETHER_BYTES_MAX: Final = 64 * 1024
"""Records of one partition that are fed together are no larger in sum, unless it is one alone.

What is looked at twice then still stands in the processor's cache, and the event loop turns again within 10 ms or so.
"""


class Delivered(NamedTuple):
    """One record as a runtime delivers it."""

    offset: int
    value: bytes | None
    append_ms: int
    acknowledge: Callable[[], object]


class Engine(Protocol):
    """What a driver can run. Any exception ends the process before anything else is acknowledged."""

    async def start(self) -> None:
        """Connect; called once, first."""

    async def stop(self) -> None:
        """Take nothing more, wait for what is on its way, disconnect."""

    async def take_over(self, partitions: Iterable[int], generation: int) -> None:
        """Hold exactly these partitions from now on; may take as long as it needs."""

    async def revoke(self, partitions: Iterable[int]) -> None:
        """These partitions may belong to another from now on."""

    def next_offsets(self) -> dict[int, int]:
        """The offset that is due, by partition held."""

    async def feed(
        self, partition: int, offset: int, value: bytes | None, append_ms: int, acknowledge: Callable[[], object]
    ) -> None:
        """Take one record; it may repeat, or come after a gap."""

    def waits_for(self) -> str | None:
        """What outside of this process must answer before more is taken, in words; None if nothing is waited for."""

    def status(self) -> dict[str, Any]:
        """What an operator wants to see, ready for JSON; `partitions` by number as text."""


@runtime_checkable
class ManyEngine(Engine, Protocol):
    """An engine for which records that come together are cheaper than one by one."""

    async def feed_many(self, partition: int, records: Sequence[Delivered]) -> None:
        """`feed` each of them, in order."""


class HasValue(Protocol):
    """A record of whatever kind."""

    @property
    def value(self) -> bytes | None:
        """Its bytes."""


_Record = TypeVar("_Record", bound=HasValue)


def in_pieces(records: Sequence[_Record], bytes_max: int) -> Iterable[Sequence[_Record]]:
    """Records in order, cut into pieces that are no larger in sum, unless one is a record alone."""
    first = size_bytes = 0
    for number, record in enumerate(records):
        size_bytes += len(record.value or b"")
        if size_bytes > bytes_max and number > first:
            yield records[first:number]
            first, size_bytes = number, len(record.value or b"")
    if first < len(records):
        yield records[first:]


class Feeder:
    """Gives an engine the records of a partition, together where it takes them so. Lives as long as its driver."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._feed_many = engine.feed_many if isinstance(engine, ManyEngine) else None

    def cut(self, records: Sequence[Delivered]) -> Iterable[Sequence[Delivered]]:
        """Records of one partition, cut into what is fed together; between two pieces a driver looks about."""
        if self._feed_many is None:
            for record in records:
                yield (record,)
            return
        yield from in_pieces(records, TOGETHER_BYTES_MAX)

    async def feed(self, partition: int, together: Sequence[Delivered]) -> None:
        """Feed one piece; raises what the engine does."""
        if self._feed_many is not None:
            await self._feed_many(partition, together)
            return
        for record in together:
            await self._engine.feed(partition, *record)
