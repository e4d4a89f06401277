"""The filter on the client library's log."""

import logging

import pytest

from meterproof.kafka.connection_log import QUIET_INTERVAL_S, ConnectionLog, collected_causes, install


class Clock:
    """A clock that stands still until told otherwise, in seconds."""

    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logger(clock: Clock) -> logging.Logger:
    logger = logging.Logger("library")  # noqa: LOG001 - of this test alone, gone with it
    logger.addFilter(ConnectionLog(clock))
    logger.addHandler(logging.Handler())
    return logger


@pytest.fixture
def shown(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(logger.handlers[0], "emit", lambda record: texts.append(record.getMessage()))
    return texts


def test_a_kind_of_message_appears_once_per_interval_with_the_number_withheld(
    logger: logging.Logger, shown: list[str], clock: Clock
) -> None:
    for port in range(5):
        logger.error("Unable connect to %s: %s", port, "refused")
    logger.error("another kind")
    assert shown == ["Unable connect to 0: refused", "another kind"]
    clock.now_s += QUIET_INTERVAL_S
    logger.error("Unable connect to %s: %s", 9, "refused")
    assert shown[2:] == ["Unable connect to 9: refused (4 more like this since the last one)"]
    clock.now_s += QUIET_INTERVAL_S
    logger.error("Unable connect to %s: %s", 10, "refused")
    assert shown[3:] == ["Unable connect to 10: refused"]


def test_what_is_no_warning_passes(logger: logging.Logger, shown: list[str]) -> None:
    for _ in range(3):
        logger.info("joined")
    assert shown == ["joined"] * 3


def test_causes_are_handed_to_who_collects_them(logger: logging.Logger, shown: list[str]) -> None:
    with collected_causes() as causes:
        logger.warning("cannot %s", "connect")
        logger.info("trying")
    logger.warning("cannot %s", "read")
    assert causes == ["cannot connect"]
    assert shown == ["trying", "cannot read"]


def test_installing_twice_puts_one_filter_on_each_logger() -> None:
    install()
    install()
    for name in ("aiokafka", "aiokafka.conn", "aiokafka.consumer.fetcher"):
        assert len([item for item in logging.getLogger(name).filters if isinstance(item, ConnectionLog)]) == 1
