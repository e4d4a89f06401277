"""Records that come together: how they are cut, and that an engine gets them in order."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproof_stream.engine import TOGETHER_BYTES_MAX, Delivered, Feeder

SIZES = st.sampled_from([None, 0, 1, 1_000, TOGETHER_BYTES_MAX // 2, TOGETHER_BYTES_MAX, TOGETHER_BYTES_MAX + 1])


class OneByOne:
    """An engine that takes single records."""

    def __init__(self) -> None:
        self.fed: list[tuple[int, int]] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def take_over(self, partitions: Iterable[int], generation: int) -> None: ...

    async def revoke(self, partitions: Iterable[int]) -> None: ...

    def next_offsets(self) -> dict[int, int]:
        return {}

    async def feed(
        self, partition: int, offset: int, value: bytes | None, append_ms: int, acknowledge: Callable[[], object]
    ) -> None:
        del value, append_ms
        acknowledge()
        self.fed.append((partition, offset))

    def waits_for(self) -> str | None:
        return None

    def status(self) -> dict[str, Any]:
        return {}


class Together(OneByOne):
    """An engine that takes many at once."""

    async def feed_many(self, partition: int, records: Sequence[Delivered]) -> None:
        for record in records:
            await self.feed(partition, *record)


def delivered(sizes: list[int | None]) -> list[Delivered]:
    return [
        Delivered(offset, None if size is None else bytes(size), 0, lambda: None) for offset, size in enumerate(sizes)
    ]


@given(st.lists(SIZES, max_size=12))
def test_nothing_is_lost_by_cutting_and_no_piece_is_too_large(sizes: list[int | None]) -> None:
    records = delivered(sizes)
    pieces = list(Feeder(Together()).cut(records))
    assert [record for piece in pieces for record in piece] == records
    for piece in pieces:
        assert len(piece) == 1 or sum(len(record.value or b"") for record in piece) <= TOGETHER_BYTES_MAX
    for piece, after in pairwise(pieces):  # as few as possible
        assert sum(len(record.value or b"") for record in (*piece, after[0])) > TOGETHER_BYTES_MAX


def test_an_engine_for_single_records_gets_each_as_a_piece_of_its_own() -> None:
    records = delivered([1, 1, 1])
    assert [list(piece) for piece in Feeder(OneByOne()).cut(records)] == [[record] for record in records]


@pytest.mark.parametrize("engine", [OneByOne(), Together()])
async def test_every_engine_gets_each_record_in_order(engine: OneByOne) -> None:
    acknowledged: list[int] = []
    feeder = Feeder(engine)
    records = [Delivered(offset, b"", 0, lambda offset=offset: acknowledged.append(offset)) for offset in range(3)]  # type: ignore[misc]
    for piece in feeder.cut(records):
        await feeder.feed(7, piece)
    assert engine.fed == [(7, 0), (7, 1), (7, 2)]
    assert acknowledged == [0, 1, 2]
