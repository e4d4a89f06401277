"""`meterproof topics` and `meterproof prices` as somebody types them, against a real broker."""

import json
from pathlib import Path

import pytest

from meterproof.commands import prices, topics
from meterproof.deployment import DataFolder, DeploymentFile
from meterproof_local.broker import LocalBroker
from meterproof_schemas.price_book import DEFAULT_METERS, PriceBook, encode_price_book
from meterproof_schemas.topics import Topic

pytestmark = pytest.mark.broker


@pytest.fixture
def place(broker: LocalBroker, topic_prefix: str) -> list[str]:
    """The options that lead to this test's topics."""
    return ["--bootstrap", broker.bootstrap, "--prefix", topic_prefix]


@pytest.fixture
def creation(place: list[str]) -> list[str]:
    return [
        *("create", "--name", "meter.example.com/test", "--partitions", "2", "--replication-factor", "1"),
        *("--horizon-hours", "48", *place),
    ]


def test_create_check_and_create_again(
    place: list[str], creation: list[str], topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert topics.main(["check", *place, "--json"]) == 1
    faults = json.loads(capsys.readouterr().out)
    assert {fault["topic"] for fault in faults} == {topic.named(topic_prefix) for topic in Topic}

    assert topics.main([*creation, "--json"]) == 0
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert len(report["created"]) == len(Topic)
    assert report["faults"] == []
    assert f"created {Topic.LOG.named(topic_prefix)}" in told.err
    assert len(bytes.fromhex(report["epoch"])) == 16

    assert topics.main(["check", *place]) == 0
    assert "as the contract says" in capsys.readouterr().out
    assert topics.main(creation) == 0
    assert f"0 created, {len(Topic)} were there" in (shown := capsys.readouterr().out)
    assert report["epoch"] in shown

    assert topics.main([*creation, "--horizon-hours", "24"]) == 1
    assert "was created with limits" in capsys.readouterr().err


def test_more_replicas_than_brokers_end_with_one_message(
    creation: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert topics.main([*creation, "--replication-factor", "3"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("meterproof topics: Kafka at ")
    assert "Traceback" not in told.err


def test_prices_are_published_and_listed(
    place: list[str], creation: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert topics.main(creation) == 0
    book = PriceBook(version=7, currency="EUR", meters=DEFAULT_METERS, prices=())
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(json.loads(encode_price_book(book)), indent=2))
    capsys.readouterr()

    assert prices.main(["list", *place]) == 0
    assert "no price book is published" in capsys.readouterr().out
    assert prices.main(["publish", str(file), *place]) == 0
    assert capsys.readouterr().out == "published version 7: 8 meters, 0 prices in EUR\n"
    assert prices.main(["publish", str(file), *place, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": 7, "published": False}
    file.write_bytes(encode_price_book(book.model_copy(update={"currency": "USD"})))
    assert prices.main(["publish", str(file), *place]) == 1
    assert "published with other content" in capsys.readouterr().err
    assert prices.main(["list", *place, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [json.loads(encode_price_book(book))]
    file.write_bytes(b"{}")
    assert prices.main(["publish", str(file), *place]) == 1
    assert "price book: version" in capsys.readouterr().err


def test_a_data_folder_stands_for_address_and_prefix(
    *,
    broker: LocalBroker,
    creation: list[str],
    topic_prefix: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("METERPROOF_KAFKA_BOOTSTRAP", raising=False)
    monkeypatch.delenv("METERPROOF_KAFKA_TOPIC_PREFIX", raising=False)
    assert topics.main(creation) == 0
    there = DeploymentFile(
        name="test", deployment="test", bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=2
    )
    DataFolder(tmp_path).deployment_file.write_text(there.model_dump_json())
    assert topics.main(["check", "--data", str(tmp_path)]) == 0
    assert prices.main(["list", "--data", str(tmp_path)]) == 0
    capsys.readouterr()
    assert topics.main(["check", "--data", str(tmp_path), "--prefix", "other/"]) == 1
    assert "topic_prefix" in capsys.readouterr().err
    DataFolder(tmp_path).deployment_file.write_text("{}")
    assert prices.main(["list", "--data", str(tmp_path)]) == 1
    assert "deployment.json is faulty" in capsys.readouterr().err
