"""Where the sequencer keeps the identities of the horizon; when to choose which."""

from enum import StrEnum


class IndexKind(StrEnum):
    """Both give the same verdicts and lose nothing; they differ in memory, speed and the time a start takes.

    | | memory | rocksdb |
    |---|---|---|
    | per identity held | about 200 bytes of memory | 53 bytes on disk, 5 to 8 in memory |
    | per new event | 0.4 to 0.9 µs | 0.3 µs more, at batches of 100 |
    | start | folds the whole log | folds what came since the last write, a few thousand events |
    | choose it for | horizons up to 24 hours that fit the memory | longer horizons, more events, quick starts |

    Identities held = events/s x (horizon + 5 minutes) / partitions, for each partition that a worker holds.
    """

    MEMORY = "memory"
    ROCKSDB = "rocksdb"
