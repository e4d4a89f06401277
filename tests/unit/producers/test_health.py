"""Probes and scrapers get an answer from outside of the event loop."""

import json
import urllib.error
import urllib.request

import pytest

from meterproof.health import Health, HealthServer, HealthSettings, PortTaken
from meterproof.metrics import StatusMetrics

STATUS = {
    "state": "running",
    "alive": True,
    "ready": False,
    "registry_fault": None,
    "in_flight": {"records": 3, "bytes": 700},
    "refused_producers": [{"key_id": "ab12", "refused_s": 61.5}],
    "partitions": {
        "0": {"next": 5, "lag": None, "counts": {"accepted": 10, "record:bad_root": 1}},
        "1": {"next": 6, "lag": 2, "counts": {}},
    },
}


def server(health: Health, port: int | None = 0) -> HealthServer:
    return HealthServer(
        HealthSettings(port=port, host="127.0.0.1"),
        health=lambda: health,
        about={"worker": "sequencer", "instance": "sequencer-0"},
        metrics=StatusMetrics("sequencer", "sequencer-0", lambda: STATUS),
    ).start()


def get(port: int | None, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize(
    ("health", "live", "ready"),
    [
        (Health(), 200, 200),
        (Health(waiting=("taking over",)), 200, 503),
        (Health(unhealthy=("usage.batches[0]: stuck",)), 503, 503),
    ],
)
def test_probes_get_the_verdict_with_its_reasons(health: Health, live: int, ready: int) -> None:
    port = server(health).port
    (live_status, live_body), (ready_status, ready_body) = get(port, "/livez"), get(port, "/readyz")
    assert (live_status, ready_status) == (live, ready)
    assert json.loads(live_body) == json.loads(ready_body)
    assert json.loads(ready_body) == {
        "alive": health.alive,
        "ready": health.ready,
        "reasons": [*health.unhealthy, *health.waiting],
        "worker": "sequencer",
        "instance": "sequencer-0",
    }


def test_metrics_are_those_of_the_status_and_of_the_process() -> None:
    status, body = get(server(Health()).port, "/metrics")
    assert status == 200
    lines = body.decode().splitlines()
    assert 'meterproof_partition_next_offset{partition="1",worker="sequencer"} 6.0' in lines
    assert 'meterproof_verdicts_total{partition="0",verdict="record:bad_root",worker="sequencer"} 1.0' in lines
    assert 'meterproof_producer_refused_seconds{key_id="ab12",worker="sequencer"} 61.5' in lines
    assert 'meterproof_worker_ready{worker="sequencer"} 0.0' in lines
    assert [line for line in lines if line.startswith("meterproof_partition_lag")] == [
        'meterproof_partition_lag_records{partition="1",worker="sequencer"} 2.0'
    ]
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)


def test_anything_else_is_not_there() -> None:
    assert get(server(Health()).port, "/")[0] == 404


def test_no_port_is_opened_unless_one_is_asked_for_and_free_ones_do_not_clash() -> None:
    assert server(Health(), port=None).port is None
    assert server(Health()).port != server(Health()).port


def test_a_port_that_is_taken_is_told_with_what_to_do() -> None:
    first = server(Health())
    with pytest.raises(PortTaken, match="METERPROOF_HEALTH_PORT"):
        server(Health(), port=first.port)
