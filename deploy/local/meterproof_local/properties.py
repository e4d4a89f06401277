"""What a one-node Kafka is configured with, the same for the local process and for the container."""

from collections.abc import Mapping

ONE_NODE: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "PLAIN",
    # As in production: topics are created by `meterproof topics create`, never by a typing error.
    "auto.create.topics.enable": "false",
    "num.partitions": "1",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # A broker killed with -9 comes back only after its old session has ended: 10 s with the default of 9000.
    "broker.session.timeout.ms": "1000",
    "broker.heartbeat.interval.ms": "200",
    # A quorum of one need not hear twice a second that nothing happens: a quarter of what an idle broker costs.
    "metadata.max.idle.interval.ms": "5000",
    "message.max.bytes": "3145728",
    "replica.fetch.max.bytes": "3145728",
    "log.message.timestamp.type": "LogAppendTime",
    "log.retention.ms": "-1",
    "log.segment.bytes": "67108864",
    "log.cleaner.dedupe.buffer.size": "16777216",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
}
"""Everything but listeners, quorum and folders."""


def properties_text(properties: Mapping[str, str]) -> str:
    """Return a Java properties file, one line per property.

    Raises:
        ValueError: a character that such a file would need an escape for; nothing here has a use for one.

    """
    lines = [f"{name}={value}" for name, value in properties.items()]
    if bad := [line for line in lines if not line.isascii() or not line.isprintable() or "\\" in line]:
        raise ValueError(f"not allowed in server.properties: {bad}")
    return "".join(line + "\n" for line in lines)
