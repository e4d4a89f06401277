"""The bound on what is on its way."""

import asyncio

import pytest

from meterproof_stream.room import Room

PATIENCE_S = 60


@pytest.mark.parametrize("room", [Room(records_max=2), Room(bytes_max=20)], ids=["records", "bytes"])
async def test_it_waits_while_full_and_goes_on_when_something_is_given_back(room: Room) -> None:
    for _ in range(2):
        await room.wait()
        room.take(10)
    waiting = asyncio.create_task(room.wait())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    room.give_back(10)
    await asyncio.wait_for(waiting, PATIENCE_S)
    assert (room.records, room.bytes) == (1, 10)
