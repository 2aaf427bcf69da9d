"""Our channels as the database holds them, with what is open on them. What loads them blocks."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import Engine
from sqlalchemy import text as sql
from sqlmodel import Session, col, select

from finance.buying.channels import Channel, OpenVoucher, channel_of_row
from finance.buying.purchase import deposit_key
from finance.buying.signing import SignedDeposit
from finance.models import BuyerChannel, ChannelState, LedgerEntry, Purchase, PurchaseState
from finance.networks import Network
from finance.wallet.signer import Keys
from finance.x402.values import DepositPayment
from finance.x402.vouchers import deposit_authorization
from finance.x402.wire import decode_payment

MAX_HEADER_BYTES = 1 << 20
# Into all others a deposit may be on its way: also into one that was stopped, or is being left.
_SETTLED = (ChannelState.OPEN, ChannelState.CLOSED)

# The vouchers that may still be proved: those above what their channel was charged.
_UNRESOLVED = (
    "SELECT p.call_id, p.channel_id, p.cumulative_atoms, p.amount_atoms, p.state FROM purchase p"
    " JOIN buyer_channel c ON c.channel_id = p.channel_id"
    " WHERE p.state IN ('intent', 'refused', 'failed', 'unknown')"
    " AND p.cumulative_atoms > c.charged_atoms{of_one}"
    " ORDER BY p.created_at, p.call_id"
)
_OF_ALL = sql(_UNRESOLVED.format(of_one=""))
_OF_ONE = sql(_UNRESOLVED.format(of_one=" AND p.channel_id = :channel_id"))


def load_channels(engine: Engine, keys: Keys, network: Network) -> list[Channel]:
    """All that these keys pay through on this network, the one used last at the end."""
    with Session(engine) as session:
        return _channels(session, _ours(keys, network), session.execute(_OF_ALL))


def load_channel(
    engine: Engine, keys: Keys, network: Network, channel_id_hex: str
) -> Channel | None:
    """One of them."""
    return _one(engine, _ours(keys, network), channel_id_hex)


async def read_again(engine: Engine, channel: Channel) -> None:
    """Have memory say what the row says. To be called where a guard did not hold: another process
    had the channel for a while, or the database has written what it could not confirm."""
    found = await asyncio.to_thread(_one, engine, select(BuyerChannel), channel.id_hex)
    if found is None or _seen(found) == _seen(channel):
        return
    channel.balance, channel.total_claimed = found.balance, found.total_claimed
    channel.state, channel.charged, channel.signed = _seen(found)
    channel.signature, channel.verified, channel.stored = found.signature, found.verified, True
    channel.stale, channel.unresolved = found.stale, found.unresolved
    channel.deposit, channel.deposit_reservation = found.deposit, None


def _seen(channel: Channel) -> tuple[str, int, int]:
    """What guards compare."""
    return channel.state, channel.charged, channel.signed


def _one(engine: Engine, query: Any, channel_id_hex: str) -> Channel | None:
    this = query.where(BuyerChannel.channel_id == channel_id_hex)
    with Session(engine) as session:
        found = _channels(session, this, session.execute(_OF_ONE, {"channel_id": channel_id_hex}))
    return found[0] if found else None


def _ours(keys: Keys, network: Network) -> Any:
    return (
        select(BuyerChannel)
        .where(
            BuyerChannel.chain_id == network.chain_id,
            BuyerChannel.payer == keys.wallet.address,
            BuyerChannel.payer_authorizer == keys.voucher.address,
        )
        .order_by(col(BuyerChannel.updated_at))
    )


def _channels(session: Session, query: Any, unresolved: Any) -> list[Channel]:
    channels = {row.channel_id: channel_of_row(row) for row in session.exec(query)}
    for call_id, channel_id, cumulative, amount, state in unresolved:
        if (channel := channels.get(channel_id)) is not None:
            # Reservations of a former life stay counted.
            refused = state == PurchaseState.REFUSED
            channel.unresolved.append(OpenVoucher(call_id, cumulative, amount, None, refused))
    for channel in channels.values():
        if channel.state not in _SETTLED:
            channel.deposit = _open_deposit(session, channel)
            channel.stale = channel.stale or channel.deposit is not None
    return list(channels.values())


def _open_deposit(session: Session, channel: Channel) -> SignedDeposit | None:
    """The newest deposit signed for a channel, if it is not booked; the chain says whether it
    arrived."""
    deposit = _last_deposit(session, channel)
    if deposit is None:
        return None
    booked = LedgerEntry.key == deposit_key(channel.id_hex, deposit.nonce)
    return None if session.exec(select(LedgerEntry.id).where(booked)).first() else deposit


def _last_deposit(session: Session, channel: Channel) -> SignedDeposit | None:
    row = session.exec(
        select(Purchase)
        # The 0 in the statement's words, or the database does not see that its index fits.
        .where(Purchase.channel_id == channel.id_hex, col(Purchase.deposit_atoms) > sql("0"))
        .order_by(col(Purchase.created_at).desc(), col(Purchase.call_id).desc())
    ).first()
    if row is None:
        return None
    payload = decode_payment(row.payment_header, MAX_HEADER_BYTES).payload
    if not isinstance(payload, DepositPayment):
        return None
    return SignedDeposit(
        payload.deposit_amount,
        payload.valid_before,
        payload.deposit_salt,
        payload.deposit_signature,
        deposit_authorization(payload).nonce,
    )
