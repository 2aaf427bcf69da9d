"""What operators choose about the world outside: how often peers are read, whom to reach."""

from __future__ import annotations

import re

from catalog.errors import CatalogError
from node.preferences import Preference

SYNC_MINUTES = (15, 30, 60, 180, 360, 720, 1440)
MAX_HOSTS = 50
_HOST = re.compile(r"(?:[a-z0-9_.-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::[0-9]{1,5})?")


class NetworkChoices(Preference, frozen=True, tag="network"):
    """`extra_hosts` are `host` or `host:port` in private ranges that may be reached, besides
    those of the configuration."""

    sync_minutes: int = 60
    extra_hosts: tuple[str, ...] = ()


class HostsInvalid(CatalogError):
    """A choice that cannot be accepted; the text says which."""

    code = "network_choice_invalid"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def parse_hosts(text: str) -> tuple[str, ...]:
    """One host per line (or comma). Raises HostsInvalid."""
    hosts = [each.strip().lower() for each in re.split(r"[\s,]+", text) if each.strip()]
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise HostsInvalid(
                "hosts", f"{host[:80]!r} is no host or host:port, e.g. 10.0.0.5:8402."
            )
    if len(hosts) > MAX_HOSTS:
        raise HostsInvalid("hosts", f"At most {MAX_HOSTS} hosts.")
    return tuple(dict.fromkeys(hosts))
