"""What a cut-off write left behind a log's last whole record: set aside, so that the log can be gone on with."""

from meterproof_sinks.audit_segment import TornAudit
from meterproof_sinks.disk import Disk


def set_aside(torn: TornAudit, disk: Disk) -> int:
    """Move the bytes behind the last whole record to side files; how many.

    They are copied and synced before they are cut off.

    Raises:
        OSError: the disk refuses.
    """
    moved = 0
    for path, whole in ((torn.segment.events, torn.events_bytes), (torn.segment.records, torn.records_bytes)):
        with path.open("rb") as file:
            file.seek(whole)
            tail = file.read()
        if not tail:
            continue
        number = 1
        while (aside := path.with_name(f"{path.name}.{number}.torn")).exists():
            number += 1
        disk.replace(aside, tail)
        disk.truncate(path, whole)
        moved += len(tail)
    return moved
