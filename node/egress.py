"""Where this node may connect to on somebody else's word (SSRF guard).

Upstreams and bought URLs are typed in by people, so a name is resolved once, every
address it has must be public, and the connection goes to that very address: a name
that changes its mind between the check and the connection gains nothing. Redirects
are never followed. Private hosts are reached only if the operator names them.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# All that is given out to the Internet. What is_global knows of beside it are site-local addresses,
# and those in which translators of a network write its own IPv4.
_UNICAST = ipaddress.IPv6Network("2000::/3")
DNS_SECONDS = 30


class EgressRefused(OSError):
    """The address is not public and the operator has not allowed its host."""


class EgressPolicy:
    """What may be reached. `allowed_hosts` are `host` or `host:port`, in private ranges too."""

    def __init__(self, allowed_hosts: Iterable[str] = ()) -> None:
        self._always = self._allowed = _names(allowed_hosts)

    def allow_also(self, hosts: Iterable[str]) -> None:
        """Replace what is allowed besides the hosts given at the start. Whoever is connected
        stays so; names that were resolved are forgotten after DNS_SECONDS."""
        self._allowed = self._always | _names(hosts)

    def allows(self, host: str, port: int) -> bool:
        """Whether the operator named this host."""
        name = host.lower().strip("[]").rstrip(".")
        written = f"[{name}]" if ":" in name else name
        return not self._allowed.isdisjoint((name, written, f"{written}:{port}"))

    def check_url(self, url: URL) -> None:
        """Refuse schemes other than http(s) and IP literals that are not public.

        Names are checked when they are resolved; aiohttp resolves no literals.
        """
        if url.scheme not in ("http", "https") or not url.host:
            raise EgressRefused("Only http and https addresses can be called.")
        literal = _literal(url.host)
        if literal is None or is_public(literal):
            return
        if not self.allows(url.host, url.port or 0):
            raise EgressRefused("The address is in a private range.")

    def check_address(self, host: str, port: int, address: str) -> None:
        """Refuse a resolved address that is not public, unless its host is allowed."""
        if not self.allows(host, port) and not is_public(ipaddress.ip_address(address)):
            raise EgressRefused(f"{host} resolves to an address in a private range.")


def _names(hosts: Iterable[str]) -> frozenset[str]:
    return frozenset(host.lower() for host in hosts)


@lru_cache(maxsize=4096)
def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address a host spells out; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is globally routable unicast, also behind IPv6 wrappings of IPv4."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.teredo is not None or address not in _UNICAST:
            return False
    return address.is_global and not address.is_multicast


class GuardedResolver(AbstractResolver):
    """Resolves names for aiohttp; one address out of bounds refuses the whole name."""

    def __init__(self, policy: EgressPolicy) -> None:
        self._policy = policy
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        results = await self._resolver.resolve(host, port, family)
        for result in results:
            self._policy.check_address(host, port, result["host"])
        return results

    async def close(self) -> None:
        await self._resolver.close()


def open_session(policy: EgressPolicy, **options: Any) -> aiohttp.ClientSession:
    """A pooled client for foreign addresses: guarded, no cookies, no decompression.

    Callers also run `policy.check_url` on every URL and pass `allow_redirects=False`.
    `options` go to ClientSession. Must be called in the running event loop.
    """
    connector = aiohttp.TCPConnector(
        resolver=GuardedResolver(policy),
        ttl_dns_cache=DNS_SECONDS,
        limit=0,
        limit_per_host=0,
        keepalive_timeout=30,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        requote_redirect_url=False,
        **options,
    )
