from io import StringIO

from rich.console import Console

from tests.bench.figure import Figure
from tests.bench.findings import Findings
from tests.bench.report import as_json, print_findings, ratios, verdicts
from tests.bench.result import Result, Run


def result(bench: str, batch: int | None, *events_per_cpu_s: float) -> Result:
    return Result(
        bench,
        f"variant {batch}",
        "events",
        batch,
        [Run(1.0, one, 1.0, 1, 1.0, 1, (1, 1, 1, 1)) for one in events_per_cpu_s],
    )


def test_ratios_are_of_medians_and_the_bare_loop_stands_beside_its_own_batch_only() -> None:
    results = [
        result("sequencer", 1, 4_000),
        result("sequencer", 100, 1, 90_000, 1_000_000),
        result("naive", None, 3_000),
        result("bare", 100, 180_000),
        result("audit", 100, 7),
    ]
    assert ratios(results) == {
        "sequencer_1_to_naive": 1.33,
        "sequencer_100_to_naive": 30.0,
        "sequencer_100_to_bare": 0.5,
    }


def test_the_targets_are_those_of_both_runtimes_at_100_beside_each_of_the_others() -> None:
    results = [
        result("sequencer", 100, 90_000),
        result("asyncio", 100, 900_000),
        result("naive", None, 3_000),
        result("quix", None, 31_000),
        result("kafka-streams", 1, 50_000),
        result("kafka-streams", 100, 70_000),
    ]
    assert verdicts(results) == {
        "sequencer_100_to_naive": True,
        "sequencer_100_to_quix": False,
        "sequencer_100_to_kafka_streams_1": True,
        "sequencer_100_to_kafka_streams_100": False,
        "asyncio_100_to_naive": True,
        "asyncio_100_to_quix": True,
        "asyncio_100_to_kafka_streams_1": True,
        "asyncio_100_to_kafka_streams_100": True,
    }


def test_what_was_found_and_what_was_not_measured_is_printed_and_in_the_json() -> None:
    findings = Findings(
        results=[result("sequencer", 100, 90_000), result("quix", None, 31_000), result("kafka-streams", 1)],
        figures=[
            Figure("queries", "p95", "ms", ("≤", 200), [900, 150, 300]),
            Figure("audit", "size", "bytes", None, [5]),
        ],
        not_here={"kafka-streams": "there is no javac"},
    )
    out = StringIO()
    print_findings(Console(file=out, width=120), findings)
    printed = out.getvalue()
    assert "sequencer_100_to_quix: target 3 MISSED" in printed
    assert "kafka-streams: not measured: there is no javac" in printed
    assert "≤ 200 ms" in printed
    found = as_json(findings, {})
    assert [one["bench"] for one in found["results"]] == ["sequencer", "quix"]
    assert found["ratio_targets_reached"] == {"sequencer_100_to_quix": False}
    assert found["not_measured"] == {"kafka-streams": "there is no javac"}
    assert [one["reached"] for one in found["figures"]] == [False, None]
