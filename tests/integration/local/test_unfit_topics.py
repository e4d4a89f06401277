"""Every worker refuses to start on a topic that is not as the contract says, and names what mends it."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from aiokafka.admin import NewTopic

from meterproof.deployment import DataFolder
from meterproof.exit_codes import NOT_STARTED
from meterproof.kafka.connection import admin_client
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import create_topics
from meterproof_local.broker import LocalBroker
from meterproof_local.setup import SetupWish, set_up
from meterproof_local.supervisor import worker_specs
from meterproof_schemas.topics import Topic
from tests.meterproof_command import PROGRAM

pytestmark = pytest.mark.broker

_PATIENCE_S = 120


async def test_no_worker_starts_where_producers_could_set_the_time(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path
) -> None:
    kafka = KafkaSettings(bootstrap=broker.bootstrap, topic_prefix=topic_prefix)
    folder = DataFolder(tmp_path)
    deployment = set_up(folder, SetupWish(partitions=1))
    async with admin_client(kafka) as admin:
        configs = {"message.timestamp.type": "CreateTime"}
        await admin.create_topics([NewTopic(kafka.topic(Topic.BATCHES), 1, 1, topic_configs=configs)])
    await create_topics(kafka, deployment, now_ms=time.time_ns() // 1_000_000, random_bytes=os.urandom)
    where = (f"--bootstrap={broker.bootstrap}", f"--prefix={topic_prefix}")
    specs = worker_specs(folder, 1)
    assert {spec.name for spec in specs} == {"sequencer-0", "checkpointer", "budgets", "clickhouse", "audit"}
    started = [
        subprocess.Popen([*PROGRAM, *spec.arguments, *where], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: ASYNC220
        for spec in specs
    ]
    try:
        for spec, process in zip(specs, started, strict=True):
            out, told = process.communicate(timeout=_PATIENCE_S)
            assert (process.returncode, out) == (NOT_STARTED, ""), (spec.name, told)
            assert "message.timestamp.type is CreateTime and must be LogAppendTime" in told
            assert "--add-config message.timestamp.type=LogAppendTime" in told
            assert "Traceback" not in told
    finally:
        for process in started:
            process.kill()
