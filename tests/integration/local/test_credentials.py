"""Every worker and command against a broker that asks for credentials (SCRAM, PLAIN, TLS): told by settings alone."""

import asyncio
import datetime as dt
import ipaddress
import json
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from meterproof.deployment import DataFolder
from meterproof.status import read_status
from meterproof_local.broker import LocalBroker
from meterproof_local.ports import choose_ports
from meterproof_local.setup import SetupWish, set_up, write_deployment
from meterproof_local.supervisor import worker_specs
from meterproof_local.worker import Worker, WorkerSpec
from tests.integration.local.conftest import environment
from tests.meterproof_command import PROGRAM

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.slow]

USER, PASSWORD, WRONG = "meter", "s3cret-of-the-user", "n0t-the-passw0rd"
EVENTS = 20
_PATIENCE_S = 120.0
_IN_THE_CLEAR = "Sending username and password in the clear"
"""What the client library says, rightly, of PLAIN without TLS."""
_JAAS = "org.apache.kafka.common.security"


@dataclass(frozen=True)
class Secured:
    """A broker with a listener for each way to say who one is."""

    ports: dict[str, int]
    certificate: Path

    def variables(self, way: str, password: str = PASSWORD) -> dict[str, str]:
        """All that a process is told of the broker."""
        protocol, mechanism = way.split(" ")
        return {
            "METERPROOF_KAFKA_BOOTSTRAP": f"127.0.0.1:{self.ports[protocol]}",
            "METERPROOF_KAFKA_SECURITY_PROTOCOL": protocol,
            "METERPROOF_KAFKA_SASL_MECHANISM": mechanism,
            "METERPROOF_KAFKA_SASL_USERNAME": USER,
            "METERPROOF_KAFKA_SASL_PASSWORD": password,
            "METERPROOF_KAFKA_SSL_CAFILE": str(self.certificate),
            "METERPROOF_KAFKA_REQUEST_TIMEOUT_S": "10",
        }


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    certificate = _self_signed(folder)
    broker, controller, sasl, tls = choose_ports(4)
    addresses = [f"PLAIN://127.0.0.1:{broker}", f"SASL://127.0.0.1:{sasl}", f"TLS://127.0.0.1:{tls}"]
    (folder / "data").mkdir()
    (folder / "data" / "ports.json").write_text(json.dumps({"broker": broker, "controller": controller}))
    scram = f"{_JAAS}.scram.ScramLoginModule required;"
    with LocalBroker(
        folder / "data",
        format_options=["--add-scram", f"SCRAM-SHA-256=[name={USER},password={PASSWORD}]"],
        properties={
            "listeners": ",".join([*addresses, f"CONTROLLER://127.0.0.1:{controller}"]),
            "advertised.listeners": ",".join(addresses),
            "listener.security.protocol.map": ("PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SASL_SSL"),
            "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
            "listener.name.sasl.plain.sasl.jaas.config": (
                f'{_JAAS}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
            ),
            "listener.name.sasl.scram-sha-256.sasl.jaas.config": scram,
            "listener.name.tls.sasl.enabled.mechanisms": "SCRAM-SHA-256",
            "listener.name.tls.scram-sha-256.sasl.jaas.config": scram,
            "listener.name.tls.ssl.keystore.type": "PEM",
            "listener.name.tls.ssl.keystore.location": str(folder / "server.pem"),
        },
    ):
        yield Secured({"SASL_PLAINTEXT": sasl, "SASL_SSL": tls}, certificate)


def _self_signed(folder: Path) -> Path:
    """A certificate of 127.0.0.1 that vouches for itself, and beside it `server.pem`, with its private key."""
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kafka")])
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.pem").write_bytes(secret + certificate)
    (folder / "ca.pem").write_bytes(certificate)
    return folder / "ca.pem"


def _meterproof(*arguments: str, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*PROGRAM, *arguments],
        env=environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _ended(*processes: "subprocess.Popen[str]") -> list[tuple[int, str, list[str]]]:
    """Of each: exit code, output, and lines of standard error, none of which holds a secret."""
    found = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=_PATIENCE_S)
            assert PASSWORD not in out + err
            assert WRONG not in out + err
            found.append((process.returncode, out, [line for line in err.splitlines() if line != _IN_THE_CLEAR]))
    finally:
        for process in processes:
            process.kill()
    return found


def _run(variables: dict[str, str], *arguments: str) -> str:
    """What a command prints that must succeed."""
    [(code, out, err)] = _ended(_meterproof(*arguments, **variables))
    assert code == 0, f"meterproof {' '.join(arguments)}: {out}{err}"
    return out


@asynccontextmanager
async def _running(specs: list[WorkerSpec], folder: DataFolder) -> AsyncIterator[list[Worker]]:
    workers = [Worker(spec, folder.logs, folder.root) for spec in specs]
    try:
        for worker in workers:
            worker.start(time.monotonic())
        yield workers
        for worker in workers:
            worker.ask_to_stop(time.monotonic())
        for worker in workers:
            while not worker.has_ended(time.monotonic()):  # noqa: ASYNC110 - a process, which no event tells of
                await asyncio.sleep(0.1)
            assert worker.exit_code == 0, worker.last_words()
    finally:
        for worker in workers:
            worker.end()


