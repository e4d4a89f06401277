"""The audit folder gives every record back, byte for byte, and says where it does not."""

from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st

from meterproof_sinks.audit_folder import log_folder_name, read_records, records
from meterproof_sinks.audit_log import AuditLog
from tests.log_builder import make_log


@given(st.text(min_size=1))
def test_a_folder_name_stands_for_one_origin_and_is_one_name(origin: str) -> None:
    try:
        origin.encode()
    except UnicodeEncodeError:
        return
    name = log_folder_name(origin)
    assert "/" not in name
    assert len(name) <= 255
    if not name.startswith("sha256-"):
        assert "/".join(map(unquote, name.split("~"))) == origin, "it says which log it is of"


def test_a_folder_name_can_be_read() -> None:
    assert log_folder_name("meter.example.com/production/00ff/p3") == "meter.example.com~production~00ff~p3"
    assert log_folder_name("a~b/c") == "a%7Eb~c"


def test_a_name_that_no_file_system_takes_is_hashed() -> None:
    origin = "é" * 128 + "/00/p0"
    assert log_folder_name(origin) == f"sha256-{sha256(origin.encode()).hexdigest()}"


def test_every_record_comes_back_byte_for_byte(tmp_path: Path) -> None:
    log = make_log()
    writer = AuditLog(tmp_path / "log", log.origin, 0)
    writer.append(log.records)
    writer.close()
    assert list(records(tmp_path / "log")) == log.records
    assert [stored.value for stored in read_records(tmp_path / "log")] == [record.value for _, record in log.records]
    assert (tmp_path / "log" / f"{0:020}.jsonl").read_bytes() == b"".join(
        line + b"\n" for _, record in log.records for line in record.lines
    )
