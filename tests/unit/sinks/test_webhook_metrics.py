"""What Prometheus is told of endpoints."""

from dataclasses import asdict

from prometheus_client import CollectorRegistry, generate_latest

from meterproof.metrics import StatusMetrics
from meterproof_sinks.webhook_lane import LaneStatus


def test_every_number_of_a_lane_is_a_metric() -> None:
    lanes = {"pager": asdict(LaneStatus(1, 2, 3, 4, 5, "answered 500")), "chat": asdict(LaneStatus())}
    registry = CollectorRegistry()
    registry.register(StatusMetrics("webhook", "webhook", lambda: {"state": "running", "endpoints": lanes}))
    lines = generate_latest(registry).decode().splitlines()
    assert [line for line in lines if 'endpoint="pager"' in line] == [
        'meterproof_endpoint_waiting_messages{endpoint="pager",worker="webhook"} 1.0',
        'meterproof_endpoint_delivered_messages_total{endpoint="pager",worker="webhook"} 2.0',
        'meterproof_endpoint_failed_attempts_total{endpoint="pager",worker="webhook"} 3.0',
        'meterproof_endpoint_dead_messages_total{endpoint="pager",worker="webhook"} 4.0',
        'meterproof_endpoint_unreadable_alerts_total{endpoint="pager",worker="webhook"} 5.0',
    ]
    assert sum('endpoint="chat"' in line for line in lines) == 5
