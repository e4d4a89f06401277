"""Every topic is specified once, with all its settings."""

from meterproof_schemas.limits import BATCH_BYTES_MAX, RECORD_BYTES_MAX, REJECTED_PAYLOAD_BYTES_MAX
from meterproof_schemas.topics import TOPICS, Topic

SPECS = {spec.topic: spec for spec in TOPICS}


def test_every_topic_has_one_specification() -> None:
    assert len(TOPICS) == len(SPECS) == len(Topic)


def test_names_carry_the_prefix() -> None:
    assert Topic.LOG.named("") == "usage.log"
    assert Topic.LOG.named("staging.") == "staging.usage.log"


def test_what_is_the_truth_is_never_deleted_by_kafka() -> None:
    for topic in (Topic.BATCHES, Topic.LOG):
        settings = SPECS[topic].settings()
        assert (settings["cleanup.policy"], settings["retention.ms"], settings["retention.bytes"]) == (
            "delete",
            "-1",
            "-1",
        )
        assert settings["message.timestamp.type"] == "LogAppendTime"
        assert SPECS[topic].partitioned


def test_the_largest_record_fits_its_topic() -> None:
    assert SPECS[Topic.BATCHES].record_bytes_max > BATCH_BYTES_MAX
    assert SPECS[Topic.LOG].record_bytes_max > RECORD_BYTES_MAX
    assert SPECS[Topic.REJECTED].record_bytes_max > max(BATCH_BYTES_MAX, REJECTED_PAYLOAD_BYTES_MAX)
