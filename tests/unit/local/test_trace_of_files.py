"""`meterproof trace` where only the files are left: no Kafka answers and there is no database."""

from pathlib import Path

from meterproof.deployment import DataFolder, DeploymentFile
from meterproof_local.trace import trace_event
from meterproof_schemas.event import entry_of
from meterproof_schemas.fast_event import read_event
from meterproof_sinks.erased import erased_line
from tests.log_builder import make_log
from tests.published_log import publish, vkey_of


async def test_an_event_is_proved_beside_an_erased_one(tmp_path: Path) -> None:
    log = make_log()
    log.batch(3)
    folder = DataFolder(tmp_path)
    audit = publish(folder.audit, log)
    folder.keys.mkdir()
    (folder.keys / "log.vkey").write_text(vkey_of(log) + "\n")
    folder.deployment_file.write_text(
        DeploymentFile(
            name="logs.example", deployment="test", bootstrap="127.0.0.1:1", topic_prefix="", partitions=1
        ).model_dump_json()
    )
    (events,) = audit.glob("[0-9]*[0-9].jsonl")
    erased, *lines = events.read_bytes().splitlines()
    events.write_bytes(b"\n".join([erased_line(entry_of(erased)), *lines, b""]))

    found = await trace_event(folder, read_event(lines[-1]).id)
    (one,) = found.occurrences
    assert one.proved
    assert (await trace_event(folder, read_event(erased).id)).occurrences == []
    assert any("ClickHouse" in what for what in found.not_looked_at)