async def _carried(folder: DataFolder, workers: list[Worker]) -> None:
    """Wait until each worker says that it has carried what was sent, or, of webhooks, that it is ready to."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while waiting := [worker for worker in workers if not _has_carried(folder, worker.spec.status)]:
        assert time.monotonic() < deadline_s, [(worker.spec.name, worker.last_words()) for worker in waiting]
        assert not [worker.last_words() for worker in workers if worker.pid is None]
        await asyncio.sleep(0.1)


def _has_carried(folder: DataFolder, name: str) -> bool:
    status = read_status(folder.status, name) or {}
    if name == "webhook":
        return bool(status.get("ready"))
    part = status.get("partitions", {}).get("0", {})
    events = {"sequencer-0": "position", "checkpointer-0": "signed_size"}
    if name in events:
        return int(part.get(events[name]) or 0) >= EVENTS
    return int(part.get("marked" if name == "budgets-0" else "log_offset") or 0) >= 1


async def test_every_worker_and_command_comes_up_by_settings_alone(
    secured: Secured, tmp_path: Path, topic_prefix: str
) -> None:
    variables = secured.variables("SASL_SSL SCRAM-SHA-256") | {"METERPROOF_KAFKA_TOPIC_PREFIX": topic_prefix}
    folder = DataFolder(tmp_path / "data")
    deployment = set_up(folder, SetupWish(name="meter.example.com/secured", deployment="secured", partitions=1))
    data = ("--data", str(folder.root))
    (folder.root / "pager.secret").write_text("whsec_" + "A" * 32)
    (folder.root / "pager.secret").chmod(0o600)
    folder.webhooks.write_text(
        json.dumps(
            {
                "version": 1,
                "endpoints": [
                    {
                        "name": "pager",
                        "url": "https://hooks.example.com",
                        "secret_file": "pager.secret",
                        "since": "2026-01-01T00:00:00.000Z",
                    }
                ],
            }
        )
    )
    names = ("--name", deployment.name, "--deployment", deployment.deployment)
    created = _run(variables, "topics", "create", *names, *data, "--partitions=1", "--replication-factor=1", "--json")
    # What `meterproof up` knows of its own broker stands there; variables come first.
    write_deployment(folder, deployment, "127.0.0.1:1", json.loads(created)["origins"])
    assert "published version" in _run(variables, "prices", "publish", str(folder.price_book), *data)
    assert "failed" not in _run(variables, "doctor", *data)

    specs = [replace(spec, variables=variables) for spec in worker_specs(folder, 1)]
    assert len(specs) == 6
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        + "".join(f"2023-11-16 18:17:{number:02}.0000000,{number + 1},1\n" for number in range(EVENTS))
    )
    async with _running(specs, folder) as workers:
        _run(variables, "replay", str(trace), *data, "--run", "secured")
        await _carried(folder, workers)
    assert f" {EVENTS} " in _run(variables, "reconcile", *data)
    others = [
        ("topics", "check"),
        ("prices", "list"),
        ("rejected", "list"),
        ("budgets", "show"),
        ("log", "trim"),
        ("sink", "webhook", "dead"),
    ]
    ended = _ended(*[_meterproof(*command, *data, **variables) for command in others])
    for command, (code, out, told) in zip(others, ended, strict=True):
        assert code == 0, (command, out, told)
    [(_, _, [line])] = _ended(_meterproof("sequencer", "leave", "nobody", *data, **variables))
    assert "is no member" in line
    for log in folder.logs.iterdir():
        assert PASSWORD not in log.read_text()
    for status in folder.status.iterdir():
        assert PASSWORD not in status.read_text()


@pytest.mark.parametrize("way", ["SASL_PLAINTEXT PLAIN", "SASL_PLAINTEXT SCRAM-SHA-256", "SASL_SSL SCRAM-SHA-256"])
def test_a_wrong_password_is_one_line_and_a_right_one_gets_in(way: str, secured: Secured, tmp_path: Path) -> None:
    data = ("--data", str(tmp_path))
    [(code, out, err)] = _ended(_meterproof("topics", "check", *data, **secured.variables(way)))
    assert (code, err) == (1, [])
    assert "does not exist" in out
    set_up(DataFolder(tmp_path), SetupWish())
    commands = [("topics", "check"), ("sequencer", "run"), ("sink", "audit", "run")]
    if way.startswith("SASL_SSL"):
        commands += [("sequencer", "run", "--runtime=asyncio"), ("checkpointer", "run"), ("budgets", "run")]
        commands += [("sink", "clickhouse", "run"), ("prices", "list"), ("rejected", "list"), ("budgets", "show")]
    refused = _ended(*[_meterproof(*command, *data, **secured.variables(way, WRONG)) for command in commands])
    for command, (code, out, err) in zip(commands, refused, strict=True):
        assert code == 1, (command, out, err)
        (line,) = err
        assert "denies access" in line
        assert "_SASL_PASSWORD" in line


def test_a_broker_that_cannot_be_trusted_is_told_with_the_cause(secured: Secured, tmp_path: Path) -> None:
    variables = secured.variables("SASL_SSL SCRAM-SHA-256")
    del variables["METERPROOF_KAFKA_SSL_CAFILE"]
    [(code, _, [line])] = _ended(_meterproof("topics", "check", "--data", str(tmp_path), **variables))
    assert code == 1
    assert "certificate verify failed" in line
    variables["METERPROOF_KAFKA_SSL_CAFILE"] = str(tmp_path / "no-such.pem")
    [(code, _, [line])] = _ended(_meterproof("topics", "check", "--data", str(tmp_path), **variables))
    assert code == 1
    assert "no-such.pem" in line
