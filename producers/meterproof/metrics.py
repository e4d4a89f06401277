"""A worker's metrics: read from its status when they are asked for, so that they cost nothing on the way of a record.

Every name begins with `meterproof_`; every sample carries `worker`. Labels are few and small: a partition, an endpoint
of webhooks, a verdict of the contract's closed list, a key id that is being refused. Never an agent, a customer or an
event.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_OF_PARTITIONS: Final = (
    # key in the status, name, whether it only grows, what it says
    ("next", "partition_next_offset", False, "Offset that is due on the topic that the worker reads."),
    ("log_offset", "partition_log_offset", False, "Offset on usage.log up to which the worker's output goes."),
    ("position", "partition_position", False, "Accepted events of the log that the worker's output holds."),
    ("lag", "partition_lag_records", False, "Records on the topic that the worker has not carried yet."),
    ("waiting_s", "partition_waiting_seconds", False, "How long records wait while none is taken."),
    ("writing_s", "partition_writing_seconds", False, "How long the write under way has lasted."),
    ("identities", "partition_identities", False, "Event identities that the deduplication remembers."),
    ("index_disk_bytes", "partition_index_disk_bytes", False, "Disk that the index of these identities takes."),
    ("dense", "partition_dense", False, "Whether the destination has every position once, by its own count."),
    ("surplus_rows", "partition_surplus_rows", False, "Rows beyond the positions: repeats; below 0, rows are missing."),
    ("foreign", "partition_foreign_records", True, "Late writers' echoes on usage.log that were skipped."),
    ("records", "partition_records", True, "Log records made durable since the worker started."),
    ("rows", "partition_events", True, "Events made durable since the worker started."),
    ("batches", "partition_writes", True, "Writes into the destination since the worker started."),
    ("write_s", "partition_write_seconds", True, "Time spent in these writes."),
    ("retries", "partition_write_retries", True, "Writes that were tried again since the worker started."),
    ("checkpoints", "partition_checkpoints", True, "Checkpoints signed since the worker started."),
    ("alerts", "partition_alerts", True, "Alerts written since the worker started."),
)
_OF_ENDPOINTS: Final = (
    ("waiting", "endpoint_waiting_messages", False, "Messages that were read and are neither delivered nor given up."),
    ("delivered", "endpoint_delivered_messages", True, "Messages delivered since the worker started."),
    ("retries", "endpoint_failed_attempts", True, "Attempts after which a message waits for another one."),
    ("dead", "endpoint_dead_messages", True, "Messages given up since the worker started."),
    (
        "unreadable",
        "endpoint_unreadable_alerts",
        True,
        "Records on usage.alerts that the worker's version cannot read.",
    ),
)
_PREFIX: Final = "meterproof_"


class StatusMetrics(Collector):
    """Makes metrics of a worker's latest status. Lives as long as its worker; any thread may collect."""

    def __init__(self, worker: str, instance: str, status: Callable[[], Mapping[str, Any]]) -> None:
        """Make metrics of what `status` returns, which must be safe to read from any thread."""
        self._worker = worker
        self._instance = instance
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """One family after the other; what a worker does not have is left out."""
        status = self._status()
        info = GaugeMetricFamily(
            f"{_PREFIX}worker_info", "Which worker this is, and what it does.", labels=["worker", "instance", "state"]
        )
        info.add_metric([self._worker, self._instance, str(status.get("state", "starting"))], 1)
        yield info
        partitions: Mapping[str, Mapping[str, Any]] = status.get("partitions", {})
        yield self._one("partitions_held", "Partitions that the worker carries.", len(partitions))
        for key, text in (("alive", "Whether /livez says so."), ("ready", "Whether /readyz says so.")):
            if key in status:
                yield self._one(f"worker_{key}", text, int(status[key]))
        if "rebalances" in status:
            yield self._one("rebalances", "Take-overs since the start.", status["rebalances"], grows=True)
        if "in_flight" in status:
            for unit, count in status["in_flight"].items():
                yield self._one(f"in_flight_{unit}", "On the way to Kafka and not acknowledged.", count)
        if "registry_fault" in status:
            fault = status["registry_fault"] is not None
            yield self._one("registry_faulty", "Whether the key registry's file cannot be read.", int(fault))
        if "price_book" in status:
            yield self._one("price_book_version", "Price book in force.", status["price_book"])
        yield from self._of_partitions(partitions)
        yield from self._of_endpoints(status.get("endpoints", {}))
        if "refused_producers" in status:
            yield self._refused(status["refused_producers"])

    def _of_partitions(self, partitions: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
        for key, name, grows, text in _OF_PARTITIONS:
            held = [(number, part[key]) for number, part in partitions.items() if part.get(key) is not None]
            if held:
                family = self._family(name, text, ["partition"], grows=grows)
                for number, value in held:
                    family.add_metric([self._worker, number], value)
                yield family
        verdicts = self._family(
            "verdicts", "Lines by verdict, and whole records as record:<reason>, since the log's genesis.",
            ["partition", "verdict"], grows=True,
        )  # fmt: skip
        for number, part in partitions.items():
            for verdict, count in part.get("counts", {}).items():
                verdicts.add_metric([self._worker, number, verdict], count)
        if verdicts.samples:
            yield verdicts

    def _of_endpoints(self, endpoints: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
        for key, name, grows, text in _OF_ENDPOINTS if endpoints else ():
            family = self._family(name, text, ["endpoint"], grows=grows)
            for endpoint, lane in endpoints.items():
                family.add_metric([self._worker, endpoint], lane[key])
            yield family

    def _refused(self, producers: list[dict[str, Any]]) -> Metric:
        family = self._family(
            "producer_refused_seconds", "How long every event under a key has been refused.", ["key_id"], grows=False
        )
        for one in producers:
            family.add_metric([self._worker, one["key_id"]], one["refused_s"])
        return family

    def _one(self, name: str, text: str, value: float, *, grows: bool = False) -> Metric:
        family = self._family(name, text, [], grows=grows)
        family.add_metric([self._worker], value)
        return family

    @staticmethod
    def _family(name: str, text: str, labels: list[str], *, grows: bool) -> CounterMetricFamily | GaugeMetricFamily:
        kind = CounterMetricFamily if grows else GaugeMetricFamily
        return kind(_PREFIX + name, text, labels=["worker", *labels])
