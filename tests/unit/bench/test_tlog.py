"""The bench of logs and proofs runs from start to end and checks what it measures; how fast is not asked here."""

import asyncio

import pytest

from tests.bench.tlog import measure_tlog


@pytest.mark.slow
def test_a_quick_run_measures_each_kind_of_work() -> None:
    told: list[str] = []
    found = asyncio.run(measure_tlog(told.append, quick=True))
    assert all(figure.value > 0 for figure in found)
    assert {figure.unit for figure in found} >= {"entries/s", "entries/CPU s", "events/CPU s", "ms"}
    with_tessera = any("Tessera" in figure.name for figure in found)
    assert with_tessera != any(text.startswith("without Tessera") for text in told)
