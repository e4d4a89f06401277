"""A producer's own key: who signs. The public half goes into the deployment's key registry."""

from base64 import b64encode

from nacl.signing import SigningKey

from meterproof.seed_key import SeedKey
from meterproof_schemas.batch import Algorithm, signed_bytes
from meterproof_schemas.keys import KeyEntry, key_id_of


class ProducerKey(SeedKey):
    """An Ed25519 signing key. Lives as long as the service; its repr and errors never show the secret half."""

    prefix = "METERPROOF+PRODUCER+ED25519+"
    command = "meterproof keygen producer"
    algorithm: Algorithm = "ed25519"

    def __init__(self, seed: bytes) -> None:
        super().__init__(seed)
        self._key = SigningKey(seed)
        self.public_key: bytes = bytes(self._key.verify_key)
        self.key_id = key_id_of(self.public_key)

    def __repr__(self) -> str:
        return f"ProducerKey(key_id={self.key_id!r})"

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
        )
