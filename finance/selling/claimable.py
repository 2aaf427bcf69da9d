"""Channels that owe us money on vouchers: their rows, and the claims made of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Engine, Row, bindparam, func, select, update

from finance.models import ChainTx, OnchainPayment, SellerChannel, TxState
from finance.networks import Network
from finance.selling.claim_policy import ClaimView
from finance.selling.mirror import config_of
from finance.store import Write
from finance.wallet.signer import Signer
from finance.x402.digest import claim_batch_digest, keccak
from finance.x402.settlement_calls import Claim, claim_calldata, multicall_calldata, settle_calldata
from finance.x402.text import to_hex

CLAIM = "claim"

_CHANNEL = SellerChannel.__table__  # type: ignore[attr-defined]
_TX = ChainTx.__table__  # type: ignore[attr-defined]
_PAYMENT = OnchainPayment.__table__  # type: ignore[attr-defined]
_DELIVERED = _CHANNEL.c.charged_atoms - _CHANNEL.c.streaming_atoms

_RAISE_CLAIMED = (
    update(_CHANNEL)
    .where(
        _CHANNEL.c.channel_id == bindparam("id"),
        _CHANNEL.c.total_claimed_atoms < bindparam("claimed"),
    )
    .values(total_claimed_atoms=bindparam("claimed"))
)


@dataclass(frozen=True, slots=True)
class Claimable:
    """A channel with delivered calls that are not claimed; `claim.total_claimed` is what
    it will have been claimed in all, never more than the channel holds."""

    channel_id: str
    claim: Claim
    owed: int
    claimed_before: int
    withdraw_requested_at: int
    state: str

    @property
    def gain(self) -> int:
        """Atoms that claiming brings."""
        return self.claim.total_claimed - self.claimed_before

    @property
    def entry(self) -> tuple[bytes, int, int]:
        """What the receiver authorizer signs."""
        channel_id = bytes.fromhex(self.channel_id[2:])
        return channel_id, self.claim.max_claimable, self.claim.total_claimed

    def view(self) -> ClaimView:
        """As the policy sees it: what cannot be had any more waits for nobody."""
        return ClaimView(self.channel_id, self.gain, self.withdraw_requested_at, self.state)


def load_claimable(
    engine: Engine, network: Network, channel_ids: Collection[str] | None = None
) -> list[Claimable]:
    """Channels that owe something, the most first; only these if ids are given."""
    query = (
        select(_CHANNEL)
        .where(_CHANNEL.c.chain_id == network.chain_id, _CHANNEL.c.total_claimed_atoms < _DELIVERED)
        .order_by((_DELIVERED - _CHANNEL.c.total_claimed_atoms).desc())
    )
    if channel_ids is not None:
        query = query.where(_CHANNEL.c.channel_id.in_(sorted(channel_ids)))
    with engine.connect() as connection:
        return [_claimable(row) for row in connection.execute(query)]


def _claimable(row: Row[Any]) -> Claimable:
    delivered = row.charged_atoms - row.streaming_atoms
    total = max(min(delivered, row.balance_atoms), row.total_claimed_atoms)
    signature = bytes.fromhex(row.voucher_signature[2:])
    return Claimable(
        row.channel_id,
        Claim(config_of(row), row.signed_atoms, signature, total),
        delivered - row.total_claimed_atoms,
        row.total_claimed_atoms,
        row.withdraw_requested_at,
        row.state,
    )


def receivers_of(engine: Engine, chain_id: int) -> list[tuple[bytes, bytes]]:
    """Wallets that channels pay, with the token they pay in (blocking)."""
    query = select(_CHANNEL.c.receiver, _CHANNEL.c.token).distinct()
    with engine.connect() as connection:
        rows = connection.execute(query.where(_CHANNEL.c.chain_id == chain_id)).all()
    return [(bytes.fromhex(row.receiver[2:]), bytes.fromhex(row.token[2:])) for row in rows]


def claim_call(channels: Sequence[Claimable], signer: Signer, chain_id: int) -> bytes:
    """`claimWithSignature` for these channels, signed by the receiver authorizer."""
    signed = claim_batch_digest([channel.entry for channel in channels], chain_id)
    return claim_calldata([channel.claim for channel in channels], signer.sign_digest(signed))


def claim_and_sweep(channels: Sequence[Claimable], signer: Signer, chain_id: int) -> bytes:
    """Claim all of these and move the money to the receiver's wallet, or nothing of it.

    They must have one receiver and token.
    """
    config = channels[0].claim.config
    sweep = settle_calldata(config.receiver, config.token)
    return multicall_calldata([claim_call(channels, signer, chain_id), sweep])


def claim_reference(channels: Sequence[Claimable]) -> str:
    """The same claims are the same transaction."""
    entries = [channel.entry for channel in channels]
    return to_hex(keccak(msgspec.msgpack.encode(entries)))


def next_reference(engine: Engine, purpose: str, base: str, sender: str) -> str:
    """`base`, or its next turn if the chain reverted the transactions before, or they are of a
    wallet that `sender` has replaced: nobody can see to it that they are mined. For what the chain
    does once however often it is sent."""
    unsigned = _TX.c.state.in_([TxState.INTENDED, TxState.REJECTED])
    over = select(func.count()).where(
        _TX.c.purpose == purpose,
        _TX.c.ref.startswith(f"{base}:", autoescape=True),
        (_TX.c.state == TxState.REVERTED) | ((_TX.c.sender != sender) & ~unsigned),
    )
    with engine.connect() as connection:
        return f"{base}:{connection.scalar(over) or 0}"


def raise_claimed(channel_id: str, total_claimed: int) -> Write:
    """The chain says so much was claimed; a row that knows already stays as it is."""
    return Write(_RAISE_CLAIMED, {"id": channel_id, "claimed": total_claimed}, rows=None)


def last_claim_at(engine: Engine, chain_id: int, now: int) -> int:
    """When the last claim was made; before the first one, when the first payment came. What a
    clock, which was wrong then, puts into the future says nothing; 0: nothing is known."""
    made = [TxState.SIGNED, TxState.BROADCAST, TxState.MINED, TxState.FINAL]
    claims = select(func.max(_TX.c.created_at)).where(
        _TX.c.chain_id == chain_id,
        _TX.c.purpose == CLAIM,
        _TX.c.state.in_(made),
        _TX.c.created_at <= now,
    )
    payments = select(func.min(_PAYMENT.c.created_at)).where(
        _PAYMENT.c.chain_id == chain_id, _PAYMENT.c.created_at <= now
    )
    with engine.connect() as connection:
        at = connection.scalar(claims) or connection.scalar(payments)
    return int(at or 0)
