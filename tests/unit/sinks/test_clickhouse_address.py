"""Addresses of ClickHouse servers that are none."""

import pytest

from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError


@pytest.mark.parametrize(
    "url",
    [
        *("meter:s3cret@host:8123", "http://meter:s3cret@host:8123", "https://:s3cret@host", "http://s3cret@host"),
        *("http://host:s3cret", "http://[s3cret", "host:8123", "tcp://host:9000", ""),
    ],
)
def test_what_is_no_address_is_refused_with_what_to_set_and_is_not_quoted(url: str) -> None:
    with pytest.raises(
        ClickHouseError, match=r"METERPROOF_CLICKHOUSE_URL is not.*METERPROOF_CLICKHOUSE_PASSWORD"
    ) as error:
        ClickHouse.connect(url)
    assert "s3cret" not in f"{error.value} {error.value!r}"
    assert error.value.__cause__ is None
    assert error.value.__context__ is None
