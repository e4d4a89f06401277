"""`meterproof audit ship` and `fetch` over HTTP, with an S3 server of other people's (moto), as real processes."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from meterproof.status import read_status
from meterproof_sinks.object_store import ObjectDiffers, ObjectStore
from meterproof_sinks.verification import verify_folder
from tests.log_builder import LogBuilder
from tests.sealed_folder import write_sealed_folder

SECRET = "never-to-be-told"
PATIENCE_S = 120
_MAIN = "import sys; from meterproof_sinks.commands.audit import main; sys.exit(main(sys.argv[1:]))"
AUDIT = (sys.executable, "-c", _MAIN)


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """A server with a bucket named `audit`; the environment that a client of it needs."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        credential = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request"
        asking = HTTPConnection(host, int(port), timeout=PATIENCE_S)
        asking.request("PUT", "/audit", headers={"Authorization": credential})
        assert asking.getresponse().status == 200
        asking.close()
        yield {
            "AWS_ENDPOINT": endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }
    finally:
        server.stop()


@pytest.fixture
def log() -> LogBuilder:
    log = LogBuilder()
    for _ in range(8):
        log.batch(40)
    return log


@pytest.fixture
def audit(tmp_path: Path, log: LogBuilder) -> Path:
    """An audit folder with sealed segments."""
    folder = tmp_path / "data" / "audit"
    write_sealed_folder(folder, log, bytes_max=25_000)
    return folder


def meterproof(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*AUDIT, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_copy_in_s3_comes_back_and_holds(s3: dict[str, str], audit: Path, log: LogBuilder, tmp_path: Path) -> None:
    url = "s3://audit/deployments/one"
    shipped = meterproof(s3, "ship", url, "--folder", str(audit), "--json")
    assert shipped.returncode == 0, shipped.stderr
    (state,) = json.loads(shipped.stdout)["logs"].values()
    assert state["covered"] > 0
    again = meterproof(s3, "ship", url, "--folder", str(audit), "--json")
    assert json.loads(again.stdout)["objects"] == 0
    fetched = meterproof(s3, "fetch", url, str(tmp_path / "back"), "--json")
    assert fetched.returncode == 0, fetched.stderr
    report = verify_folder(tmp_path / "back", [log.signer.verifier])
    assert report.holds, report.all_faults
    assert (report.logs[0].events, report.logs[0].covered) == (state["events"], state["covered"])


def test_the_store_itself_refuses_to_replace_an_object(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    store = ObjectStore("s3://audit/deployments/two")
    assert store.put("a~b/c%2Fd", b"first")
    assert not store.put("a~b/c%2Fd", b"first")
    with pytest.raises(ObjectDiffers, match="c%2Fd"):
        store.put("a~b/c%2Fd", b"second")
    assert store.get("a~b/c%2Fd") == b"first"
    assert store.names("a~b") == {"a~b/c%2Fd": 5}
    assert store.folders() == ["a~b"]
    assert store.get("a~b/nothing") is None
    assert store.digest("a~b/nothing") is None


def test_what_keeps_it_from_copying_is_told_without_a_secret(s3: dict[str, str], audit: Path) -> None:
    nowhere = s3 | {"AWS_ENDPOINT": "http://127.0.0.1:9"}
    for environment, url, due in (
        (s3, "s3://no-such-bucket/x", "bucket"),
        (nowhere, "s3://audit/x", "127.0.0.1:9"),
    ):
        told = meterproof(environment, "ship", url, "--folder", str(audit))
        assert told.returncode == 1
        assert due in told.stderr
        assert SECRET not in told.stdout + told.stderr
        assert len(told.stderr.splitlines()) == 1
        assert not re.search("Traceback", told.stderr)


def test_the_worker_says_how_far_it_is_and_ends_when_asked(s3: dict[str, str], audit: Path) -> None:
    arguments = ["ship", "s3://audit/deployments/three", "--data", str(audit.parent), "--follow", "--interval-s", "0.2"]
    environment = os.environ | s3 | {"METERPROOF_HEALTH_PORT": "0"}
    worker = subprocess.Popen([*AUDIT, *arguments], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        until_s = time.monotonic() + PATIENCE_S
        while not ((status := read_status(audit.parent / "status", "audit-ship")) and status["logs"]):
            assert worker.poll() is None
            assert time.monotonic() < until_s
            time.sleep(0.05)
        assert (status["state"], status["away"]) == ("running", None)
        asking = HTTPConnection("127.0.0.1", status["health_port"], timeout=PATIENCE_S)
        asking.request("GET", "/readyz")
        assert asking.getresponse().status == 200
        asking.close()
        worker.terminate()
        _, told = worker.communicate(timeout=PATIENCE_S)
    finally:
        worker.kill()
        worker.wait()
    assert worker.returncode == 0, told
    assert SECRET not in told
    status = read_status(audit.parent / "status", "audit-ship")
    assert status is not None
    assert status["state"] == "stopped"
