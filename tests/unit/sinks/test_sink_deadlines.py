"""How long a sink may take for what: the defaults keep what the README promises."""

from pathlib import Path

from meterproof_sinks.sink_settings import SinkSettings

README = Path(__file__).parents[3] / "sinks" / "README.md"


def test_sigterm_ends_a_sink_within_90_s_and_the_readme_says_when() -> None:
    deadline_s = SinkSettings.model_fields["stop_deadline_s"].default
    assert deadline_s < 90
    assert f"`METERPROOF_WORKER_STOP_DEADLINE_S` ({deadline_s})" in README.read_text("utf-8")


def test_one_that_reads_nothing_is_ended_when_the_readme_says() -> None:
    defaults = {name: field.default for name, field in SinkSettings.model_fields.items()}
    told = " ".join(README.read_text("utf-8").split())
    assert f"is read for {defaults['stall_timeout_s']} s though records wait" in told
    assert defaults["slow_after_s"] < defaults["stall_timeout_s"]
