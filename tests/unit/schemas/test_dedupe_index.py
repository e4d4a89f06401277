"""The index finds an identity exactly as long as it promises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproof_schemas.dedupe_index import MemoryIndex
from meterproof_schemas.fold import LogState
from meterproof_schemas.limits import FUTURE_TOLERANCE_MS
from meterproof_stream.judge import Judgement, judge
from meterproof_stream.record_builder import InForce, append_record
from tests.builders import NOW_MS, make_batch, make_event, make_genesis_record, make_key, make_limits, make_registry

HORIZON_MS = 1_000
KEEP_MS = HORIZON_MS + FUTURE_TOLERANCE_MS


def identity(number: int) -> bytes:
    return number.to_bytes(16)


def entry(number: int) -> bytes:
    return number.to_bytes(32)


def test_found_until_the_clock_passes_horizon_and_tolerance() -> None:
    index = MemoryIndex(KEEP_MS)
    index.add(identity(1), entry(1), 500)
    for clock_ms in (500, 501, 500 + HORIZON_MS, 500 + KEEP_MS):
        index.evict(clock_ms)
        assert index.get(identity(1)) == entry(1)
    index.evict(500 + KEEP_MS + 1)
    assert index.get(identity(1)) is None
    assert len(index) == 0


@given(
    st.lists(
        st.tuples(st.integers(0, KEEP_MS), st.integers(0, 3), st.booleans()),
        max_size=30,
    )
)
def test_holds_what_a_list_of_everything_would_say(steps: list[tuple[int, int, bool]]) -> None:
    index, everything, clock_ms, number = MemoryIndex(KEEP_MS), list[tuple[int, int]](), 0, 0
    for ahead_ms, count, again in steps:
        clock_ms += ahead_ms
        index.evict(clock_ms)
        everything = [(at_ms, known) for at_ms, known in everything if at_ms + KEEP_MS >= clock_ms]
        assert index.items() == {identity(known): entry(known) for _, known in everything}
        held = {known for _, known in everything}
        # An identity that was forgotten may come back; one that is held may not be added again.
        fresh = range(count) if again else range(number, number + count)
        new = [known for known in fresh if known not in held]
        number += count
        index.add(b"".join(map(identity, new)), b"".join(map(entry, new)), clock_ms)
        everything += [(clock_ms, known) for known in new]
        assert len(index) == len(everything)


def test_identities_without_entries_are_an_error() -> None:
    for identities, entries in ((identity(1) + identity(2), entry(1)), (b"", entry(1)), (identity(1)[1:], entry(1))):
        with pytest.raises(ValueError, match="an entry"):
            MemoryIndex(KEEP_MS).add(identities, entries, 0)


@pytest.mark.parametrize("tolerance_ms", [0, FUTURE_TOLERANCE_MS, 3 * FUTURE_TOLERANCE_MS])
@pytest.mark.parametrize(("beyond_ms", "expected"), [(None, "duplicate"), (0, "duplicate"), (1, "too_late")])
def test_what_the_index_forgets_the_horizon_refuses(tolerance_ms: int, beyond_ms: int | None, expected: str) -> None:
    """The latest event that can be accepted at a clock, sent again when the index is about to forget it, and then.

    Whatever the tolerance that the log's own genesis states.
    """
    after_ms = 0 if beyond_ms is None else HORIZON_MS + tolerance_ms + beyond_ms
    state, key = LogState(), make_key()
    limits = make_limits(horizon_ms=HORIZON_MS, future_tolerance_ms=tolerance_ms)
    state.offer(0, make_genesis_record(limits=limits))
    batch = make_batch([make_event("e", time_ms=NOW_MS + tolerance_ms)], key)

    def sequence(value: bytes, append_ms: int) -> Judgement:
        offset = state.next_source_offset
        judgement = judge(
            value,
            partition=0,
            offset=offset,
            append_ms=append_ms,
            state=state,
            registry=make_registry(key),
            meters={"requests"},
        )
        in_force = InForce("0" * 64, 0, "0" * 32, 1)
        append_record(state, judgement, log_offset=offset + 1, source_offset=offset, in_force=in_force)
        return judgement

    assert len(sequence(batch, NOW_MS).lines) == 1
    # The clock moves first, by a record of its own, so that the index has forgotten what it may.
    sequence(b"anything\n", NOW_MS + after_ms)
    assert len(state.index) == (0 if expected == "too_late" else 1)
    assert [verdict for _, verdict, _ in sequence(batch, NOW_MS + after_ms).not_accepted] == [expected]
