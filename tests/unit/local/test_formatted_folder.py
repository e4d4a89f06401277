"""What Kafka's tool wrote once is copied for the next new folder: whole, with an id of its own, or not at all."""

import sys
from pathlib import Path

import pytest

from meterproof_local.broker import LocalBroker
from meterproof_local.formatted_folder import FormattedFolder

JARS = [Path("/cache/0123-kafka.jar"), Path("/cache/4567-clients.jar")]
PROPERTIES = "node.id=1\nlisteners=PLAIN://127.0.0.1:20000\nlog.dirs=kafka\n"
FILES = {
    "bootstrap.checkpoint": b"\x00\x01records",
    "meta.properties": b"#\nnode.id=1\ncluster.id=first\ndirectory.id=d\n",
    "__cluster_metadata-0/00000000000000000000-0000000000.checkpoint": b"\x00voters",
}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache that keeps `FILES`."""
    written, cache = tmp_path / "written", tmp_path / "cache"
    cache.mkdir()
    for name, content in FILES.items():
        file = written / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o400)
    FormattedFolder(cache, JARS, PROPERTIES).keep(written)
    return cache


def test_a_copy_is_the_same_but_for_the_id_of_the_cluster(cache: Path, tmp_path: Path) -> None:
    elsewhere = PROPERTIES.replace("20000", "20001")
    for cluster_id in ("second", "third"):
        folder = tmp_path / cluster_id / "kafka"
        folder.parent.mkdir()
        assert FormattedFolder(cache, JARS, elsewhere).copy_to(folder, cluster_id)
        own = FILES["meta.properties"].replace(b"first", cluster_id.encode())
        assert files_of(folder.parent) == {
            f"kafka/{name}": one for name, one in (FILES | {"meta.properties": own}).items()
        }


@pytest.mark.parametrize(
    ("jars", "properties"), [(JARS[:1], PROPERTIES), (JARS, PROPERTIES + "process.roles=broker\n"), (JARS, "node.id=2")]
)
def test_of_other_jars_or_settings_there_is_none(
    cache: Path, tmp_path: Path, jars: list[Path], properties: str
) -> None:
    assert not FormattedFolder(cache, jars, properties).copy_to(tmp_path / "kafka", "second")
    assert not (tmp_path / "kafka").exists()


def test_a_damaged_one_is_as_good_as_none_and_the_next_replaces_it(cache: Path, tmp_path: Path) -> None:
    kept, folder = FormattedFolder(cache, JARS, PROPERTIES), tmp_path / "kafka"
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    at = whole.index(b"voters")
    for damaged in (whole[:at] + b"w" + whole[at + 1 :], whole[: len(whole) // 2], b"", whole[:at]):
        file.write_bytes(damaged)
        assert not kept.copy_to(folder, "second")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "written"]
    kept.keep(tmp_path / "written")
    assert kept.copy_to(folder, "second")


def test_what_is_in_the_way_stays(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "usage.log-0").write_bytes(b"records")
    assert not FormattedFolder(cache, JARS, PROPERTIES).copy_to(tmp_path / "kafka", "second")
    assert files_of(tmp_path / "kafka") == {"usage.log-0": b"records"}


def test_a_cache_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "written").mkdir()
    FormattedFolder(tmp_path / "absent", JARS, PROPERTIES).keep(tmp_path / "written")
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(("lost", "options", "kept"), [(False, [], 1), (True, [], 0), (False, ["--add-scram"], 0)])
def test_what_is_not_the_tool_s_alone_is_kept_for_nobody(
    tmp_path: Path, lost: bool, options: list[str], kept: int
) -> None:
    """Records of a folder that lost its `meta.properties`, and what an option said, which may be a secret."""
    cache, folder = tmp_path / "cache", tmp_path / "data" / "kafka"
    cache.mkdir()
    (folder / "usage.log-0" if lost else folder.parent).mkdir(parents=True)
    tool = tmp_path / "tool.py"  # as little as a broker asks of Kafka's, which takes a second
    tool.write_text(
        "from pathlib import Path\n"
        "Path('kafka').mkdir(exist_ok=True)\n"
        "Path('kafka/meta.properties').write_text('cluster.id=first\\n')\n"
    )
    broker = LocalBroker(folder.parent, format_options=options)
    broker._prepare_folder()
    broker._configure(new_ports=False)
    assert broker._format([sys.executable, str(tool)], cache, JARS) == "first"
    assert len(list(cache.iterdir())) == kept
