"""One attempt at delivering one message over HTTP."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Final, Self

import aiohttp
from aiohttp.resolver import DefaultResolver

from meterproof_sinks.webhook_addresses import PrivateAddress, PublicResolver, is_refused_literal
from meterproof_sinks.webhook_endpoints import Endpoint
from meterproof_sinks.webhook_message import WebhookMessage

ANSWER_BYTES_MAX: Final = 16 * 1024
"""Of an answer's body that are read, and dropped, so that the connection can be used again; a longer one is cut off."""
_TOLD_TO_COME_BACK: Final = (408, 429)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an attempt."""

    status: int | None
    """None: there was no answer."""
    reason: str | None
    """Why it is not delivered; names no address."""
    retry_after: str | None = None
    """The header, as it came."""

    @property
    def delivered(self) -> bool:
        """Whether the endpoint took the message."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def final(self) -> bool:
        """Whether sending it again is of no use: 4xx other than 408 and 429."""
        return self.status is not None and 400 <= self.status < 500 and self.status not in _TOLD_TO_COME_BACK


class WebhookSender:
    """Sends messages to one endpoint, over connections of its own. Lives within `async with`.

    Promises: no redirect is followed, no cookie kept, no proxy of the environment used; an attempt ends within the
    endpoint's timeout; no address is connected to that the endpoint does not allow, whatever its name resolves to at
    that moment; nothing of an answer but its status and `Retry-After` is kept.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        resolver = DefaultResolver()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=1,
                resolver=resolver if self._endpoint.allow_private_addresses else PublicResolver(resolver),
                use_dns_cache=False,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._endpoint.timeout_s),
            auto_decompress=False,
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, message: WebhookMessage, timestamp_s: int) -> Answer:
        """Send a message once, signed for this moment. Never raises for what the endpoint or the network does."""
        endpoint, session = self._endpoint, self._session
        if session is None:
            raise RuntimeError("a sender sends within `async with`")
        # A literal address is never resolved, so the resolver would not see it.
        if not endpoint.allow_private_addresses and is_refused_literal(endpoint.url.host or ""):
            return Answer(None, "the address is not public")
        headers = {"content-type": "application/json", "user-agent": "meterproof-webhook/1"}
        headers |= endpoint.secret.headers(message.id, timestamp_s, message.body)
        try:
            async with session.post(
                endpoint.url, data=message.body, headers=headers, allow_redirects=False
            ) as response:
                await _drop_body(response)
                status = response.status
                reason = None if 200 <= status < 300 else f"answered {status}"
                return Answer(status, reason, response.headers.get("retry-after"))
        except TimeoutError:
            return Answer(None, f"no answer within {endpoint.timeout_s} s")
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, PrivateAddress):
                return Answer(None, "the host has no public address")
            return Answer(None, f"no connection: {type(error.os_error).__name__}")
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: of a name that cannot be looked up
            return Answer(None, f"no answer: {type(error).__name__}")


async def _drop_body(response: aiohttp.ClientResponse) -> None:
    """Read the body if it is short; whatever happens to it, the status has been said."""
    with contextlib.suppress(aiohttp.ClientError, OSError, asyncio.TimeoutError):
        left = ANSWER_BYTES_MAX
        while left > 0 and (chunk := await response.content.read(left)):
            left -= len(chunk)
        if response.content.at_eof():
            return
    response.close()
