"""A gateway process in the middle of two calls: one authorization reserved, one answer
being streamed. It holds them until it is killed.

    python -m tests.recovery.holding_process DATABASE_URL
"""

from __future__ import annotations

import asyncio
import sys

from sqlalchemy import text

from finance.models import PaymentKind
from finance.money import MAX_ATOMS
from finance.selling.channels import Channel, charge_writes, open_channel, stream_writes
from finance.selling.reservations import Authorization, reserve
from finance.store import Batch, Write
from finance.x402.offers import Terms
from finance.x402.values import ChannelConfig, ExactPayment, TransferAuthorization
from node.db.engine import open_engine
from node.db.journal import Journal
from node.db.presence import Presence

ATOMS = 10
_ADDRESS = b"\x01" * 20
_WORD = bytes(32)
_TERMS = Terms("l", "/", "GET", "https://x", ATOMS, _ADDRESS, _ADDRESS, 1, _ADDRESS, "USDC", "2")
_CONFIG = ChannelConfig(_ADDRESS, _ADDRESS, _ADDRESS, _ADDRESS, _ADDRESS, 900, _WORD)
_PAYMENT = ExactPayment(TransferAuthorization(_ADDRESS, _ADDRESS, ATOMS, 0, MAX_ATOMS, _WORD), b"s")
AUTHORIZATION = Authorization(
    PaymentKind.EXACT, 1, "0xt", "0xp", "0xn", "0xr", ATOMS, 0, MAX_ATOMS, "0xs"
)
_FUND = text("UPDATE seller_channel SET state = 'open', balance_atoms = 1000")


async def _hold(url: str) -> None:
    engine = open_engine(url)
    journal, presence, channel = Journal(engine), Presence(engine), Channel(_WORD, _CONFIG)
    presence.show()
    opened = [open_channel(_WORD, _CONFIG, 1, 0), Write(_FUND, {})]
    taken = reserve(AUTHORIZATION, _PAYMENT, _TERMS, "reserved", 0, presence.number)
    charge = charge_writes(channel, ATOMS, ATOMS, b"s", "streamed", 0)
    await journal.commit(Batch(opened))
    await journal.commit(Batch([taken, *stream_writes(charge, ATOMS, presence.number)]))
    print("holding", flush=True)
    await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(_hold(sys.argv[1]))
