"""What the README shows of the audit folder: a stranger with a shell, zstd and jq can check a manifest as printed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from meterproof_sinks.audit_folder import log_folder_name
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.segment_writer import SegmentLimits
from tests.audit_upkeep import erase_lines
from tests.log_builder import LogBuilder

README = Path(__file__).parents[3] / "sinks" / "README.md"
NEEDED = ("bash", "zstdcat", "jq", "sha256sum")


def check(folder: Path) -> str:
    """Run the README's script in a log's folder; what it says."""
    section = README.read_text(encoding="utf-8").partition("### What a manifest says")[2]
    script = re.search(r"^```bash\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert script is not None
    done = subprocess.run(
        ["bash", "-c", script[1]], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.skipif(not all(map(shutil.which, NEEDED)), reason=f"{', '.join(NEEDED)} are not all on this machine")
def test_a_stranger_checks_sealed_segments_as_printed(tmp_path: Path) -> None:
    log = LogBuilder()
    for _ in range(6):
        log.batch(20)
    folder = tmp_path / "audit" / log_folder_name(log.origin)
    writer = AuditLog(folder, log.origin, 0, limits=SegmentLimits(bytes_max=8_000))
    writer.append(log.records)
    while writer.seal_next():
        pass
    writer.close()
    assert len(list(folder.glob("*.manifest.json"))) > 1
    assert not check(folder)
    line = log.records[1][1].lines[2]
    assert erase_lines(tmp_path / "audit", lambda one: one == line)[log.origin] == [2]
    assert not check(folder)
    for pattern in ("*[0-9].jsonl.zst", "*.records.jsonl.zst", "*.manifest.json"):
        file = min(folder.glob(pattern))
        good = file.read_bytes()
        file.write_bytes(good.replace(good[-9:-5], b"0000"))
        assert "manifest" in check(folder) if pattern.endswith("json") else file.name in check(folder)
        file.write_bytes(good)
    assert not check(folder)
