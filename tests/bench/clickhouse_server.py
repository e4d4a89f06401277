"""A ClickHouse server as a process: `python -m tests.bench.clickhouse_server FOLDER` says its address and serves.

It is the tests' HTTP front over the embedded engine, since ClickHouse's own server does not come from a package index.
"""

import signal
import sys
from pathlib import Path

from tests.integration.sinks.clickhouse_server import served

if __name__ == "__main__":
    with served(Path(sys.argv[1])) as server:
        print(server.url, flush=True)
        signal.pause()
