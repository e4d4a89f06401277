"""A start without anything kept reads the whole log, and says how far it is meanwhile."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from meterproof_local.broker import LocalBroker
from meterproof_stream import take_over
from meterproof_stream.take_over import fold_log
from tests.integration.stream.workers import Pipeline

pytestmark = pytest.mark.broker


async def test_a_cold_start_tells_how_far_it_is_and_what_it_took(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1)
    await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 3)) for _ in range(4)])
    with pipeline.worker() as worker:
        await pipeline.wait_until_sequenced(worker)
        assert worker.stop() == 0, worker.log()
    monkeypatch.setattr(take_over, "PROGRESS_INTERVAL_S", -1.0)
    told: list[tuple[int, int]] = []
    with capture_logs() as logs:
        folded = await fold_log(pipeline.kafka, 0, on_progress=lambda offset, end: told.append((offset, end)))
    assert folded.state.position == 12
    assert [offset for offset, _ in told] == sorted({offset for offset, _ in told})
    assert told[-1] == (folded.end, folded.end)
    events = {one["event"]: one for one in logs}
    assert (events["log_folding"]["end"], events["log_folding"]["position"]) == (folded.end, 12)
    assert (events["log_folded"]["begin"], events["log_folded"]["position"]) == (0, 12)
