"""Sizes and times that the contract fixes. They stand in the genesis record of a log, so a log carries its own."""

from typing import Final

LINE_BYTES_MAX: Final = 64 * 1024
"""One event line. An entry of the Merkle log is its digest, so this bounds memory, not the tree."""
BATCH_BYTES_MAX: Final = 512 * 1024
"""One Kafka record on `usage.batches`. Larger ones cost latency; smaller ones make signatures dearer per event."""
BATCH_LINES_MAX: Final = 1_000
"""Events in one batch: bounds the refusals that one log record must list."""
RECORD_BYTES_MAX: Final = 2 * 1024 * 1024
"""One record on `usage.log`: the largest batch plus 1,000 refusals and the frontier fit with room."""
HEADER_LINE_BYTES_MAX: Final = 4 * 1024
"""Line 0 of a batch. A header is about 500 bytes."""
SIGNATURES_LINE_BYTES_MAX: Final = 4 * 1024
"""Line 1 of a batch: eight signatures fit."""
NAME_BYTES_MAX: Final = 256
"""`id`, `source`, `subject` and every other name, in UTF-8 bytes."""
DEPTH_MAX: Final = 16
"""Nesting of a line: deeper JSON is an attack on parsers, not usage."""
FUTURE_TOLERANCE_MS: Final = 5 * 60 * 1000
"""How far a producer's clock may run ahead of the broker's."""
HORIZON_MS_DEFAULT: Final = 24 * 3600 * 1000
"""How late an event may come, and for how long identities are remembered."""
REJECTED_PAYLOAD_BYTES_MAX: Final = 64 * 1024
"""What `usage.rejected` keeps of a payload that no known key vouches for."""
