"""The market's services of one node, as pages, endpoints and jobs hold them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sqlalchemy import Engine

from catalog.search_index import refresh_index
from finance.networks import Network
from node.alerts.rules import Alarm
from node.db.engine import writer
from node.egress import EgressPolicy
from node.market.catalog import Reload
from node.market.network import NetworkChoices
from node.market.paste import Paste
from node.market.sync import Sync
from node.market.try_it import TryIt
from node.preferences import read_preference
from node.settings import Settings


@dataclass(frozen=True, slots=True)
class Shop:
    """What is sold elsewhere, found, added and tried. `reload`: the proxy reads listings anew."""

    engine: Engine
    settings: Settings
    network: Network
    egress: EgressPolicy
    alarm: Alarm
    sync: Sync
    paste: Paste
    try_it: TryIt
    reload: Reload

    async def take_over(self) -> None:
        """What others changed: hosts that may be reached, and listings for the search."""
        choices = await asyncio.to_thread(read_preference, self.engine, NetworkChoices)
        self.egress.allow_also(choices.extra_hosts)
        await asyncio.to_thread(refresh_index, writer(self.engine))
