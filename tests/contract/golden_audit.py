"""Makes the newest golden audit folder; `python -m tests.contract.golden_audit` writes it, once per version.

Each is what a version wrote, not what the newest one would write: never made again. A later version that writes
something else gets a folder of its own beside them, and must go on reading and extending all. `v1` has plain segments
only; `v2` has sealed ones, and one of them was erased from.
"""

from pathlib import Path
from typing import Final

from meterproof_proofs.note import Signer
from meterproof_sinks.audit_folder import log_folder_name
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.segment_writer import SegmentLimits
from tests.audit_upkeep import erase_lines
from tests.builders import make_registry_file
from tests.log_builder import LogBuilder, signed_pair

FOLDERS: Final = Path(__file__).parent / "golden_audit"
VERSIONS: Final = ("v1", "v2")
LIMITS: Final = {"v1": SegmentLimits(bytes_max=120_000), "v2": SegmentLimits(bytes_max=1_500)}
SEED: Final = b"\x07" * 32
"""Of the log's key, for tests only."""


def golden_log() -> LogBuilder:
    """Full and partial tiles of two levels in the first tree, of one in the second; every shape of record."""
    log = LogBuilder()
    first = log.events(255)
    log.batch(first)
    log.batch([first[0], *log.events(2)])
    log.batch(first[:1])
    log.log_offset += 1
    log.source(b"not a batch\n")
    log.hole()
    log.batch([b'{"not":"an event"}', *log.events(40)])
    return log


def write(folder: Path) -> None:
    """Write the folder, with a publication in the middle and one before the last record, sealed, an event erased."""
    log = golden_log()
    (folder / "keys").mkdir(parents=True)
    (folder / "keys" / "registry.json").write_bytes(make_registry_file(log.key))
    vkeys = [signed.checkpoint.origin for signed in filter(None, (signed_pair(log).events, signed_pair(log).records))]
    lines = "".join(f"{Signer(origin, SEED).verifier.vkey}\n" for origin in vkeys)
    (folder / "keys" / "log.vkey").write_text(lines)
    writer = AuditLog(folder / "audit" / log_folder_name(log.origin), log.origin, 0, limits=LIMITS[VERSIONS[-1]])
    for end in (2, len(log.records) - 1):
        cursor = writer.cursor
        writer.append([one for one in log.records[:end] if cursor is None or one[0] > cursor.log_offset])
        writer.take_checkpoints(signed_pair(log, end - 1, seed=SEED))
    writer.append(log.records[-1:])
    while writer.seal_next():
        pass
    writer.close()
    erase_lines(folder / "audit", lambda line: b'"id":"e3"' in line)


if __name__ == "__main__":
    write(FOLDERS / VERSIONS[-1])
