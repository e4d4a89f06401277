"""What the same work costs in Faust the usual way: one event per record, a table for deduplication, JSON serialisers.

Run as its users run it: `faust -A tests.bench.naive_faust worker`. It verifies no signature and proves nothing.
Drops events whose id it has seen, forwards the others.
"""

import os
from typing import Any

import faust

app = faust.App(
    os.environ["APP_NAME"],
    broker=f"kafka://{os.environ['APP_BOOTSTRAP']}",
    datadir=os.environ["APP_FOLDER"],
    store="memory://",
    topic_partitions=int(os.environ["APP_PARTITIONS"]),
    topic_disable_leader=True,
    value_serializer="json",
)
source = app.topic(os.environ["APP_SOURCE"], value_serializer="json")
forwarded = app.topic(os.environ["APP_TARGET"], value_serializer="json")
seen = app.Table("seen", default=bool)


@app.agent(source)
async def deduplicate(events: Any) -> None:
    """Forward each event once."""
    async for event in events:
        identity = event["id"]
        if not seen[identity]:
            seen[identity] = True
            await forwarded.send(key=event["subject"], value=event)
