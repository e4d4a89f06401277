"""Until when a log can bring an event of a time: held to what the sequencer's own rules accept."""

import pytest

from meterproof_schemas.correction import correction_line
from meterproof_sinks.late_arrivals import LogEnd, end_of_month_ms
from tests.builders import NOW_MS, make_event, make_genesis_record, make_limits
from tests.log_builder import LogBuilder

_HORIZON_MS = 3 * 86_400_000
_TOLERANCE_MS = 60_000
_LATENESS_MS = _HORIZON_MS + _TOLERANCE_MS


def _end(
    clock_ms: int | None, *, lags: bool = False, signed_ms: int | None = None, lateness_ms: int | None = _LATENESS_MS
) -> LogEnd:
    return LogEnd("log/e/p0", clock_ms, lags, signed_ms, lateness_ms)


@pytest.mark.parametrize("kind", ["event", "void", "replace"])
def test_what_is_accepted_can_come_and_what_is_refused_need_not_be_waited_for(kind: str) -> None:
    """A correction is as old as what it corrects, however late it is said."""
    limits = make_limits(horizon_ms=_HORIZON_MS, future_tolerance_ms=_TOLERANCE_MS, corrections=True)
    verdicts = {}
    for after_ms in (_HORIZON_MS - 1, _HORIZON_MS, _LATENESS_MS - 1, _LATENESS_MS):
        log = LogBuilder(genesis_value=make_genesis_record(limits=limits))
        event = make_event(subject=log.agent, time_ms=NOW_MS - 1)
        line = event
        if kind != "event":
            log.batch([event], after_ms=0)
            line = correction_line(event, correction_id="c", kind=kind, salt="0" * 32, usage={"requests": 1})
        clock_ms = log.tick(NOW_MS + after_ms - log.clock_ms).header.clock_ms
        assert clock_ms == NOW_MS + after_ms
        accepted = log.batch([line], after_ms=0).header.accepted == 1
        verdicts[after_ms] = accepted, _end(clock_ms).can_bring(NOW_MS) is None
    assert verdicts == {
        _HORIZON_MS - 1: (True, False),
        _HORIZON_MS: (False, False),
        _LATENESS_MS - 1: (False, False),
        _LATENESS_MS: (False, True),
    }


def test_an_idle_log_has_come_as_far_as_the_newest_checkpoint() -> None:
    settled_ms = NOW_MS + _LATENESS_MS
    idle = _end(NOW_MS, signed_ms=settled_ms)
    assert idle.can_bring(NOW_MS) is None
    assert "2026-01-04T00:01:00.001Z" in (idle.can_bring(NOW_MS + 1) or ""), "says until when"
    assert "more of it is known" in (_end(NOW_MS, lags=True, signed_ms=settled_ms).can_bring(NOW_MS) or "")
    assert _end(settled_ms, lags=True).can_bring(NOW_MS) is None, "what it lacks is younger"
    assert "checkpoint" in (_end(NOW_MS).can_bring(NOW_MS) or ""), "without one nobody knows that it is idle"
    assert "nothing of it is in" in (_end(None, lags=True).can_bring(NOW_MS) or "")
    assert "not known" in (_end(settled_ms, lateness_ms=None).can_bring(NOW_MS) or "")


def test_a_month_is_over_when_the_next_begins() -> None:
    assert end_of_month_ms(202512) == NOW_MS
    assert end_of_month_ms(202602) - end_of_month_ms(202601) == 28 * 86_400_000
