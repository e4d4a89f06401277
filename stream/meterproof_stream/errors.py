"""Errors of the stream workers that are not the contract's or Kafka's."""


class StreamError(Exception):
    """Root of the stream workers' own errors."""


class TopicUnfit(StreamError):
    """A topic's timestamps are the producers', not the broker's, so no verdict by time would be the broker's."""

    def __init__(self, topic: str) -> None:
        super().__init__(
            f"{topic} has records whose timestamp is not the broker's append time; set message.timestamp.type to "
            "LogAppendTime (`meterproof topics check` shows what differs)"
        )


class LaneClosed(StreamError):
    """The partition was given up while one of its records was being taken; whoever holds it next takes it again."""


class DeliveryLost(StreamError):
    """A record was handed to the producer and nobody will say what became of it."""


class FaustChanged(StreamError):
    """The installed Faust is not the one that its driver was proved with."""


class WorkerStalled(StreamError):
    """Records wait on the topic and none is taken: the runtime has stopped delivering without an error."""
