"""Settings of the Kafka seam, and what loading them loads."""

import ssl
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.topics import Topic


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERPROOF_KAFKA_BOOTSTRAP", "one:9092, two:9092,")
    monkeypatch.setenv("METERPROOF_KAFKA_TOPIC_PREFIX", "staging.")
    settings = KafkaSettings()
    assert settings.topic(Topic.LOG) == "staging.usage.log"
    assert settings.client_args() == {
        "bootstrap_servers": ["one:9092", "two:9092"],
        "client_id": "meterproof",
        "request_timeout_ms": 30_000,
        "security_protocol": "PLAINTEXT",
    }


def test_credentials_go_to_the_client_and_into_no_text() -> None:
    settings = KafkaSettings(security_protocol="SASL_SSL", sasl_username="meter", sasl_password="s3cret")
    arguments = settings.client_args()
    assert arguments["sasl_mechanism"] == "SCRAM-SHA-512"
    assert arguments["sasl_plain_username"] == "meter"
    assert arguments["sasl_plain_password"] == "s3cret"
    assert arguments["ssl_context"].verify_mode is ssl.CERT_REQUIRED
    assert arguments["ssl_context"].check_hostname
    assert "s3cret" not in f"{settings} {settings!r} {settings.model_dump_json()}"


@pytest.mark.parametrize("half", [{"sasl_username": "meter"}, {"sasl_password": "s3cret"}])
def test_half_a_credential_is_refused_with_the_variables_to_set_and_without_their_values(half: dict[str, Any]) -> None:
    missing = "METERPROOF_KAFKA_SASL_USERNAME and METERPROOF_KAFKA_SASL_PASSWORD"
    with pytest.raises(ValidationError, match=missing) as refused:
        KafkaSettings(security_protocol="SASL_PLAINTEXT", **half)
    assert "s3cret" not in f"{refused.value} {refused.value!r}"


@pytest.mark.parametrize(
    "bootstrap", ["", ",", "kafka:", ":9092", ":::", "kafka:port", "kafka:99999", "kafka://k:9092", "a b"]
)
def test_an_address_that_nobody_could_call_is_refused_and_not_shown(bootstrap: str) -> None:
    with pytest.raises(ValidationError, match="bootstrap") as refused:
        KafkaSettings(bootstrap=f"other:9092,{bootstrap}" if bootstrap.strip(",") else bootstrap)
    assert "other:9092" not in str(refused.value)


@pytest.mark.parametrize(
    "bootstrap", ["kafka", "kafka:9092", "10.0.0.1:9092", "[::1]:9092", "::1", "a-b_c.example:1, x,"]
)
def test_an_address_with_and_without_a_port_is_taken(bootstrap: str) -> None:
    assert KafkaSettings(bootstrap=bootstrap).bootstrap == bootstrap


@pytest.mark.parametrize("prefix", ["with space", "slash/", "ä", "x" * 201])
def test_a_prefix_that_no_topic_can_have_is_refused(prefix: str) -> None:
    with pytest.raises(ValidationError, match="topic_prefix"):
        KafkaSettings(topic_prefix=prefix)


def test_importing_the_helper_or_the_settings_does_not_load_the_client_library() -> None:
    code = (
        "import sys, meterproof, meterproof.kafka.settings, meterproof.kafka.errors, meterproof.commands.topics, "
        "meterproof.commands.prices; sys.exit('aiokafka' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
