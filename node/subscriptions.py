"""Joins subscriptions with the proxy that buys them and the keys that sign."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Engine

from finance.networks import Network
from finance.wallet.signer import Keys
from finance.x402.text import checksum, to_hex
from node.alerts.rules import Alarm
from node.plans.buying.ports import Vault
from node.plans.buying.service import Subscriptions
from node.plans.free import message_digest
from node.proxy.app import Proxy


def build_subscriptions(
    engine: Engine,
    keys: Keys,
    network: Network,
    alarm: Alarm,
    proxy: Proxy,
    clock: Callable[[], float] = time.time,
) -> Subscriptions:
    """Nothing runs yet."""
    return Subscriptions(
        engine, proxy, open_vault(keys), alarm, network.chain_id, proxy.plans.reload, clock
    )


def open_vault(keys: Keys) -> Vault:
    """What subscriptions may do with the node's keys."""

    def sign(text: str) -> str:
        return to_hex(keys.wallet.sign_digest(message_digest(text)))

    return Vault(checksum(keys.wallet.address_bytes), keys.seal, keys.unseal, sign)
