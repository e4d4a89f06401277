"""How this process reaches Kafka: read from `METERPROOF_KAFKA_…` variables or arguments into a frozen value."""

import re
import ssl
from ipaddress import AddressValueError, IPv6Address
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from meterproof.kafka.errors import CertificateUnusable
from meterproof_schemas.topics import Topic

_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+)(:(?P<port>[0-9]{1,5}))?", re.ASCII)
_PORT_MAX: Final = 65_535


class KafkaSettings(BaseSettings):
    """Address, names and credentials of one Kafka cluster. Each field can come from `METERPROOF_KAFKA_<NAME>`."""

    model_config = SettingsConfigDict(
        env_prefix="METERPROOF_KAFKA_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    bootstrap: str = Field(default="127.0.0.1:9092", min_length=1)
    """`host:port`, or several with commas between: any one that answers leads to the whole cluster."""
    topic_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$", max_length=200)
    """Put before every topic name, so that several deployments can share a cluster."""
    client_id: str = "meterproof"
    """How the brokers' logs and quotas name this process."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_cafile: Path | None = None
    """Certificates that the brokers' are checked against; None takes the system's."""
    ssl_certfile: Path | None = None
    """This client's own certificate, where the brokers ask for one."""
    ssl_keyfile: Path | None = None
    """Private key of `ssl_certfile`; None if it stands in the same file."""
    request_timeout_s: int = Field(default=30, ge=1)
    """How long one request may take before it is given up or sent again."""

    @field_validator("bootstrap")
    @classmethod
    def _addresses_can_be_read(cls, bootstrap: str) -> str:
        if not all(map(_is_address, _addresses(bootstrap))) or not _addresses(bootstrap):
            message = "must be host:port, or several with commas between"
            raise ValueError(message)
        return bootstrap

    @model_validator(mode="after")
    def _credentials_are_complete(self) -> Self:
        if self.security_protocol.startswith("SASL") and (self.sasl_username is None or self.sasl_password is None):
            message = (
                f"security protocol {self.security_protocol} needs METERPROOF_KAFKA_SASL_USERNAME and "
                "METERPROOF_KAFKA_SASL_PASSWORD"
            )
            raise ValueError(message)
        return self

    def topic(self, topic: Topic) -> str:
        """A topic's full name: with this deployment's prefix."""
        return topic.named(self.topic_prefix)

    def client_args(self) -> dict[str, Any]:
        """Arguments that every client of the library takes.

        Raises:
            CertificateUnusable: a file of certificates or keys cannot be read, or holds none.
        """
        arguments: dict[str, Any] = {
            "bootstrap_servers": _addresses(self.bootstrap),
            "client_id": self.client_id,
            "request_timeout_ms": self.request_timeout_s * 1000,
            "security_protocol": self.security_protocol,
        }
        if self.security_protocol.endswith("SSL"):
            arguments["ssl_context"] = self._ssl_context()
        if self.security_protocol.startswith("SASL") and self.sasl_password is not None:
            arguments["sasl_mechanism"] = self.sasl_mechanism
            arguments["sasl_plain_username"] = self.sasl_username
            arguments["sasl_plain_password"] = self.sasl_password.get_secret_value()
        return arguments

    def _ssl_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ssl_cafile)
        except OSError as error:  # names no file
            raise CertificateUnusable("METERPROOF_KAFKA_SSL_CAFILE", str(self.ssl_cafile), str(error)) from None
        if self.ssl_certfile is not None:
            try:
                context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile)
            except OSError as error:
                files = " and ".join(str(file) for file in (self.ssl_certfile, self.ssl_keyfile) if file is not None)
                variables = "METERPROOF_KAFKA_SSL_CERTFILE and _SSL_KEYFILE"
                raise CertificateUnusable(variables, files, str(error)) from None
        return context


def _addresses(bootstrap: str) -> list[str]:
    return [address.strip() for address in bootstrap.split(",") if address.strip()]


def _is_address(address: str) -> bool:
    found = _ADDRESS.fullmatch(address)
    if found is not None:
        return found["port"] is None or int(found["port"]) <= _PORT_MAX
    try:
        IPv6Address(address)
    except AddressValueError:
        return False
    return True
