"""When a sink counts as catching up."""

from meterproof_sinks.backlog import Backlog
from tests.builders import make_event
from tests.log_builder import LogBuilder


def test_what_had_waited_is_a_backlog_until_news_are_old() -> None:
    log = LogBuilder()
    log.batch([make_event()])
    appended_s = log.records[-1][1].header.append_ms / 1000
    now_s = [appended_s + 9.0]
    backlog = Backlog(lambda: now_s[0])
    found = [backlog.waits]
    backlog.note([])
    backlog.note(log.records)
    found.append(backlog.waits)  # it came in just now
    now_s[0] = appended_s + 60.0
    found.append(backlog.waits)
    backlog.note(log.records)
    found.append(backlog.waits)
    now_s[0] += 4.0
    found.append(backlog.waits)
    now_s[0] += 2.0
    found.append(backlog.waits)  # nothing was written since
    assert found == [False, False, False, True, True, False]
