"""One series of a producer instance: batches numbered and chained within one partition (pure)."""

from meterproof.keys import ProducerKey
from meterproof_schemas.batch import (
    BatchHeader,
    encode_batch,
    encode_header,
    encode_signatures,
    header_digest,
    root_of_lines,
)
from meterproof_schemas.instant import format_instant_us


class Series:
    """Seals event lines into signed batches of one partition. Lives as long as the producer instance."""

    def __init__(
        self, *, audience: str, topic: str, partition: int, producer: str, instance: str, key: ProducerKey
    ) -> None:
        self._audience = audience
        self._topic = topic
        self.partition = partition
        self._producer = producer
        self._instance = instance
        self._key = key
        self._sequence = 0
        self._previous: str | None = None

    def seal(self, lines: list[bytes], now_us: int) -> bytes:
        """The signed batch of these lines: the value of its Kafka record."""
        header_line = encode_header(
            BatchHeader(
                v=1,
                audience=self._audience,
                topic=self._topic,
                partition=self.partition,
                producer=self._producer,
                instance=self._instance,
                sequence=self._sequence,
                previous=self._previous,
                count=len(lines),
                root=root_of_lines(lines).hex(),
                sent_at=format_instant_us(now_us),
            )
        )
        self._sequence += 1
        self._previous = header_digest(header_line)
        signatures_line = encode_signatures([(self._key.key_id, self._key.algorithm, self._key.sign(header_line))])
        return encode_batch(header_line, signatures_line, lines)
