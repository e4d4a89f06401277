import pytest

from tests.bench.load import PARTITIONS, PartitionLoad, cut
from tests.bench.rate import Sample, TooShort, both, rate_of


def test_rate_is_of_what_came_between_the_two_shares() -> None:
    # 100 steps of 10 events, 10 ms apart: the step that reaches 20 % is the 20th, the one that reaches 97 % the 97th.
    output = [(1_000 + 10 * step, 10) for step in range(100)]
    cpu = [Sample(0, 0.0), Sample(1_000, 0.4), Sample(2_000, 0.9)]
    rate = rate_of(output, cpu)
    assert rate.events == 770
    assert rate.seconds == pytest.approx(0.77)
    assert rate.events_per_s == pytest.approx(1_000)
    assert rate.cpu_share == pytest.approx(0.5)
    assert rate.events_per_cpu_s == pytest.approx(2_000)


def test_memory_is_the_largest_of_each_quarter_of_the_output() -> None:
    output = [(float(moment), 1) for moment in range(100)]
    memory = [Sample(moment, moment / 1000, 500 if moment == 35 else 100 + moment) for moment in range(0, 200, 5)]
    assert rate_of(output, memory).quarters_mib == (125, 500, 175, 196)
    in_one_step = [(0.0, 1), (40.0, 97), (90.0, 2)]
    assert rate_of(in_one_step, memory, short=True).quarters_mib == (500, 140, 140, 140)


def test_what_two_processes_use_is_added_up_at_the_moments_of_the_first() -> None:
    first = [Sample(1_000, 0.5), Sample(2_000, 1.0)]
    second = [Sample(0, 0.0), Sample(4_000, 4.0)]
    assert both(first, second) == [Sample(1_000, 1.5), Sample(2_000, 3.0)]


def test_slow_start_and_slow_end_are_left_out() -> None:
    steady = [(10_000.0 + step, 1) for step in range(1_000)]
    cpu = [Sample(0, 0.0), Sample(20_000, 20.0)]
    slow = [(0.0, 100), *steady, (20_000.0, 10)]
    assert rate_of(slow, cpu).events_per_s == pytest.approx(1_000)


def test_order_of_the_output_does_not_matter() -> None:
    output = [(float(step), 1 + step % 3) for step in range(500)]
    cpu = [Sample(0, 0.0), Sample(500, 0.25)]
    assert rate_of(reversed(output), cpu) == rate_of(output, cpu)


@pytest.mark.parametrize("output", [[], [(5.0, 100)], [(5.0, 50), (5.0, 50)]])
def test_too_little_is_refused(output: list[tuple[float, int]]) -> None:
    with pytest.raises(TooShort):
        rate_of(output, [Sample(0, 0.0), Sample(10, 0.01)])


def test_each_event_out_may_stand_for_more_that_came_in() -> None:
    output = [(float(step), 9) for step in range(1_000)]
    rate = rate_of(output, [Sample(0, 0.0), Sample(1_000, 1.0)])
    assert rate.scaled(10 / 9).events_per_s == pytest.approx(rate.events_per_s * 10 / 9)


def test_the_load_repeats_exactly_each_tenth_event_and_is_the_same_again() -> None:
    first, second = (PartitionLoad(1, now_ms=1_700_000_000_000) for _ in range(2))
    lines = first.lines(700) + first.lines(300)
    assert second.lines(1_000) == lines
    assert len(set(lines)) == 900
    expected = first.expected(2)
    assert (expected.accepted, expected.duplicates) == (900, 100)
    assert 300 <= sum(map(len, lines)) / len(lines) <= 360
    assert expected.root == second.expected(1).root


def test_batches_are_dealt_to_the_partitions_in_turn() -> None:
    assert list(cut(1_000, 100)) == [(number % PARTITIONS, 100) for number in range(10)]
    assert len(list(cut(1, 500))) == PARTITIONS
