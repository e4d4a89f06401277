"""What was signed before holds the signer: roots, sizes that are passed over, logs that end too early, two memories."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproof_proofs.checkpoint import Checkpoint, sign_checkpoint
from meterproof_proofs.note import Signer
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.reasons import StopReason
from meterproof_sinks.audit_folder import log_folder_name
from meterproof_sinks.audit_log import AuditLog
from meterproof_stream.signed_before import AuditMemory, Remembered, SignedBefore, trees_of
from meterproof_stream.witness_folder import WitnessFolder
from tests.log_builder import make_log, signed_pair

ORIGIN = "meter.example.com/test/00/p0"
SIGNER = Signer(ORIGIN, bytes(32))


def root(size: int, fork: int = 0) -> bytes:
    """A root that stands for the tree of a size, in one of several histories."""
    return bytes([fork]) + size.to_bytes(31)


def remembered(size: int, fork: int = 0, where: str = "here") -> Remembered:
    return Remembered(Checkpoint(ORIGIN, size, root(size, fork)), where)


def note(size: int, fork: int = 0) -> bytes:
    return sign_checkpoint(Checkpoint(ORIGIN, size, root(size, fork)), [SIGNER])


@given(st.sets(st.integers(1, 30), min_size=1), st.lists(st.integers(1, 5), min_size=12, max_size=12))
def test_a_log_that_gives_every_root_is_signed_on_and_any_other_is_not(signed: set[int], steps: list[int]) -> None:
    boundaries = {sum(steps[: count + 1]) for count in range(len(steps))}
    before = SignedBefore([remembered(size) for size in signed])
    passed_over = {size for size in signed if size <= max(boundaries)} - boundaries
    try:
        for size in sorted(boundaries):
            before.meet(ORIGIN, size, root(size))
    except StageStopped as stopped:
        assert "does not give" in str(stopped)  # noqa: PT017 - only where a size is passed over
        assert passed_over
        return
    assert not passed_over
    if max(signed) > max(boundaries):
        assert not before.is_met
        with pytest.raises(StageStopped, match="ends before it"):
            before.must_be_met()
    else:
        assert before.is_met
        before.must_be_met()


def test_another_root_at_a_signed_size_stops_and_names_who_has_it() -> None:
    before = SignedBefore([remembered(3), remembered(7, where="the audit folder")])
    before.meet(ORIGIN, 3, root(3))
    with pytest.raises(StageStopped, match="the audit folder") as caught:
        before.meet(ORIGIN, 7, root(7, fork=1))
    assert caught.value.stop_reason is StopReason.LOG_DIVERGED


def test_two_memories_of_two_histories_stop_at_once() -> None:
    with pytest.raises(StageStopped, match="one and other"):
        SignedBefore([remembered(3, where="one"), remembered(3, fork=1, where="other")])
    assert not SignedBefore([remembered(3, where="one"), remembered(3, where="other")]).is_met


def test_trees_do_not_answer_for_each_other() -> None:
    before = SignedBefore([remembered(3)])
    before.meet(trees_of(ORIGIN)[1], 9, root(9))
    assert not before.is_met


def test_the_audit_folder_is_read_by_the_origin_in_it(tmp_path: Path) -> None:
    log, other = make_log(), make_log(epoch="0e" * 16)
    memory = AuditMemory(tmp_path / "audit")
    assert memory.notes(log.origin) == []
    for one in (other, log):
        writer = AuditLog(tmp_path / "audit" / log_folder_name(one.origin), one.origin, 0)
        writer.append(one.records)
        writer.take_checkpoints(signed_pair(one))
        writer.close()
    (tmp_path / "audit" / "junk").mkdir()
    (tmp_path / "audit" / "junk" / "log.json").write_bytes(b"not json")
    pair = signed_pair(log)
    assert pair.records is not None
    assert memory.notes(log.origin) == [pair.events.note, pair.records.note]
    assert memory.notes("meter.example.com/unknown") == []


def test_a_witness_folder_keeps_the_largest_and_one_root_per_size(tmp_path: Path) -> None:
    witness = WitnessFolder(tmp_path / "w")
    roots = {size: root(size) for size in (3, 5, 9)}

    def root_at(origin: str, size: int) -> bytes | None:
        return roots.get(size) if origin == ORIGIN else None

    assert witness.notes(ORIGIN) == []
    for size in (3, 5, 5):
        witness.remember([note(size)], root_at)
    assert witness.notes(ORIGIN) == [note(5)]
    for wrong, reason in (
        (note(3), StopReason.FENCED),
        (note(5, fork=1), StopReason.LOG_DIVERGED),
    ):
        with pytest.raises(StageStopped) as caught:
            witness.remember([wrong], root_at)
        assert caught.value.stop_reason is reason
        assert witness.notes(ORIGIN) == [note(5)]
    # A larger one by a signer whose own log never had what is there: a fork.
    for other in (root(5, fork=1), None):
        roots.pop(5)
        if other is not None:
            roots[5] = other
        with pytest.raises(StageStopped, match="does not give"):
            witness.remember([note(9)], root_at)
        roots[5] = root(5)
    assert WitnessFolder(tmp_path / "w").notes(ORIGIN) == [note(5)]
