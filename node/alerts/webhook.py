"""Incidents as signed posts to an address of the operator's.

`Farebox-Signature: t=<Unix seconds>,v1=<hex>` where v1 is HMAC-SHA256 of `<t>.<body>` under
the webhook's secret. Receivers compare in constant time, refuse an old `t`, and drop a
`Farebox-Delivery` they have seen: when an outcome is unknown, it is sent once more.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable

import aiohttp
from sqlalchemy import Engine
from yarl import URL

from node.alerts.choices import WebhookSettings
from node.alerts.errors import NotConfigured, SendFailed
from node.alerts.text import one_line
from node.egress import EgressPolicy, EgressRefused, open_session
from node.preferences import read_preference

TIMEOUT_SECONDS = 10.0


def sign(secret: str, at: int, body: bytes) -> str:
    """The value of `Farebox-Signature`."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256)
    return f"t={at},v1={digest.hexdigest()}"


class Webhook:
    """Posts as the webhook's settings say. `unseal` opens the stored secret; `egress` says
    which private hosts may be reached."""

    def __init__(
        self,
        engine: Engine,
        unseal: Callable[[str], bytes],
        egress: Callable[[], EgressPolicy],
        clock: Callable[[], float] = time.time,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._engine = engine
        self._unseal = unseal
        self._egress = egress
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)

    async def post(self, body: bytes, event: str, delivery_id: str) -> int:
        """Send `body` (JSON); the status of a 2xx answer. Raises NotConfigured or SendFailed."""
        settings = await asyncio.to_thread(read_preference, self._engine, WebhookSettings)
        if not settings.url:
            raise NotConfigured("No webhook address is set.")
        secret = self._unseal(settings.secret_sealed).decode()
        headers = {
            "content-type": "application/json",
            "user-agent": "Farebox",
            "farebox-event": event,
            "farebox-delivery": delivery_id,
            "farebox-signature": sign(secret, int(self._clock()), body),
        }
        status = await self._post(URL(settings.url), headers, body)
        if 200 <= status < 300:
            return status
        if 300 <= status < 400:
            raise SendFailed(f"The receiver redirects ({status}); that is not followed.", status)
        raise SendFailed(f"The receiver answered {status}.", status)

    async def _post(self, url: URL, headers: dict[str, str], body: bytes) -> int:
        policy = self._egress()
        try:
            policy.check_url(url)
            async with (
                open_session(policy, timeout=self._timeout) as session,
                session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
            ):
                return answer.status
        except EgressRefused as error:
            raise SendFailed(f"{error} {_ALLOW}") from None
        except TimeoutError:
            raise SendFailed("The receiver did not answer in time.") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise SendFailed(_explain(error)) from None


def _explain(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorError(os_error=EgressRefused() as refused):
            return f"{refused} {_ALLOW}"
        case aiohttp.ClientConnectorDNSError():
            return f"The name {one_line(error.host, 200)} leads to no address."
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return f"The receiver's certificate is not valid, or it speaks no TLS at {_at(error)}."
        case aiohttp.ClientConnectorError():
            return f"Nothing can be reached at {_at(error)}."
        case aiohttp.ServerDisconnectedError():
            return "The receiver closed the connection without an answer."
    return f"The receiver cannot be reached: {one_line(str(error), 200)}"


def _at(error: aiohttp.ClientConnectorError) -> str:
    return one_line(f"{error.host}:{error.port}", 200)


_ALLOW = "Hosts in private ranges have to be allowed first (FAREBOX_ALLOWED_HOSTS)."
