"""After a restart, and whenever an authorization's fate is open: what became of it.

Vouchers are settled by the seller's next proof, deposits by the chain before their
channel is used again, `exact` authorizations by their nonce on the chain.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from sqlmodel import Session, col, func, select

from finance.buying.buyer import Buyer
from finance.buying.limits import Reservation, utc_day
from finance.buying.lost import ANSWER_LOST
from finance.buying.purchase import Verdict, ended, spent
from finance.buying.stored import MAX_HEADER_BYTES, load_channels
from finance.errors import PaymentMalformed, RpcUnavailable, StoreConflict
from finance.models import Purchase, PurchaseState
from finance.store import Batch
from finance.x402.values import EXACT, ExactPayment
from finance.x402.wire import decode_payment

_log = logging.getLogger(__name__)
_OPEN = (PurchaseState.INTENT.value, PurchaseState.UNKNOWN.value)
_NEVER = Verdict(PurchaseState.FAILED, error="authorization_expired")


async def restore(buyer: Buyer) -> None:
    """Load counters, channels and what is open. Call once, before the first payment."""
    await asyncio.to_thread(buyer.spending.load, time.time())
    engine, keys, network = buyer.store.engine, buyer.keys, buyer.network
    for channel in await asyncio.to_thread(load_channels, engine, keys, network):
        if await buyer.pools.hold(channel):
            buyer.pools.pool(channel.seller).channels.append(channel)


async def settle_exact(
    buyer: Buyer, older_than_seconds: int = 0, purchase_id: str | None = None
) -> int:
    """Ask the chain about every open `exact` authorization; return how many stay open.

    A used nonce is a charge. One that was not used and has expired can never be: what was
    counted for it is given back. Younger purchases than asked for are left alone, and all but
    `purchase_id` where one is named: their call may still be running, in another process. So are
    those of another network, where this chain says nothing.
    """
    rows = await asyncio.to_thread(_open_exact, buyer, older_than_seconds, purchase_id)
    left = 0
    for row in rows:
        try:
            left += not await _settle_one(buyer, row)
        except RpcUnavailable:
            return len(rows)
        except (PaymentMalformed, StoreConflict) as error:
            # Settled by its own call in the meantime, or not ours to read.
            _log.info("purchase %s is not settled here: %s", row.call_id, error)
    return left


def _open_exact(
    buyer: Buyer, older_than_seconds: int, purchase_id: str | None
) -> Sequence[Purchase]:
    # What a clock that ran ahead has written is not young.
    age = func.abs(int(time.time()) - col(Purchase.updated_at))
    rows = select(Purchase).where(
        Purchase.scheme == EXACT, col(Purchase.state).in_(_OPEN), age >= older_than_seconds
    )
    if purchase_id is not None:
        rows = rows.where(Purchase.call_id == purchase_id)
    with Session(buyer.store.engine) as session:
        return session.exec(rows).all()


async def _settle_one(buyer: Buyer, row: Purchase) -> bool:
    payment = decode_payment(row.payment_header, MAX_HEADER_BYTES)
    payload, elsewhere = payment.payload, payment.accepted.network != buyer.network.caip2
    if elsewhere or not isinstance(payload, ExactPayment):
        return True
    authorization = payload.authorization
    found = await buyer.view.authorization(authorization.from_address, authorization.nonce)
    if row.call_id in buyer.books.running:
        return False  # its answer may come yet, however late
    now = int(time.time())
    if found.used:
        verdict = Verdict(PurchaseState.PAID, row.amount_atoms, row.tx_hash, ANSWER_LOST)
        call = await buyer.proved_late(row.call_id, row.amount_atoms)
        books = [
            ended(row.call_id, verdict, now),
            spent(row.call_id, row.amount_atoms, None, row.tx_hash, now),
        ]
        await buyer.store.commit(Batch([*call.writes, *books], call.increments))
        return True
    if not found.expired(authorization.valid_before):
        return False
    counted = Reservation(row.listing_id, row.key_id, utc_day(row.created_at), row.amount_atoms)
    releases = buyer.spending.release(counted)
    await buyer.store.commit(Batch([ended(row.call_id, _NEVER, now), *releases]))
    return True


async def settle_channels(buyer: Buyer) -> int:
    """Ask the chain about idle channels with an open deposit, or that something happened to;
    return how many stay open."""
    await buyer.pools.hold_on()
    left = 0
    for pool in list(buyer.pools.sellers.values()):
        for channel in pool.channels:
            if not channel.stale:
                continue
            if channel.busy:
                left += 1
                continue
            channel.busy = True
            try:
                left += not await buyer.deposits.confirm(channel)
            except StoreConflict as error:
                left += 1
                _log.info("channel %s is not settled now: %s", channel.id_hex, error)
            finally:
                pool.release(channel)
    return left
