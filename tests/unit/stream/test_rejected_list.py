"""What `meterproof rejected list` shows of a refusal."""

from meterproof_schemas.reasons import Reason
from meterproof_schemas.rejection import RejectionHeader, make_rejection
from meterproof_stream.commands.rejected import refusal_text


def _refused(reason: Reason, line: int | None, first_digest: str | None = None) -> RejectionHeader:
    place = {"partition": 3, "offset": 17, "line": line, "append_ms": 1_767_225_600_000, "producer": "gateway"}
    return make_rejection(reason, "why", b"{}", first_digest=first_digest, **place).header  # type: ignore[arg-type]


def test_of_an_id_with_other_content_both_contents_are_shown() -> None:
    header = _refused(Reason.CONFLICTING_ID, 4, "ab" * 32)
    assert refusal_text(header) == (
        f"2026-01-01T00:00:00.000Z  p3@17 line 4  conflicting_id  gateway: why (first {'ab' * 32}, now {header.digest})"
    )


def test_of_other_refusals_place_reason_and_detail_are_shown() -> None:
    header = _refused(Reason.BAD_ROOT, None)
    assert refusal_text(header) == "2026-01-01T00:00:00.000Z  p3@17 whole batch  bad_root  gateway: why"
