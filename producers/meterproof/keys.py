"""A producer's own key: who signs. The public half goes into the deployment's key registry."""

import os
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nacl.signing import SigningKey

from meterproof.errors import InvalidKey
from meterproof.seed_file import SEED_BYTES, read_seed, write_seed
from meterproof_schemas.batch import Algorithm, signed_bytes
from meterproof_schemas.keys import KeyEntry, key_id_of

_PREFIX: Final = "METERPROOF+PRODUCER+ED25519+"


class ProducerKey:
    """An Ed25519 signing key. Lives as long as the service; its repr and errors never show the secret half."""

    algorithm: Algorithm = "ed25519"

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            message = f"an Ed25519 seed has {SEED_BYTES} bytes"
            raise InvalidKey(message)
        self._key = SigningKey(seed)
        self._seed = seed
        self.public_key: bytes = bytes(self._key.verify_key)
        self.key_id = key_id_of(self.public_key)

    def __repr__(self) -> str:
        return f"ProducerKey(key_id={self.key_id!r})"

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes] = os.urandom) -> "ProducerKey":
        """A new key."""
        return cls(random_bytes(SEED_BYTES))

    @classmethod
    def load(cls, path: Path) -> "ProducerKey":
        """Read a key file.

        Raises:
            InvalidKey: the file is missing, readable by others, or not a key file.
        """
        return cls(read_seed(path, _PREFIX, "meterproof keygen producer"))

    def save(self, path: Path) -> None:
        """Write the key file, readable by its owner only; an existing file is never overwritten.

        Raises:
            InvalidKey: there is a file already.
        """
        write_seed(path, _PREFIX, self._seed)

    def sign(self, header_line: bytes) -> bytes:
        """The raw signature (64 bytes) over a batch's header line."""
        return self._key.sign(signed_bytes(header_line)).signature

    def entry(
        self,
        producer: str,
        *,
        sources: tuple[str, ...],
        agents: tuple[str, ...],
        customers: tuple[str, ...],
        comment: str | None = None,
    ) -> KeyEntry:
        """The registry entry that lets this key speak for a producer."""
        return KeyEntry(
            key_id=self.key_id,
            algorithm=self.algorithm,
            public_key=b64encode(self.public_key).decode(),
            producer=producer,
            sources=sources,
            agents=agents,
            customers=customers,
            comment=comment,
        )
