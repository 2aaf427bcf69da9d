"""One bought call: its rows, through all it may become.

    intent ── seller proved the charge ──────────────▶ paid
       ├───── refused with 402, nothing proved ──────▶ refused ─┐
       ├───── error answer, or never sent ───────────▶ failed ──┼─ proof of a charge ▶ paid
       └───── time-out, lost answer, no receipt ─────▶ unknown ─┘

The intent is committed before a signature leaves. A voucher that was not proved
charged stays signed: its amount stays counted until another voucher covers it or the
seller shows that it was charged after all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, text

from finance.buying.channels import Channel, OpenVoucher
from finance.buying.limits import Reservation
from finance.buying.onchain import OnchainChannel
from finance.buying.signing import SignedDeposit
from finance.buying.terms import Terms
from finance.ledger import Account, entry, purchase_key
from finance.models import BuyerChannel, ChannelState, Purchase, PurchaseState
from finance.store import Write
from finance.x402.text import to_hex

INSERT_PURCHASE = insert(Purchase)
INSERT_CHANNEL = insert(BuyerChannel)
SIGN_CHANNEL = text(
    "UPDATE buyer_channel SET signed_atoms = :signed, signature = :signature, state = :state,"
    " updated_at = :now"
    " WHERE channel_id = :channel_id AND signed_atoms = :seen_signed"
    " AND charged_atoms = :seen_charged AND state IN ('opening', 'open')"
)
CHARGE_CHANNEL = text(
    "UPDATE buyer_channel SET charged_atoms = :charged, signed_atoms = :signed,"
    " signature = :signature, balance_atoms = :balance, total_claimed_atoms = :claimed,"
    " state = :state, updated_at = :now"
    " WHERE channel_id = :channel_id AND charged_atoms = :seen_charged"
)
SYNC_CHANNEL = text(
    "UPDATE buyer_channel SET charged_atoms = :charged, signed_atoms = :signed,"
    " signature = :signature, balance_atoms = :balance, total_claimed_atoms = :claimed,"
    " withdraw_requested_at = :withdraw_at, state = :state, updated_at = :now"
    " WHERE channel_id = :channel_id AND charged_atoms = :seen_charged"
)
STOP_CHANNEL = text(
    "UPDATE buyer_channel SET state = 'stopped', stop_reason = :reason, updated_at = :now"
    " WHERE channel_id = :channel_id"
)
# Paid is the end; everything else can still be proved to have been charged.
_END = (
    "UPDATE purchase SET state = :state, charged_atoms = :charged, tx_hash = :tx_hash,"
    " error = :error, updated_at = :now WHERE call_id = :call_id AND state <> 'paid'"
)
END_PURCHASE = text(_END)
# One of its own, so that tolerant writes never loosen the strict ones of the same commit.
END_IF_UNPAID = text(_END)
FREE_KEY = text(
    "UPDATE purchase SET idempotency_key = NULL WHERE call_id = :call_id AND state <> 'paid'"
)


@dataclass(frozen=True, slots=True)
class Order:
    """Who buys what. `origin` is scheme://host:port of the seller, `fingerprint` binds an
    Idempotency-Key to its request. A call that has to pay again has a further purchase id.
    `guard` is written with the intent: where it does not hold, nothing is signed. `channel_id`:
    the one on which an earlier voucher of this call may have been charged; its next tells.
    `refused`: what was signed for this call already, and turned down; `earlier_id`: the purchase
    that an earlier try has left under its Idempotency-Key. `method`, `path` and `route` as in
    finance.models.Purchase."""

    call_id: str
    key_id: str
    listing_id: str
    url: str
    origin: str
    fingerprint: str
    purchase_id: str
    idempotency_key: str | None = None
    guard: Write | None = None
    channel_id: str | None = None
    refused: tuple[Payment, ...] = ()
    earlier_id: str | None = None
    method: str = ""
    path: str = ""
    route: str = ""

    @property
    def signed_before(self) -> list[str]:
        """Ids of all purchases of this call that it knows of."""
        earlier = [] if self.earlier_id is None else [self.earlier_id]
        return [*earlier, *(each.order.purchase_id for each in self.refused)]

    def signed_besides(self, channel: Channel | None) -> int:
        """Atoms that refused payments of this call may still take: a refusal takes no signature
        back. A voucher on the same `channel` is not added to, but replaced."""
        open_ = [each for each in self.refused if not each.outdated]
        return sum(each.amount_atoms for each in open_ if not each.is_replaced_on(channel))


@dataclass(slots=True)
class Payment:
    """A signature on its way, with what it was decided on. `header` is PAYMENT-SIGNATURE,
    `sent_before` says that it left once already and may have been charged then, `outdated`
    that a voucher of another call had taken its amount before, or more."""

    order: Order
    scheme: str
    amount_atoms: int
    header: bytes
    terms: Terms | None = None
    reservation: Reservation | None = None
    channel: Channel | None = None
    cumulative: int = 0
    deposit: SignedDeposit | None = None
    sent_before: bool = False
    outdated: bool = False

    def is_replaced_on(self, channel: Channel | None) -> bool:
        """Whether the channel's next voucher is over the same amount as this open one."""
        if channel is None or channel is not self.channel:
            return False
        return self.cumulative > channel.charged

    def as_open(self, refused: bool = False) -> OpenVoucher:
        """What it leaves behind in its channel while nothing is proved."""
        return OpenVoucher(
            self.order.purchase_id, self.cumulative, self.amount_atoms, self.reservation, refused
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a seller's answer means for a payment; `stop` is why its channel must stop."""

    state: PurchaseState
    charged_atoms: int = 0
    tx_hash: str | None = None
    error: str | None = None
    never_sent: bool = False
    stop: str | None = None


def intent(payment: Payment, now: int) -> list[Write]:
    """The purchase's row, before its signature leaves."""
    order = payment.order
    row = Write(
        INSERT_PURCHASE,
        {
            "call_id": order.purchase_id,
            "key_id": order.key_id,
            "idempotency_key": order.idempotency_key,
            "fingerprint": order.fingerprint,
            "listing_id": order.listing_id,
            "url": order.url,
            "method": order.method,
            "path": order.path,
            "route": order.route,
            "state": PurchaseState.INTENT.value,
            "scheme": payment.scheme,
            "amount_atoms": payment.amount_atoms,
            "charged_atoms": 0,
            "deposit_atoms": payment.deposit.amount_atoms if payment.deposit else 0,
            "channel_id": payment.channel.id_hex if payment.channel else None,
            "cumulative_atoms": payment.cumulative,
            "payment_header": payment.header.decode(),
            "tx_hash": None,
            "error": None,
            "created_at": now,
            "updated_at": now,
        },
    )
    before = [] if order.guard is None else [order.guard]
    if order.idempotency_key is not None:
        # Not of what another process has signed meanwhile: then nothing is signed here.
        before += free_key(order.signed_before)
    return [*before, row]


def call_of(purchase_id: str) -> str:
    """The call that a purchase was made for."""
    return purchase_id.partition("-")[0]


def free_key(purchase_ids: Iterable[str]) -> list[Write]:
    """Take the Idempotency-Key from those of these purchases that are not paid."""
    return [Write(FREE_KEY, {"call_id": each}, rows=None) for each in purchase_ids]


def ended(purchase_id: str, verdict: Verdict, now: int, *, seen: bool = True) -> Write:
    """The purchase's row, once more is known; `seen` False tolerates that it is paid already."""
    params = {
        "call_id": purchase_id,
        "state": verdict.state.value,
        "charged": verdict.charged_atoms,
        "tx_hash": verdict.tx_hash,
        "error": verdict.error,
        "now": now,
    }
    if seen:
        return Write(END_PURCHASE, params)
    return Write(END_IF_UNPAID, params, rows=None)


def spent(purchase_id: str, atoms: int, channel: Channel | None, tx: str | None, now: int) -> Write:
    """The ledger row of a charge."""
    return entry(
        purchase_key(purchase_id),
        Account.SPENT,
        -atoms,
        now,
        channel_id=channel.id_hex if channel else None,
        call_id=call_of(purchase_id),
        tx_hash=tx,
    )


def deposit_key(channel_id_hex: str, nonce: bytes) -> str:
    """The ledger key of a deposit."""
    return f"deposit:{channel_id_hex}:{to_hex(nonce)}"


def deposited(channel: Channel, deposit: SignedDeposit, now: int) -> Write:
    """The ledger row of a deposit the chain has taken."""
    return entry(
        deposit_key(channel.id_hex, deposit.nonce),
        Account.DEPOSITED,
        deposit.amount_atoms,
        now,
        channel_id=channel.id_hex,
    )


def channel_row(channel: Channel, chain_id: int, signed: int, signature: bytes, now: int) -> Write:
    """A new channel's row, with the first amount signed on it."""
    config = channel.config
    params = {
        "channel_id": channel.id_hex,
        "chain_id": chain_id,
        "payer": to_hex(config.payer),
        "payer_authorizer": to_hex(config.payer_authorizer),
        "receiver": to_hex(config.receiver),
        "receiver_authorizer": to_hex(config.receiver_authorizer),
        "token": to_hex(config.token),
        "withdraw_delay": config.withdraw_delay,
        "salt": to_hex(config.salt),
        "state": ChannelState.OPENING.value if signed > channel.balance else channel.state,
        "stop_reason": None,
        "balance_atoms": channel.balance,
        "charged_atoms": channel.charged,
        "signed_atoms": signed,
        "signature": to_hex(signature),
        "total_claimed_atoms": channel.total_claimed,
        "withdraw_requested_at": 0,
        "origin": channel.seller.origin,
        "updated_at": now,
    }
    return Write(INSERT_CHANNEL, params)


def channel_signed(
    channel: Channel, signed: int, signature: bytes, opening: bool, now: int
) -> Write:
    """The channel's highest signature, guarded by what the decision was made on."""
    params = {
        "channel_id": channel.id_hex,
        "signed": signed,
        "signature": to_hex(signature),
        "state": ChannelState.OPENING.value if opening else channel.state,
        "seen_signed": channel.signed,
        "seen_charged": channel.charged,
        "now": now,
    }
    return Write(SIGN_CHANNEL, params)


def channel_charged(channel: Channel, charged: int, now: int) -> Write:
    """The channel's books as they stand in memory, with a new cumulative charge."""
    balance, claimed = channel.balance, channel.total_claimed
    return Write(CHARGE_CHANNEL, _books(channel, charged, balance, claimed, channel.state, now))


def channel_synced(
    channel: Channel, charged: int, onchain: OnchainChannel, state: str, now: int
) -> Write:
    """The channel's books with what the chain says."""
    books = _books(channel, charged, onchain.balance, onchain.total_claimed, state, now)
    return Write(SYNC_CHANNEL, {**books, "withdraw_at": onchain.withdraw_requested_at})


def _books(
    channel: Channel, charged: int, balance: int, claimed: int, state: str, now: int
) -> dict[str, Any]:
    return {
        "channel_id": channel.id_hex,
        "charged": charged,
        "signed": max(channel.signed, charged),
        "signature": to_hex(channel.signature),
        "balance": balance,
        "claimed": claimed,
        "state": state,
        "seen_charged": channel.charged,
        "now": now,
    }


def channel_stopped(channel: Channel, reason: str, now: int) -> Write:
    """The end of trust: nothing is signed for this channel any more."""
    params = {"channel_id": channel.id_hex, "reason": reason[:500], "now": now}
    return Write(STOP_CHANNEL, params)
