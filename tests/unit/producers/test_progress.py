"""A worker with nothing to do is not stuck; one that does nothing is."""

from meterproof.progress import Progress


def looked(*looks: tuple[float, dict[int, int], dict[int, int] | None, str | None]) -> Progress:
    progress = Progress()
    for now_s, due, ends, waits_for in looks:
        progress.look(now_s, due, ends, waits_for=waits_for)
    return progress


def test_a_partition_whose_records_nobody_takes_is_stuck_since_that_was_first_seen() -> None:
    progress = looked((10, {0: 5, 1: 7}, {0: 9, 1: 7}, None), (20, {0: 5, 1: 7}, {0: 12, 1: 7}, None))
    assert progress.stuck_s(25) == {0: 15}
    assert progress.waiting_s(25) == {0: 15}


def test_a_record_taken_or_a_partition_given_away_begins_anew() -> None:
    progress = looked((10, {0: 5, 1: 5}, {0: 9, 1: 9}, None), (20, {0: 6}, {0: 9, 1: 9}, None))
    assert progress.stuck_s(25) == {0: 5}
    progress.look(30, {0: 6, 1: 5}, {0: 9, 1: 9}, waits_for=None)
    assert progress.stuck_s(30) == {0: 10, 1: 0}


def test_what_waits_for_somebody_else_is_slow_and_not_stuck() -> None:
    progress = looked((10, {0: 5}, {0: 9}, "Kafka"), (20, {0: 5}, {0: 9}, "Kafka"), (30, {0: 5}, {0: 9}, None))
    assert progress.waiting_s(30) == {0: 20}
    assert progress.stuck_s(30) == {0: 10}


def test_a_broker_that_does_not_answer_is_held_against_nobody() -> None:
    progress = looked((10, {0: 5}, {0: 9}, None), (20, {0: 5}, None, None))
    assert progress.stuck_s(20) == {}
    progress.look(30, {0: 5}, {0: 9}, waits_for=None)
    assert progress.stuck_s(30) == {0: 0}


def test_offsets_without_records_are_nothing_to_take_until_more_come() -> None:
    progress = looked((10, {0: 5}, {0: 9}, None))
    progress.nothing_stands(0, 5, 9)
    progress.look(20, {0: 5}, {0: 9}, waits_for=None)
    assert progress.stuck_s(20) == {}
    progress.look(30, {0: 5}, {0: 10}, waits_for=None)
    assert progress.stuck_s(35) == {0: 5}
