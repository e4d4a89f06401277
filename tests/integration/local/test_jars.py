"""A jar is used only with the bytes of the lock, wherever it came from; the mirror is a real HTTP server."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from meterproof_local.errors import JarError
from meterproof_local.jars import Jar, Progress, cache_folder, fetch_jars, kafka_version, maven_repository, read_lock

CONTENT = {name: name.encode() * 50_000 for name in ("org/example/a/1/a-1.jar", "org/example/b/2/b-2.jar")}
JARS = [Jar(hashlib.sha256(content).hexdigest(), len(content), path) for path, content in CONTENT.items()]


@dataclass
class Mirror:
    """What the server is to do: per path, faults for the first requests, then the right bytes."""

    address: str = ""
    faults: dict[str, list[str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Mirror]:
    plan = Mirror()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.removeprefix("/maven2/")
            plan.requests.append(path)
            fault = plan.faults.get(path, [])[:1]
            plan.faults[path] = plan.faults.get(path, [])[1:]
            content = CONTENT[path]
            if fault and fault[0].isdigit():
                self.send_error(int(fault[0]))
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if fault == ["cut"]:
                content = content[:1000]
            elif fault == ["damaged"]:
                content = content[:-1] + b"\0"
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("M2_REPO", str(tmp_path / "no-maven-here"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        plan.address = f"http://127.0.0.1:{server.server_address[1]}/maven2"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield plan
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


def fetch(mirror: Mirror, cache: Path) -> list[bytes]:
    pauses: list[float] = []
    paths = fetch_jars(cache, JARS, base=mirror.address, tries=3, pause=pauses.append)
    assert all(0 < pause <= 12 for pause in pauses)
    return [path.read_bytes() for path in paths]


def test_fetched_once_in_the_order_of_the_lock(mirror: Mirror, cache: Path) -> None:
    seen: list[Progress] = []
    for _ in range(2):
        paths = fetch_jars(cache, JARS, base=mirror.address, on_progress=seen.append)
        assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    assert mirror.requests == list(CONTENT)
    total = sum(map(len, CONTENT.values()))
    assert [(step.jars, step.bytes, step.fetched) for step in seen] == [
        (1, JARS[0].size, 1),
        (2, total, 2),
        (1, JARS[0].size, 0),
        (2, total, 0),
    ]
    assert {(step.jars_total, step.bytes_total) for step in seen} == {(2, total)}


@pytest.mark.parametrize("damage", [b"", b"short", None], ids=["empty", "short", "one byte"])
def test_a_jar_damaged_in_the_cache_is_fetched_again(mirror: Mirror, cache: Path, damage: bytes | None) -> None:
    fetch(mirror, cache)
    victim = cache / JARS[1].name
    victim.write_bytes(victim.read_bytes()[:-1] + b"\0" if damage is None else damage)
    assert fetch(mirror, cache) == list(CONTENT.values())
    assert mirror.requests == [*CONTENT, JARS[1].path]


@pytest.mark.parametrize("fault", ["cut", "damaged", "500", "503", "429"])
def test_a_passing_fault_is_tried_again(mirror: Mirror, cache: Path, fault: str) -> None:
    mirror.faults = {JARS[0].path: [fault, fault]}
    assert fetch(mirror, cache) == list(CONTENT.values())
    assert mirror.requests == [JARS[0].path] * 3 + [JARS[1].path]


@pytest.mark.parametrize("fault", ["cut", "damaged", "500"])
def test_a_lasting_fault_is_refused_and_leaves_nothing(mirror: Mirror, cache: Path, fault: str) -> None:
    mirror.faults = {JARS[1].path: [fault] * 3}
    with pytest.raises(JarError, match=r"could not fetch .*b-2\.jar.*METERPROOF_MAVEN_MIRROR"):
        fetch(mirror, cache)
    assert [path.name for path in cache.iterdir()] == [JARS[0].name]


def test_what_the_mirror_does_not_have_is_not_asked_for_again(mirror: Mirror, cache: Path) -> None:
    mirror.faults = {JARS[0].path: ["404"] * 3}
    with pytest.raises(JarError, match="404"):
        fetch(mirror, cache)
    assert mirror.requests == [JARS[0].path]


def test_a_mirror_that_does_not_answer_is_an_error_of_ours(cache: Path, mirror: Mirror) -> None:
    mirror.address = "http://127.0.0.1:9"
    with pytest.raises(JarError, match="Check the network"):
        fetch(mirror, cache)


def test_a_local_maven_repository_is_used_if_its_bytes_are_right(
    mirror: Mirror, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
    for path, content in CONTENT.items():
        (tmp_path / "m2" / path).parent.mkdir(parents=True)
        (tmp_path / "m2" / path).write_bytes(content if path == JARS[0].path else content[:-1] + b"\0")
    assert fetch(mirror, cache) == list(CONTENT.values())
    assert mirror.requests == [JARS[1].path]


def test_the_mirror_is_named_by_the_environment_else_by_jgo() -> None:
    assert maven_repository({"METERPROOF_MAVEN_MIRROR": "https://mirror.example/m"}) == "https://mirror.example/m"
    assert maven_repository({}).startswith("https://")


def test_where_the_cache_lies(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    assert cache_folder(data, {"XDG_CACHE_HOME": str(tmp_path / "x")}) == tmp_path / "x" / "meterproof"
    chosen = {"METERPROOF_CACHE": str(tmp_path / "c"), "XDG_CACHE_HOME": str(tmp_path / "x")}
    assert cache_folder(data, chosen) == tmp_path / "c"
    (tmp_path / "file").touch()
    assert cache_folder(data, {"XDG_CACHE_HOME": str(tmp_path / "file")}) == data / "cache"
    with pytest.raises(JarError, match="METERPROOF_CACHE"):
        cache_folder(data, {"METERPROOF_CACHE": str(tmp_path / "file" / "c")})


def test_the_lock_holds_one_whole_kafka() -> None:
    jars = read_lock()
    assert kafka_version() == "4.3.1"
    assert len({jar.path for jar in jars}) == len({jar.name for jar in jars}) == len(jars) == 46
    assert sum(jar.size for jar in jars) == 45_035_715
    assert {jar.path.split("/")[-2] for jar in jars if jar.path.startswith("org/apache/kafka/")} == {"4.3.1"}
