"""What every use case of selling needs: the database, the seals, and the way out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Engine

from catalog.models import Listing, ListingDraft
from node.egress import EgressPolicy
from node.market.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Publisher:
    """`egress` is asked anew each time: operators change what may be reached."""

    engine: Engine
    seal: Callable[[bytes], str]
    unseal: Callable[[str], bytes]
    egress: Callable[[], EgressPolicy]
    # Specifications being checked; each may take a core for a while.
    checks: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))

    def upstream(self, row: Listing | ListingDraft) -> Upstream:
        return Upstream.of(row, self.unseal)
