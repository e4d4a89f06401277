"""When the watch over the source compares all of it."""

import asyncio
from collections.abc import Iterator
from typing import cast

import pytest

from meterproof.kafka.errors import BrokerUnreachable
from meterproof.kafka.settings import KafkaSettings
from meterproof_stream import source_watch
from meterproof_stream.lane import Lane
from meterproof_stream.source_watch import SourceWatch

PATIENCE_S = 60


def watch(
    monkeypatch: pytest.MonkeyPatch, answers: Iterator[bytes | Exception | None]
) -> tuple[SourceWatch, list[int]]:
    """A watch over two partitions whose topic has these ids, one look after the other; and what it compares."""
    monkeypatch.setattr(source_watch, "SOURCE_ID_INTERVAL_S", 0.0)
    lanes = cast("dict[int, Lane]", {1: None, 0: None})
    made = SourceWatch(KafkaSettings(), "usage.batches", lambda: lanes, monotonic_s=lambda: 0.0, interval_s=3600)
    compared: list[int] = []

    async def answer(_: SourceWatch) -> bytes | None:
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    async def compare(_: SourceWatch, partition: int) -> None:
        compared.append(partition)

    monkeypatch.setattr(SourceWatch, "_topic_id", answer)
    monkeypatch.setattr(SourceWatch, "_compare_beside", compare)
    return made, compared


async def test_every_partition_is_compared_once_for_each_other_id(monkeypatch: pytest.MonkeyPatch) -> None:
    away = BrokerUnreachable("kafka:9092", "silence")
    answers = iter([b"a", b"a", None, away, b"a", b"b", b"b", None, b"c", ZeroDivisionError()])
    made, compared = watch(monkeypatch, answers)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(ZeroDivisionError):
            await made.run()
    assert compared == [0, 1, 0, 1]
