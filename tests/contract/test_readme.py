"""The page that states the formats says what the code does, and its client is one."""

import re
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import meterproof_schemas
from meterproof_schemas import limits
from meterproof_schemas.batch import HEADER_PAYLOAD_TYPE, SIGNATURES_MAX, BatchHeader, decode_batch
from meterproof_schemas.event import METERS_MAX, TAGS_MAX, UsageData, parse_event
from meterproof_schemas.fast_event import read_event
from meterproof_schemas.fold import LogState
from meterproof_schemas.log_record import RecordHeader
from meterproof_schemas.partitioner import partition_of
from meterproof_schemas.reasons import Reason
from meterproof_schemas.topics import TOPICS
from meterproof_stream.judge import judge
from meterproof_stream.record_builder import InForce, append_record
from tests.builders import DEPLOYMENT, NOW_MS, SOURCE_TOPIC, make_genesis_record, make_key, make_registry

README = (Path(meterproof_schemas.__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
    return str(found)


def rows(title: str) -> list[list[str]]:
    lines = [line for line in section(title).splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_reason_is_listed_once() -> None:
    assert sorted(row[0].strip("`") for row in rows("Reasons")) == sorted(Reason)


def test_every_topic_is_listed_with_its_settings() -> None:
    listed = {row[0].strip("`"): row[1:] for row in rows("Topics")}
    assert set(listed) == {spec.topic.value for spec in TOPICS}
    for spec in TOPICS:
        partitions, cleanup, content = listed[spec.topic.value]
        assert partitions == ("P" if spec.partitioned else "1")
        assert re.split(r",? ", cleanup)[0] == spec.cleanup
        assert content == spec.content
        assert spec.settings()["message.timestamp.type"] == "LogAppendTime"


def test_every_field_is_listed() -> None:
    header = {row[0].strip("`") for row in rows("Batch")}
    assert header == set(BatchHeader.model_fields)
    record = {name.strip("`") for row in rows("Log record") for name in row[0].split(", ")}
    assert record == set(RecordHeader.model_fields)
    names = [name for row in rows("Event") for name in re.findall(r"`([a-z_.]+)`", row[0])]
    data = {name.removeprefix("data.") for name in names} - {"specversion", "type", "id", "source", "subject", "time"}
    assert data == set(UsageData.model_fields)


def test_limits_are_the_code_s() -> None:
    for title, numbers in {
        "Event": [limits.LINE_BYTES_MAX, limits.NAME_BYTES_MAX, METERS_MAX, TAGS_MAX],
        "Batch": [
            limits.BATCH_BYTES_MAX,
            limits.HEADER_LINE_BYTES_MAX,
            limits.SIGNATURES_LINE_BYTES_MAX,
            limits.BATCH_LINES_MAX,
            SIGNATURES_MAX,
        ],
        "Log record": [limits.RECORD_BYTES_MAX],
        "Rejection": [limits.REJECTED_PAYLOAD_BYTES_MAX],
    }.items():
        for number in numbers:
            assert re.search(rf"\b{number:,}\b", section(title)), (title, number)
    assert HEADER_PAYLOAD_TYPE in section("Batch")
    assert limits.FUTURE_TOLERANCE_MS == 5 * 60 * 1000


def test_the_example_is_an_event() -> None:
    (example,) = re.findall(r"```json\n(.*?)\n```", section("Event"))
    assert read_event(example.encode()).time_us == parse_event(example.encode()).time_us


def client() -> dict[str, Any]:
    """The client of the page, run as it stands there."""
    (code,) = re.findall(r"```python\n(.*?)```", section("Batch"), re.DOTALL)
    assert "meterproof_" not in code
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - it is our own page
    return names


CLIENT = client()


@given(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=40), st.integers(1, 64))
def test_the_client_of_the_page_finds_the_same_partition(subject: str, partitions: int) -> None:
    assert CLIENT["partition"](subject, partitions) == partition_of(subject, partitions)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_the_batches_of_the_client_of_the_page_are_accepted(sizes: list[int]) -> None:
    key = make_key()
    series = CLIENT["Series"](
        bytes(key.signing_key), audience=DEPLOYMENT, topic=SOURCE_TOPIC, partition=0, producer="gateway"
    )
    state = LogState()
    state.offer(0, make_genesis_record())
    number = 0
    for offset, size in enumerate(sizes):
        events = []
        for number in range(number, number + size):  # noqa: B020 - numbers go on from batch to batch
            events.append(
                {
                    "specversion": "1.0",
                    "id": f"é-{number}",
                    "source": "gateway",
                    "type": "meterproof.usage.v1",
                    "time": "2026-01-01T00:00:00.000Z",
                    "subject": "agent",
                    "data": {"customer": "acme", "usage": {"requests": number}},
                }
            )
        number += 1
        value = series.batch(events, "2026-01-01T00:00:00.000Z")
        judgement = judge(
            value,
            partition=0,
            offset=offset,
            append_ms=NOW_MS,
            state=state,
            registry=make_registry(key),
            meters={"requests"},
        )
        assert (judgement.reason, judgement.not_accepted) == (None, [])
        assert decode_batch(value).header.sequence == offset
        append_record(
            state, judgement, log_offset=offset + 1, source_offset=offset, in_force=InForce("0" * 64, 0, "0" * 32, 1)
        )
    assert state.position == sum(sizes)
    assert state.series.gaps() == {}
