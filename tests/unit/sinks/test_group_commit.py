"""What comes while a group is committed goes together, in order, each item once."""

import asyncio

import pytest

from meterproof_sinks.group_commit import GroupCommit


class _Committed:
    """Notes groups; each waits until it is let go."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()

    async def __call__(self, group: list[str]) -> None:
        self.groups.append(group)
        self.began.set()
        await self.may_end.wait()
        if "bad" in group:
            raise OSError("away")


async def _made(item: str) -> str:
    return item


async def test_what_comes_meanwhile_goes_together_up_to_the_bound() -> None:
    committed = _Committed()
    group = GroupCommit(committed, len, 3)
    first = asyncio.create_task(group.add(_made("a")))
    await committed.began.wait()
    others = [asyncio.create_task(group.add(_made(item))) for item in ("b", "cc", "d", "e")]
    for _ in range(5):
        await asyncio.sleep(0)
    assert committed.groups == [["a"]]
    assert not first.done()
    committed.may_end.set()
    await asyncio.gather(first, *others)
    assert committed.groups == [["a"], ["b", "cc"], ["d", "e"]]


async def test_an_item_that_is_being_made_is_waited_for() -> None:
    committed = _Committed()
    committed.may_end.set()
    group = GroupCommit(committed, len, 100)
    ready = asyncio.Event()

    async def slow() -> str:
        await ready.wait()
        return "slow"

    making = asyncio.create_task(group.add(slow()))
    await asyncio.sleep(0)
    quick = asyncio.create_task(group.add(_made("quick")))
    for _ in range(5):
        await asyncio.sleep(0)
    assert committed.groups == []
    ready.set()
    await asyncio.gather(making, quick)
    assert committed.groups == [["quick", "slow"]]


async def test_an_item_that_cannot_be_made_holds_up_no_other() -> None:
    committed = _Committed()
    committed.may_end.set()
    group = GroupCommit(committed, len, 100)
    ready = asyncio.Event()

    async def broken() -> str:
        await ready.wait()
        raise ValueError("broken")

    making = asyncio.create_task(group.add(broken()))
    await asyncio.sleep(0)
    quick = asyncio.create_task(group.add(_made("quick")))
    await asyncio.sleep(0)
    ready.set()
    with pytest.raises(ValueError, match="broken"):
        await making
    await quick
    assert committed.groups == [["quick"]]


async def test_everybody_in_a_group_is_told_what_went_wrong_and_nobody_else() -> None:
    committed = _Committed()
    group = GroupCommit(committed, len, 4)
    first = asyncio.create_task(group.add(_made("a")))
    await committed.began.wait()
    others = [asyncio.create_task(group.add(_made(item))) for item in ("b", "bad", "c")]
    for _ in range(5):
        await asyncio.sleep(0)
    committed.may_end.set()
    await first
    outcomes = await asyncio.gather(*others, return_exceptions=True)
    assert list(map(str, outcomes)) == ["away", "away", "None"]
    assert committed.groups == [["a"], ["b", "bad"], ["c"]]


async def test_who_is_cancelled_while_committing_leaves_nobody_waiting() -> None:
    committed = _Committed()
    group = GroupCommit(committed, len, 100)
    first = asyncio.create_task(group.add(_made("a")))
    await committed.began.wait()
    second = asyncio.create_task(group.add(_made("b")))
    await asyncio.sleep(0)
    first.cancel()
    committed.may_end.set()
    await second
    assert first.cancelled()
    assert committed.groups == [["a"], ["b"]]
