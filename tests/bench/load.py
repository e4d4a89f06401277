"""The events that everything is measured with: the same for the same seed, exact repeats included, quick to make."""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from meterproof.keys import ProducerKey
from meterproof_proofs.frontier import Frontier
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.batch import (
    BatchHeader,
    encode_batch,
    encode_header,
    encode_signatures,
    header_digest,
    root_of_lines,
)
from meterproof_schemas.event import EVENT_TYPE, entry_of
from meterproof_schemas.instant import format_instant_ms
from meterproof_schemas.keys import KeyEntry, encode_registry
from meterproof_schemas.partitioner import partition_of

DEPLOYMENT: Final = "bench"
"""The audience that batches are signed for."""
PRODUCER: Final = "bench"
SOURCE: Final = "gateway/chat"
PARTITIONS: Final = 4
AGENTS: Final = 1_000
REPEAT_EVERY: Final = 10
"""Each tenth event is an exact repeat of an earlier one: 10 %."""
_REPEATED_FROM: Final = 5_000
"""Repeats are drawn from as many of the newest distinct events of the partition."""
_MODELS: Final = (("openai", "gpt-4o"), ("anthropic", "claude-sonnet"), ("self-hosted", "llama-70b"))
_LINE: Final = (
    '{"specversion":"1.0","id":"%032x","source":"' + SOURCE + '","type":"' + EVENT_TYPE + '","time":"%s",'
    '"subject":"%s","data":{"customer":"%s","usage":{"input_tokens":%d,"output_tokens":%d},'
    '"provider":"%s","model":"%s","salt":"%032x"}}'
)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a right sequencer makes of one partition's load."""

    partition: int
    records: int
    """Kafka records."""
    accepted: int
    duplicates: int
    root: str
    """RFC 6962 root over the distinct events in the order of their first coming, in hexadecimal."""


def key() -> ProducerKey:
    """The key that signs the load; it protects nothing."""
    return ProducerKey(bytes(range(32)))


def registry() -> bytes:
    """The registry file that lets `key` report everything."""
    entry: KeyEntry = key().entry(PRODUCER, sources=("*",), agents=("*",), customers=("*",))
    return encode_registry([entry])


class PartitionLoad:
    """The events of one partition, made on demand; the same for the same arguments. Lives as long as one publication.

    Every `REPEAT_EVERY`-th event is the exact repeat of an earlier one, all others are distinct.
    """

    def __init__(self, partition: int, *, now_ms: int) -> None:
        self.partition = partition
        self.accepted = 0
        self.duplicates = 0
        self._now_ms = now_ms
        self._random = random.Random(partition)
        names = (f"agent-{number:04d}" for number in range(AGENTS))
        self._agents = [name for name in names if partition_of(name, PARTITIONS) == partition]
        self._newest: deque[bytes] = deque(maxlen=_REPEATED_FROM)
        self._frontier = Frontier()

    def lines(self, count: int) -> list[bytes]:
        """The next events."""
        made: list[bytes] = []
        fresh: list[bytes] = []
        newest, draw = self._newest, self._random.random
        for _ in range(count):
            number = self.accepted + self.duplicates
            if number % REPEAT_EVERY == REPEAT_EVERY - 1:
                made.append(newest[int(draw() * len(newest))])
                self.duplicates += 1
                continue
            agent = number % len(self._agents)
            provider, model = _MODELS[agent % 3]
            line = (
                _LINE
                % (
                    (self.partition << 96) | number,
                    format_instant_ms(self._now_ms - 60_000 + number // 64),
                    self._agents[agent],
                    f"customer-{agent % 25:02d}",
                    number % 4_000 + 1,
                    number % 900 + 1,
                    provider,
                    model,
                    self._random.getrandbits(128),
                )
            ).encode()
            made.append(line)
            fresh.append(line)
            newest.append(line)
            self.accepted += 1
        self._frontier.extend(leaf_hashes(map(entry_of, fresh)))
        return made

    def expected(self, records: int) -> Expected:
        """What is to be made of all events so far, which stood in so many Kafka records."""
        return Expected(self.partition, records, self.accepted, self.duplicates, self._frontier.root().hex())


class SignedSeries:
    """Seals events into signed batches, one series per partition. Like the meter's own, without its validation."""

    def __init__(self, partition: int, topic: str, *, now_ms: int) -> None:
        self._key = key()
        self._sequence = 0
        self._previous: str | None = None
        self._fields: dict[str, Any] = {
            "v": 1,
            "audience": DEPLOYMENT,
            "topic": topic,
            "partition": partition,
            "producer": PRODUCER,
            "instance": f"{partition:032x}",
            "sent_at": format_instant_ms(now_ms),
        }

    def seal(self, lines: list[bytes]) -> bytes:
        """The value of the next batch's Kafka record."""
        header = BatchHeader.model_construct(
            **self._fields,
            sequence=self._sequence,
            previous=self._previous,
            count=len(lines),
            root=root_of_lines(lines).hex(),
        )
        header_line = encode_header(header)
        self._sequence += 1
        self._previous = header_digest(header_line)
        signatures = encode_signatures([(self._key.key_id, self._key.algorithm, self._key.sign(header_line))])
        return encode_batch(header_line, signatures, lines)


def agent_of(line: bytes) -> bytes:
    """The subject of an event of this load."""
    return line.partition(b'"subject":"')[2].partition(b'"')[0]


def cut(events: int, batch: int) -> Iterator[tuple[int, int]]:
    """How `events` are cut into batches: (partition, events in the batch), the partitions in turn.

    Every partition gets whole batches, so slightly more or fewer events may come out than were asked for.
    """
    for number in range(max(PARTITIONS, events // batch)):
        yield number % PARTITIONS, batch
