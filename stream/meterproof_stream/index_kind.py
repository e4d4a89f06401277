"""Where the sequencer keeps the identities of the horizon; when to choose which."""

from enum import StrEnum


class IndexKind(StrEnum):
    """Both give the same verdicts and lose nothing; they differ in memory, speed and the time a start takes.

    What each costs stands in this package's README, under "The index of identities".
    """

    MEMORY = "memory"
    """For horizons up to 24 hours that fit the memory; a start folds the whole log."""
    ROCKSDB = "rocksdb"
    """For longer horizons, more events, quick starts: it is kept on disk, and a start folds what came since."""
