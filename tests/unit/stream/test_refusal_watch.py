"""A producer whose every event is refused is told by name, once, and cleared by the first event accepted."""

from typing import Any

import pytest

from meterproof_schemas.fold import LogState
from meterproof_schemas.keys import KeyRegistry
from meterproof_stream import refusal_watch
from meterproof_stream.judge import Judgement, judge, judge_hole
from meterproof_stream.refusal_watch import REFUSED_AFTER_S, RefusalWatch
from tests.builders import NOW_MS, SigningPair, make_batch, make_event, make_key, make_registry
from tests.log_builder import LogBuilder

KEY = make_key()
STRANGER = make_key("stranger")


class Producers:
    """Batches judged against one log, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.watch = RefusalWatch(monotonic_s=lambda: self.now_s)
        self.state: LogState = LogBuilder().state
        self.registry: KeyRegistry = make_registry(KEY)

    def send(self, key: SigningPair, *, usage: dict[str, Any] | None = None, **header: Any) -> Judgement:
        value = make_batch([make_event(usage=usage), make_event("e2", usage=usage)], key, **header)
        judgement = judge(
            value,
            partition=0,
            offset=0,
            append_ms=NOW_MS,
            state=self.state,
            registry=self.registry,
            meters={"requests"},
        )
        self.watch.note(judgement, value, self.registry.entries)
        return judgement


@pytest.fixture
def producers() -> Producers:
    return Producers()


def test_a_key_that_nobody_knows_is_told_once_and_only_after_its_time(producers: Producers) -> None:
    assert producers.send(STRANGER).reason is not None
    producers.now_s += REFUSED_AFTER_S - 1
    producers.send(STRANGER)
    assert producers.watch.refused() == []
    producers.now_s += 1
    (refused,), cleared = producers.watch.news()
    assert (refused.key_id, refused.events, refused.reason, cleared) == (STRANGER.key_id, 4, "unknown_key", [])
    assert producers.watch.news() == ([], [])
    assert [one["refused_s"] for one in producers.watch.as_json()] == [REFUSED_AFTER_S]


def test_lines_that_are_all_refused_count_and_one_accepted_event_clears(producers: Producers) -> None:
    assert producers.send(KEY, usage={"teapots": 1}).lines == []
    producers.now_s += REFUSED_AFTER_S
    (refused,), _ = producers.watch.news()
    assert (refused.key_id, refused.reason) == (KEY.key_id, "unknown_meter")
    assert producers.send(KEY).lines
    assert [one.key_id for one in producers.watch.news()[1]] == [KEY.key_id]
    assert producers.watch.refused() == []


def test_an_event_accepted_in_between_begins_the_time_anew(producers: Producers) -> None:
    producers.send(KEY, usage={"teapots": 1})
    producers.now_s += REFUSED_AFTER_S - 1
    producers.send(KEY)
    producers.send(KEY, usage={"teapots": 1})
    producers.now_s += REFUSED_AFTER_S - 1
    assert producers.watch.refused() == []


def test_a_batch_for_another_deployment_counts_for_the_key_that_it_names(producers: Producers) -> None:
    producers.send(KEY, audience="another")
    producers.now_s += REFUSED_AFTER_S
    assert [(one.key_id, one.reason) for one in producers.watch.refused()] == [(KEY.key_id, "wrong_audience")]


def test_records_that_name_nobody_and_holes_are_nobody_s(producers: Producers) -> None:
    for value in (None, b"", b"rubbish", b"{}\n{}\n", b'{"producer":1}\n{"signatures":[{}]}\nx\n', b"[]\n[]\n"):
        judgement = judge(
            value,
            partition=0,
            offset=0,
            append_ms=NOW_MS,
            state=producers.state,
            registry=producers.registry,
            meters=set(),
        )
        producers.watch.note(judgement, value, producers.registry.entries)
    producers.watch.note(judge_hole(producers.state), None, producers.registry.entries)
    producers.now_s += REFUSED_AFTER_S
    assert producers.watch.refused() == []


def test_made_up_keys_take_no_more_than_their_room(producers: Producers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusal_watch, "KEYS_MAX", 3)
    for number in range(5):
        producers.send(make_key(f"stranger {number}"))
    producers.now_s += REFUSED_AFTER_S
    assert len(producers.watch.refused()) == 3


@pytest.mark.parametrize("fault", [{"usage": {"teapots": 1}}, {"audience": "another"}])
def test_no_flood_of_made_up_keys_hides_a_registered_producer(
    producers: Producers, monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any]
) -> None:
    monkeypatch.setattr(refusal_watch, "KEYS_MAX", 3)
    producers.send(KEY, **fault)
    for number in range(8):
        producers.send(make_key(f"stranger {number}"))
    producers.now_s += REFUSED_AFTER_S
    found = producers.watch.refused()
    assert (len(found), found[0].key_id) == (4, KEY.key_id)


def test_a_key_that_is_refused_again_and_again_outlasts_made_up_ones(
    producers: Producers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal_watch, "KEYS_MAX", 3)
    for number in range(8):
        producers.send(STRANGER)
        producers.send(make_key(f"stranger {number}"))
    producers.now_s += REFUSED_AFTER_S
    assert (STRANGER.key_id, 16) in [(one.key_id, one.events) for one in producers.watch.refused()]


def test_a_key_that_is_registered_meanwhile_is_one_producer_still(producers: Producers) -> None:
    producers.send(STRANGER)
    producers.registry = make_registry(KEY, STRANGER)
    producers.send(STRANGER, usage={"teapots": 1})
    producers.now_s += REFUSED_AFTER_S
    assert [(one.key_id, one.events) for one in producers.watch.refused()] == [(STRANGER.key_id, 4)]
