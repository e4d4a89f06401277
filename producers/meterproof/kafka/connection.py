"""One way to start a client of the library, corrected where it fails us, and to turn its errors into ours."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Protocol

import aiokafka.errors
from aiokafka.admin import AIOKafkaAdminClient

from meterproof.kafka import closing, connection_log, tolerant
from meterproof.kafka.errors import AccessDenied, BrokerUnreachable, KafkaProblem, KafkaRefused
from meterproof.kafka.settings import KafkaSettings

LAG_S: Final = 2.0
"""How long one broker may lag behind the others in knowing the topics."""
_LAG_POLL_S: Final = 0.1
_UNKNOWN_TOPIC: Final = 3

connection_log.install()
closing.apply()
tolerant.apply()
_log: Final = logging.getLogger(__name__)

_DENIED = (
    aiokafka.errors.AuthenticationFailedError,
    aiokafka.errors.AuthenticationMethodNotSupported,
    aiokafka.errors.ClusterAuthorizationFailedError,
    aiokafka.errors.GroupAuthorizationFailedError,
    aiokafka.errors.TopicAuthorizationFailedError,
    aiokafka.errors.UnsupportedSaslMechanismError,
)
_UNREACHABLE = (
    aiokafka.errors.KafkaConnectionError,
    aiokafka.errors.KafkaTimeoutError,
    aiokafka.errors.NodeNotReadyError,
    aiokafka.errors.RequestTimedOutError,
)


class _Connects(Protocol):
    async def start(self) -> None: ...


class _Client(_Connects, Protocol):
    async def stop(self) -> None: ...


async def start_client(settings: KafkaSettings, client: _Client) -> None:
    """Connect a client of the library; one that cannot be, or is not waited for, is stopped again.

    Raises:
        BrokerUnreachable: no broker answers; with the cause that the library only logs.
        AccessDenied: the brokers refuse the credentials.
    """
    try:
        await _connect(settings, client)
    except BaseException:
        await client.stop()
        raise


async def _connect(settings: KafkaSettings, client: _Connects) -> None:
    with connection_log.collected_causes() as causes:
        try:
            await client.start()
            for cause in causes:  # one of several addresses did not answer
                _log.warning(cause)
        except aiokafka.errors.KafkaConnectionError as error:
            cause = causes[-1] if causes else str(error)
            if any(name in cause for name in ("Authentication", "Sasl", "SASL")):
                raise AccessDenied(settings.bootstrap, cause) from None
            raise BrokerUnreachable(settings.bootstrap, cause) from None
        except aiokafka.errors.KafkaError as error:
            raise translated(settings, error) from None


async def describe_topics(
    admin: Any,  # noqa: ANN401 - the library's admin client
    names: Collection[str],
    *,
    patience_s: float = LAG_S,
) -> dict[str, Any]:
    """The topics of `names` that exist, as the brokers describe them.

    A broker may learn of a topic later than the one that made it: what is missing is asked for again during
    `patience_s`.
    """
    deadline_s = time.monotonic() + patience_s
    while True:
        answers = await admin.describe_topics(list(names))
        found = {answer["topic"]: answer for answer in answers if answer["error_code"] != _UNKNOWN_TOPIC}
        if len(found) == len(set(names)) or time.monotonic() >= deadline_s:
            return found
        await asyncio.sleep(_LAG_POLL_S)


def translated(settings: KafkaSettings, error: BaseException) -> KafkaProblem:
    """Our error for one of the library's."""
    text = _text(error)
    if isinstance(error, _DENIED):
        return AccessDenied(settings.bootstrap, text)
    if isinstance(error, (*_UNREACHABLE, TimeoutError)):
        return BrokerUnreachable(settings.bootstrap, text)
    return KafkaRefused(settings.bootstrap, text)


@contextmanager
def translating(settings: KafkaSettings) -> Iterator[None]:
    """Raise our errors for the library's within this block."""
    try:
        yield
    except (TimeoutError, aiokafka.errors.KafkaError) as error:
        raise translated(settings, error) from error


@asynccontextmanager
async def admin_client(settings: KafkaSettings) -> AsyncIterator[Any]:
    """A started admin client, closed at the end; its errors come out as ours.

    The library's admin calls raise nothing for a single topic: callers must read every error code.
    """
    client = AIOKafkaAdminClient(**settings.client_args())
    try:
        await _connect(settings, client)
        with translating(settings):
            yield client
    finally:
        await client.close()


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
