"""The runtimes that a worker can choose from."""

from enum import StrEnum


class Runtime(StrEnum):
    """What delivers records to an engine. All keep the same promises, and workers of one group may differ in it."""

    FAUST = "faust"
    """Faust: the default."""
    ASYNCIO = "asyncio"
    """One loop over the Kafka client: without Faust's price per record, and without Faust."""
