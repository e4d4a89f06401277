"""What can go wrong on this machine, each with a message that says what to do next."""


class LocalError(Exception):
    """Base of all below: an expected failure, to be shown as one message without a traceback."""


class LocalKafkaError(LocalError):
    """Base of the three below."""


class JavaError(LocalKafkaError):
    """No Java runtime on this machine can run the broker."""


class JarError(LocalKafkaError):
    """A jar of the lock could not be had with the right bytes."""


class BrokerError(LocalKafkaError):
    """The broker did not start, or the data folder cannot be used."""


class SetupRefused(LocalError):
    """The data folder holds something else than was asked for, or a file that was given is faulty."""


class NotInTime(LocalError):
    """Something that the pipeline was waited for did not happen in time; the text shows where it stands."""


class PipelineStopped(LocalError):
    """A worker stopped for a person: going on could lose, double or fork."""
