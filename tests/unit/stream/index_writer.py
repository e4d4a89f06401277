"""A process that adds records to an index on disk until it is killed: `python -m … FOLDER KEEP_MS`.

Record n has n % 7 identities, all derived from n, and clock n * 10 ms. It is acknowledged five records later, and after
each acknowledgement the process prints n.
"""

import hashlib
import itertools
import sys
from pathlib import Path

from meterproof_stream import rocksdb_index
from meterproof_stream.rocksdb_index import RocksdbIndex

CLOCK_STEP_MS = 10
BEHIND = 5


def content(number: int) -> dict[bytes, bytes]:
    """Identities and entries of record `number`."""
    digests = [hashlib.sha512(f"{number}/{each}".encode()).digest() for each in range(number % 7)]
    return {digest[:16]: digest[16:48] for digest in digests}


def add(index: RocksdbIndex, number: int) -> None:
    """Add record `number`, not acknowledged."""
    index.evict(number * CLOCK_STEP_MS)
    added = content(number)
    index.add(b"".join(added), b"".join(added.values()), number * CLOCK_STEP_MS)


def acknowledge(index: RocksdbIndex, number: int) -> None:
    """Acknowledge record `number`."""
    index.acknowledge([str(number).encode()] if number % 3 == 0 else [], {"number": number})


def main() -> None:
    """Write for ever, from where the folder ends."""
    rocksdb_index.WRITE_IDENTITIES = 20  # type: ignore[misc]  # more writes, so that more of them are interrupted
    folder = Path(sys.argv[1])
    index = RocksdbIndex.open(folder)
    first = 0 if index is None else index.cursor["number"] + 1
    index = index or RocksdbIndex.create(folder, int(sys.argv[2]))
    for number in itertools.count(first):
        add(index, number)
        if number >= first + BEHIND:
            acknowledge(index, number - BEHIND)
            sys.stdout.write(f"{number - BEHIND}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
