"""The job in Quix Streams, as its users write it: run by the Python of a throw-away environment, never imported.

Drops events whose id it has seen for the same agent (its state is by message key), forwards the others. Exactly once
by its own transactions. It verifies no signature and proves nothing.
"""

import os
from typing import Any

from quixstreams import Application, State  # type: ignore[import-not-found] # only there

app = Application(
    broker_address=os.environ["APP_BOOTSTRAP"],
    consumer_group=os.environ["APP_NAME"],
    auto_offset_reset="earliest",
    processing_guarantee="exactly-once",
    state_dir=os.environ["APP_FOLDER"],
    loglevel="WARNING",
)


def is_new(event: dict[str, Any], state: State) -> bool:
    """Whether this is the first event of its agent with this id; remembers it."""
    identity = event["id"]
    if state.exists(identity):
        return False
    state.set(identity, True)
    return True


source = app.topic(os.environ["APP_SOURCE"], key_deserializer="bytes", value_deserializer="json")
forwarded = app.topic(os.environ["APP_TARGET"], key_serializer="bytes", value_serializer="json")
app.dataframe(source).filter(is_new, stateful=True).to_topic(forwarded)
app.run()
