"""What can go wrong with the local Kafka, each with a message that says what to do next."""


class LocalKafkaError(Exception):
    """Base of the three below: an expected failure, to be shown as one message without a traceback."""


class JavaError(LocalKafkaError):
    """No Java runtime on this machine can run the broker."""


class JarError(LocalKafkaError):
    """A jar of the lock could not be had with the right bytes."""


class BrokerError(LocalKafkaError):
    """The broker did not start, or the data folder cannot be used."""
