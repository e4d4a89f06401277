"""The endpoints file: what it may state, what is refused, which alerts are meant, which addresses are public."""

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from meterproof_schemas.errors import InvalidRegistry
from meterproof_sinks.webhook_addresses import is_public
from meterproof_sinks.webhook_endpoints import load_endpoints
from tests.alerts import alert

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ENTRY: dict[str, Any] = {
    "name": "pager",
    "url": "https://hooks.example.com/T0KEN",
    "secret_env": "HOOK",
    "since": "2026-01-01T00:00:00.000Z",
}


def file(folder: Path, *entries: dict[str, Any]) -> Path:
    path = folder / "webhooks.json"
    path.write_bytes(orjson.dumps({"version": 1, "endpoints": entries}))
    return path


def test_an_endpoint_and_its_secret_are_read_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "pager.secret").write_text(SECRET)
    (tmp_path / "pager.secret").chmod(0o600)
    entry = {name: value for name, value in ENTRY.items() if name != "secret_env"} | {"secret_file": "pager.secret"}
    by_file, by_environment = load_endpoints(file(tmp_path, entry, ENTRY | {"name": "b"}), {"HOOK": SECRET})
    assert by_file.secret.headers("a", 1, b"") == by_environment.secret.headers("a", 1, b"")
    assert (by_file.name, str(by_file.url), by_file.timeout_s) == ("pager", "https://hooks.example.com/T0KEN", 10)
    assert by_file.backoff.attempts_max == 20
    assert "T0KEN" not in repr(by_file)
    assert "MfKQ" not in repr(by_file)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"url": "http://hooks.example.com/T0KEN"}, "not https"),
        ({"url": "ftp://hooks.example.com/T0KEN"}, "should be like"),
        ({"url": "https:///T0KEN"}, "url"),
        ({"url": "https://[T0KEN/"}, "not an address"),
        ({"url": "https://me:T0KEN@hooks.example.com/"}, "user or password"),
        ({"url": "https://127.0.0.1/T0KEN"}, "not a public address"),
        ({"url": "https://[::ffff:169.254.169.254]/T0KEN"}, "not a public address"),
        ({"url": "https://10.0.0.1:8443/T0KEN"}, "not a public address"),
        ({"secret_env": None}, "either secret_file or secret_env"),
        ({"secret_file": "x"}, "either secret_file or secret_env"),
        ({"secret_env": "OTHER"}, "OTHER is not set"),
        ({"secret_env": "BAD"}, "whsec_ and base64"),
        ({"since": "yesterday"}, "since"),
        ({"since": None}, "since"),
        ({"name": "Pager|1"}, "name"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"attempts_max": 0}, "attempts_max"),
        ({"longest_pause_ms": 10**18}, "longest_pause_ms"),
        ({"filter": {"budgets": []}}, "budgets"),
        ({"filter": {"scopes": ["nobody"]}}, "scopes"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_faulty_endpoint_is_refused_and_its_address_not_quoted(
    change: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    path = file(tmp_path, ENTRY | change)
    with pytest.raises(InvalidRegistry, match=fault) as refused:
        load_endpoints(path, {"HOOK": SECRET, "BAD": "whsec_T0KEN"})
    assert "T0KEN" not in str(refused.value)


def test_the_example_of_the_readme_is_read(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "sinks/README.md").read_text(encoding="utf-8")
    (example,) = (block for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if '"endpoints"' in block)
    (tmp_path / "webhooks.json").write_text(example)
    (tmp_path / "pager.secret").write_text(SECRET)
    (tmp_path / "pager.secret").chmod(0o600)
    pager, chat = load_endpoints(tmp_path / "webhooks.json", {"CHAT_SECRET": SECRET})
    assert (pager.name, pager.backoff.attempts_max, pager.allow_private_addresses) == ("pager", 20, False)
    assert (chat.name, chat.backoff.attempts_max, chat.filter.scopes) == ("chat", 10, ("team",))


def test_a_faulty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRegistry, match="cannot be read"):
        load_endpoints(tmp_path / "webhooks.json")
    with pytest.raises(InvalidRegistry, match="endpoints"):
        load_endpoints(file(tmp_path))
    with pytest.raises(InvalidRegistry, match="one name"):
        load_endpoints(file(tmp_path, ENTRY, ENTRY), {"HOOK": SECRET})
    (tmp_path / "webhooks.json").write_text('{"version": 1, "version": 1, "endpoints": []}')
    with pytest.raises(InvalidRegistry, match="version"):
        load_endpoints(tmp_path / "webhooks.json")


@pytest.mark.parametrize(
    ("choice", "change", "wanted"),
    [
        ({}, {}, True),
        ({}, {"append_ms": 1_767_225_600_000}, True),
        ({}, {"append_ms": 1_767_225_599_999}, False),
        ({"budgets": ["dai*"]}, {}, True),
        ({"budgets": ["monthly", "week*"]}, {}, False),
        ({"subjects": ["agent-1"]}, {}, True),
        ({"subjects": ["agent-2"]}, {}, False),
        ({"scopes": ["customer", "agent"]}, {}, True),
        ({"scopes": ["customer"]}, {}, False),
        ({"threshold_min": "80"}, {}, True),
        ({"threshold_min": "80.5"}, {}, False),
        ({"threshold_min": "9"}, {}, True),
        ({"budgets": ["*"], "threshold_min": "100"}, {"threshold": "100"}, True),
    ],
)
def test_which_alerts_an_endpoint_gets(
    choice: dict[str, Any], change: dict[str, Any], wanted: bool, tmp_path: Path
) -> None:
    (endpoint,) = load_endpoints(file(tmp_path, ENTRY | {"filter": choice}), {"HOOK": SECRET})
    assert endpoint.wants(alert(**change)) is wanted


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "0.1.2.3", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1"),
        *("::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1"),
        *("2001:0:4136:e378:8000:63bf:3fff:fdd2",),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)
