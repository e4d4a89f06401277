"""The local broker keeps what it promises, on real processes and real files."""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from meterproof_local import broker as broker_module
from meterproof_local.broker import LocalBroker, new_cluster_id
from meterproof_local.containers import ContainerBroker
from meterproof_local.errors import BrokerError
from meterproof_local.jars import cache_folder, fetch_jars
from meterproof_local.ports import is_free
from meterproof_local.readiness import ask_cluster

pytestmark = pytest.mark.broker

Broker = LocalBroker | ContainerBroker


async def create(broker: Broker, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
        assert [error[1] for error in answer.topic_errors] == [0]
    finally:
        await admin.close()


async def produce(broker: Broker, topic: str, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all", enable_idempotence=True)
    async with producer:
        for value in values:
            await producer.send_and_wait(topic, value)


async def consume(broker: Broker, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")
    async with consumer:
        return [(await asyncio.wait_for(consumer.getone(), 180)).value for _ in range(count)]


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what must happen; the limit only turns a hang into a failure."""
    limit = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < limit, "did not happen within a minute"
        time.sleep(0.02)


def port_of(broker: Broker) -> int:
    return int(broker.bootstrap.rpartition(":")[2])


def read_ports(data: Path) -> dict[str, int]:
    ports: dict[str, int] = json.loads((data / "ports.json").read_text())
    return ports


async def test_records_go_in_and_come_out(broker: LocalBroker, topic_prefix: str) -> None:
    topic = topic_prefix + "a"
    await create(broker, topic)
    await produce(broker, topic, [b"1", b"2", b"3"])
    assert await consume(broker, topic, 3) == [b"1", b"2", b"3"]


async def test_acknowledged_records_and_ports_survive(tmp_path: Path) -> None:
    """Through kill -9, a clean restart, a freeze and a new object; in a folder whose name needs care."""
    data = tmp_path / "Zähler, 100 %"
    with LocalBroker(data) as broker:
        bootstrap, first_pid = broker.bootstrap, broker.pid
        await create(broker, "t")
        await produce(broker, "t", [b"1", b"2"])

        broker.kill()
        assert broker.poll() == -signal.SIGKILL
        assert is_free(port_of(broker))
        broker.restart()
        assert (broker.bootstrap, broker.poll()) == (bootstrap, None)
        assert broker.pid != first_pid
        await produce(broker, "t", [b"3"])

        broker.restart()
        assert broker.bootstrap == bootstrap
        assert await consume(broker, "t", 3) == [b"1", b"2", b"3"]

        broker.pause()
        assert ask_cluster("127.0.0.1", port_of(broker), timeout_s=0.3) is None
        broker.resume()
        wait_until(lambda: ask_cluster("127.0.0.1", port_of(broker)) is not None)
        broker.pause()
    assert broker.poll() == 143  # even when frozen it stops in an orderly way
    broker.close()

    with LocalBroker(data) as again:
        assert again.bootstrap == bootstrap
        assert await consume(again, "t", 3) == [b"1", b"2", b"3"]


async def test_taken_ports_are_replaced_and_records_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalBroker(tmp_path) as broker:
        await create(broker, "t")
        await produce(broker, "t", [b"1"])
        broker.stop()
        for name in ("broker", "controller"):
            ports = read_ports(tmp_path)
            with socket.create_server(("127.0.0.1", ports[name])), monkeypatch.context() as patch:
                # Another program takes the port after the check: only Kafka itself can find out.
                answers = iter([True, True])
                patch.setattr(broker_module, "is_free", lambda port, a=answers: next(a, None) or is_free(port))
                broker.start()
            assert not set(ports.values()) & set(read_ports(tmp_path).values())
            assert port_of(broker) == read_ports(tmp_path)["broker"]
            assert await consume(broker, "t", 1) == [b"1"]
            assert "Address already in use" in (tmp_path / "logs" / "kafka.log").read_text()
            (tmp_path / "logs" / "kafka.log").unlink()
            broker.kill()


PARENT = """
import sys, time
from pathlib import Path
from meterproof_local.broker import LocalBroker
broker = LocalBroker(Path(sys.argv[1])).start()
print(broker.pid, broker.bootstrap, flush=True)
time.sleep(600)
"""


def test_broker_dies_with_its_parent_and_the_folder_is_its_own_until_then(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, tmp_path], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, bootstrap = parent.stdout.readline().split()
        port = int(bootstrap.rpartition(":")[2])
        assert ask_cluster("127.0.0.1", port) is not None
        with pytest.raises(BrokerError, match="another broker uses"):
            LocalBroker(tmp_path).start()
        assert ask_cluster("127.0.0.1", port) is not None
        parent.kill()
    wait_until(lambda: is_free(port))
    stat = Path("/proc", pid, "stat")
    wait_until(lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z")
    with LocalBroker(tmp_path) as broker:
        assert broker.bootstrap == bootstrap


def test_only_the_main_thread_may_start_it(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def start() -> None:
        try:
            LocalBroker(tmp_path).start()
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])
    with (tmp_path / "lock").open() as lock:  # and it left the folder free
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_kafka_said_stands_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=r"(?s)could not format .*process\.roles"):
        LocalBroker(tmp_path, properties={"process.roles": "sequencer"}).start()


def test_what_java_said_stands_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=r"(?s)exit code 1.*no-such-option"):
        LocalBroker(tmp_path, java_options=["-XX:+no-such-option"]).start()


def test_a_data_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(BrokerError, match="choose another"):
        LocalBroker(tmp_path / "data").start()


def test_cluster_id_never_begins_with_a_dash() -> None:
    draws: Iterator[uuid.UUID] = iter([uuid.UUID(int=0xF8 << 120), uuid.UUID(int=0xFB << 120), uuid.UUID(int=1)])
    assert new_cluster_id(lambda: next(draws)) == "AAAAAAAAAAAAAAAAAAAAAQ"
    assert next(draws, None) is None


@pytest.mark.slow
def test_third_start_uses_a_recorded_startup_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = cache_folder(tmp_path)
    own = tmp_path / "cache"
    own.mkdir()
    for jar in fetch_jars(shared):
        shutil.copy2(jar, own)
    monkeypatch.setenv("METERPROOF_CACHE", str(own))

    def mapped_caches() -> list[str]:
        """Start and stop a broker; return the caches that Java had mapped into its memory."""
        with LocalBroker(tmp_path / "kafka") as broker:
            maps = Path("/proc", str(broker.pid), "maps").read_text()
        return sorted({line.split()[-1] for line in maps.splitlines() if "/startup-" in line})

    assert mapped_caches() == []
    assert mapped_caches() == []
    kept = [str(path) for path in own.glob("startup-*") if path.suffix != ".seen"]
    assert len(kept) == 1
    assert len(list(own.glob("formatted-*.zip"))) == 1, "what the first start wrote is for the next new folder"
    assert mapped_caches() == kept


def broker_command(data: Path) -> list[str | Path]:
    return [Path(sys.executable).with_name("meterproof"), "broker", "run", "--json", "--data", data]


def test_command_runs_in_the_foreground_until_it_is_interrupted(tmp_path: Path) -> None:
    command = broker_command(tmp_path)
    for how in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            ready = json.loads(running.stdout.readline())
            host, _, port = ready["bootstrap"].partition(":")
            assert ask_cluster(host, int(port)) is not None
            running.send_signal(how)
            assert running.wait(180) == 0
        assert is_free(int(port))


def test_command_says_so_when_kafka_ends_by_itself(tmp_path: Path) -> None:
    command = broker_command(tmp_path)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        os.kill(json.loads(running.stdout.readline())["pid"], signal.SIGKILL)
        _, errors = running.communicate(timeout=180)
    assert running.returncode == 1
    assert "Kafka ended by itself (exit code -9)" in errors


@pytest.mark.containers
@pytest.mark.usefixtures("docker")
async def test_container_keeps_records_and_port(topic_prefix: str) -> None:
    with ContainerBroker() as broker:
        bootstrap = broker.bootstrap
        await create(broker, topic_prefix + "a")
        await produce(broker, topic_prefix + "a", [b"1"])
        broker.kill()
        broker.restart()
        assert broker.bootstrap == bootstrap
        assert await consume(broker, topic_prefix + "a", 1) == [b"1"]
