"""The tables of money. State lives here, rules do not.

Hex (ids, hashes, addresses, signatures) is lower-case text with `0x`; amounts are
64-bit integers of USDC atoms (10^-6) unless a name says `wei`; times are Unix
seconds (`_at`) unless a name says `_ms`. Enum values are stored as strings and
only ever added to.
"""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, Index, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from finance.columns import ROW_ID, atoms, index_where


class ChannelState(StrEnum):
    """The life of a channel, on either side."""

    OPENING = "opening"  # a deposit is on its way; nothing is confirmed yet
    OPEN = "open"
    STOPPED = "stopped"  # buyer: the seller's answers did not add up; sign no more
    WITHDRAWING = "withdrawing"  # buyer: its payer takes money back on-chain; set aside
    REFUNDING = "refunding"
    CLOSED = "closed"


class SellerChannel(SQLModel, table=True):
    """A channel somebody pays us through: its terms, the chain's mirror, our books.

    Invariant: total_claimed <= charged - streaming <= charged <= signed <= balance, where
    signed is the cumulative amount of the best voucher held (x402 batch-settlement,
    "Per-Channel State").
    """

    __tablename__ = "seller_channel"
    __table_args__ = (
        CheckConstraint("0 <= streaming_atoms AND streaming_atoms <= charged_atoms"),
        CheckConstraint("charged_atoms <= signed_atoms"),
        CheckConstraint("0 <= balance_atoms AND 0 <= total_claimed_atoms"),
    )

    channel_id: str = Field(primary_key=True, description="EIP-712 hash of the config")
    chain_id: int
    payer: str
    payer_authorizer: str = Field(description="signs vouchers; zero address means EIP-1271 payer")
    receiver: str
    receiver_authorizer: str
    token: str
    withdraw_delay: int = Field(sa_type=BigInteger, description="seconds")
    salt: str
    state: str = Field(default=ChannelState.OPENING)
    balance_atoms: int = atoms("on-chain: deposited minus withdrawn and refunded")
    total_claimed_atoms: int = atoms("on-chain: cumulative amount claimed")
    withdraw_requested_at: int = Field(
        default=0, sa_type=BigInteger, description="on-chain; 0 when none"
    )
    withdraw_amount_atoms: int = atoms("on-chain: amount of the pending withdrawal")
    refund_nonce: int = Field(
        default=0, sa_type=BigInteger, description="on-chain: next nonce of a signed refund"
    )
    synced_at: int = Field(
        default=0, sa_type=BigInteger, description="when the on-chain mirror was last refreshed"
    )
    synced_block: int = Field(
        default=0, sa_type=BigInteger, description="the block that the mirror shows"
    )
    charged_atoms: int = atoms("cumulative amount charged for delivered calls")
    streaming_atoms: int = atoms("part of charged whose answer is still being streamed")
    streaming_owner: int = Field(
        default=0, sa_type=BigInteger, description="number of the process that streams it"
    )
    signed_atoms: int = atoms("cumulative amount of the voucher below")
    voucher_signature: str = Field(default="0x", description="best voucher of the payer")
    last_request_at: int = Field(default=0, sa_type=BigInteger)


class PaymentKind(StrEnum):
    EXACT = "exact"
    DEPOSIT = "deposit"


class PaymentState(StrEnum):
    """The life of one on-chain payment to us (exact, or a deposit with its first voucher).

    reserved -> released            upstream failed, caller gone: may be presented again
    reserved -> owed                answer stored; the money must move before it leaves
    owed -> sent                    part of a transaction (`tx_id`), outcome open
    sent -> confirmed | failed      by its own event on the chain
    sent -> owed                    the transaction failed without touching this payment
    """

    RESERVED = "reserved"
    RELEASED = "released"
    OWED = "owed"
    SENT = "sent"
    CONFIRMED = "confirmed"
    FAILED = "failed"


class OnchainPayment(SQLModel, table=True):
    """An authorization (EIP-3009) presented to us: at most one service each (law 1)."""

    __tablename__ = "onchain_payment"
    __table_args__ = (
        UniqueConstraint("chain_id", "token", "payer", "nonce", name="uq_authorization"),
        CheckConstraint("value_atoms >= 0 AND charge_atoms >= 0"),
        Index("ix_onchain_payment_state", "state"),
    )

    id: str = Field(primary_key=True, description="call id that reserved it last")
    kind: str
    state: str
    chain_id: int
    token: str
    payer: str
    nonce: str = Field(description="EIP-3009 nonce, bytes32")
    pay_to: str = Field(description="exact: our wallet; deposit: the collector")
    value_atoms: int = atoms("amount the authorization moves")
    charge_atoms: int = atoms("price of the call it pays for")
    valid_after: int = Field(sa_type=BigInteger)
    valid_before: int = Field(sa_type=BigInteger)
    signature: str = Field(sa_type=Text)
    channel_id: str | None = Field(default=None, description="deposit: the channel it funds")
    deposit_salt: str | None = Field(default=None, description="deposit: salt of the nonce, hex")
    voucher_atoms: int = atoms("deposit: cumulative amount of its voucher")
    voucher_signature: str | None = None
    fingerprint: str = Field(description="hash of method, target, body and payment")
    owner: int = Field(
        default=0, sa_type=BigInteger, description="number of the process that reserved it last"
    )
    listing_id: str
    route: str
    tx_id: int | None = Field(
        default=None, sa_type=BigInteger, description="chain_tx that carries it"
    )
    tx_hash: str | None = None
    log_index: int | None = None
    error: str | None = Field(default=None, description="x402 errorReason when failed")
    created_at: int = Field(default=0, sa_type=BigInteger)
    updated_at: int = Field(default=0, sa_type=BigInteger)


FORGOTTEN_ONE_DAY = "substr(key, 1, 8) <> 'channel:'"
"""Stored answers that are not the last one of a channel, in the words of their index."""


class StoredAnswer(SQLModel, table=True):
    """An answer that was paid for, kept so that a retry gets it without paying again.

    Keys: `channel:<id>` (only its last answer), `auth:<chain>:<token>:<payer>:<nonce>`,
    `id:<listing>:<payment-identifier>`; buyer: `idem:<key id>:<Idempotency-Key>`.
    Status 101: it was given while it came, and only the place is kept; 100: it will be.
    """

    __tablename__ = "stored_answer"
    __table_args__ = (
        # Few, and found by their call when they break off.
        index_where("status = 101", "ix_stored_answer_streamed", "call_id"),
        # By age those that are forgotten one day; a channel's last answer changes with each call.
        index_where(FORGOTTEN_ONE_DAY, "ix_stored_answer_age", "created_at"),
    )

    key: str = Field(primary_key=True)
    fingerprint: str = Field(description="hash of method, target, body and payment")
    call_id: str
    status: int
    headers: str = Field(sa_type=Text, description="JSON list of [name, value] pairs")
    body: bytes
    created_at: int = Field(sa_type=BigInteger)


class TxState(StrEnum):
    """The life of one transaction of ours (law 5).

    intended -> signed -> broadcast -> mined -> final
    intended -> rejected            simulation refused it, nothing was broadcast
    broadcast -> reverted           mined with status 0
    mined -> broadcast              its block was reorganised away
    `broadcast` without a receipt is the "unknown" of law 5: it stays open.
    """

    INTENDED = "intended"
    SIGNED = "signed"
    BROADCAST = "broadcast"
    MINED = "mined"
    FINAL = "final"
    REVERTED = "reverted"
    REJECTED = "rejected"


class ChainTx(SQLModel, table=True):
    """One transaction we want on the chain, through all its replacements."""

    __tablename__ = "chain_tx"
    __table_args__ = (
        UniqueConstraint("purpose", "ref", name="uq_chain_tx_ref"),
        UniqueConstraint("chain_id", "sender", "nonce", name="uq_chain_tx_nonce"),
        Index("ix_chain_tx_state", "state"),
        Index("ix_chain_tx_hash", "tx_hash"),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=ROW_ID)
    chain_id: int
    sender: str
    purpose: str = Field(description="settle, claim, refund, withdraw_usdc, withdraw_eth, ...")
    ref: str = Field(description="unique per purpose: asking twice gives the same transaction")
    to: str
    value_wei: str = Field(default="0", description="uint256 as decimal text")
    data: str = Field(sa_type=Text)
    state: str = Field(default=TxState.INTENDED)
    nonce: int | None = Field(default=None, description="null again if nothing was broadcast")
    gas_limit: int | None = None
    block_number: int | None = Field(default=None, sa_type=BigInteger)
    block_hash: str | None = None
    tx_hash: str | None = Field(default=None, description="the attempt that was mined")
    gas_used: int | None = None
    fee_wei: int | None = Field(default=None, sa_type=BigInteger, description="gas paid")
    error: str | None = Field(default=None, sa_type=Text)
    created_at: int = Field(default=0, sa_type=BigInteger)
    updated_at: int = Field(default=0, sa_type=BigInteger)


class ChainTxAttempt(SQLModel, table=True):
    """One signed form of a transaction; stored before it is broadcast."""

    __tablename__ = "chain_tx_attempt"

    tx_hash: str = Field(primary_key=True)
    tx_id: int = Field(index=True, sa_type=BigInteger)
    raw: str = Field(sa_type=Text, description="signed bytes, hex")
    max_fee_wei: int = Field(sa_type=BigInteger)
    max_priority_fee_wei: int = Field(sa_type=BigInteger)
    created_at: int = Field(default=0, sa_type=BigInteger)


class ChainCursor(SQLModel, table=True):
    """How far the watcher has read the chain, with the hashes it saw (reorg detection)."""

    __tablename__ = "chain_cursor"

    chain_id: int = Field(primary_key=True)
    block_number: int = Field(primary_key=True, sa_type=BigInteger)
    block_hash: str


class ChainEvent(SQLModel, table=True):
    """An event that concerns us, once per (transaction, log index) of its block."""

    __tablename__ = "chain_event"
    __table_args__ = (
        UniqueConstraint("chain_id", "block_hash", "tx_hash", "log_index", name="uq_chain_event"),
        Index("ix_chain_event_block", "chain_id", "block_number"),
        Index("ix_chain_event_tx", "tx_hash", "log_index"),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=ROW_ID)
    chain_id: int
    block_number: int = Field(sa_type=BigInteger)
    block_hash: str
    tx_hash: str
    log_index: int
    name: str = Field(description="Transfer, Deposited, Claimed, WithdrawInitiated, ...")
    channel_id: str | None = Field(default=None, index=True)
    args: str = Field(sa_type=Text, description="decoded arguments, JSON; uint256 as text")
    orphaned: bool = Field(default=False, description="its block was reorganised away")
    seen_at: int = Field(default=0, sa_type=BigInteger)


class LedgerEntry(SQLModel, table=True):
    """One movement of money, never edited; a correction is a row of its own (law 9)."""

    __tablename__ = "ledger_entry"
    __table_args__ = (
        UniqueConstraint("key", name="uq_ledger_key"),
        # Charges are written thousands of times a second: only movements on the chain, of
        # which there are few, are indexed.
        index_where("tx_hash IS NOT NULL", "ix_ledger_onchain", "account", "at"),
        index_where("tx_hash IS NOT NULL", "ix_ledger_tx", "tx_hash"),
        index_where("action IS NOT NULL", "ix_ledger_action", "action", "at"),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=ROW_ID)
    key: str = Field(description="what moved, once: charge:<call>, ...")
    account: str = Field(description="see finance.ledger.Account")
    amount: int = Field(sa_type=BigInteger, description="signed; USDC atoms, gas account: wei")
    channel_id: str | None = None
    call_id: str | None = None
    tx_hash: str | None = None
    log_index: int | None = None
    at: int = Field(default=0, sa_type=BigInteger)
    action: str | None = Field(
        default=None, description="of the wallet's transfers: see finance.actions"
    )


class BuyerChannel(SQLModel, table=True):
    """A channel we pay a seller through.

    Invariant: charged <= signed; signed never decreases while the channel is open, except
    when the seller proves with our own voucher that less was charged (corrective 402).
    """

    __tablename__ = "buyer_channel"
    __table_args__ = (
        CheckConstraint("charged_atoms <= signed_atoms"),
        Index("ix_buyer_channel_seller", "chain_id", "receiver", "state"),
    )

    channel_id: str = Field(primary_key=True)
    chain_id: int
    payer: str
    payer_authorizer: str
    receiver: str
    receiver_authorizer: str
    token: str
    withdraw_delay: int = Field(sa_type=BigInteger, description="seconds")
    salt: str
    state: str = Field(default=ChannelState.OPENING)
    stop_reason: str | None = None
    balance_atoms: int = atoms("what we deposited and was not refunded")
    charged_atoms: int = atoms("cumulative amount the seller proved it charged")
    signed_atoms: int = atoms("highest cumulative amount we ever signed")
    signature: str = Field(default="0x", description="our voucher over signed_atoms")
    total_claimed_atoms: int = atoms("on-chain, as last seen")
    withdraw_requested_at: int = Field(default=0, sa_type=BigInteger)
    origin: str = Field(default="", description="scheme://host:port the channel was opened for")
    updated_at: int = Field(default=0, sa_type=BigInteger)


class PurchaseState(StrEnum):
    """The life of one bought call.

    intent -> paid | refused | failed | unknown
    `intent` and `unknown` may have been charged: a retry sends the same signature again.
    """

    INTENT = "intent"
    PAID = "paid"
    REFUSED = "refused"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Purchase(SQLModel, table=True):
    """A signature we gave for one call, stored before it leaves (law 7)."""

    __tablename__ = "purchase"
    __table_args__ = (
        UniqueConstraint("key_id", "idempotency_key", name="uq_purchase_idempotency"),
        Index("ix_purchase_state", "state"),
        # Of deposits only, one in thousands of purchases: a bought call does not write it.
        index_where("deposit_atoms > 0", "ix_purchase_deposit", "channel_id", "created_at"),
    )

    call_id: str = Field(primary_key=True)
    key_id: str
    idempotency_key: str | None = None
    fingerprint: str = Field(description="hash of listing, method, target and body")
    listing_id: str
    url: str = Field(sa_type=Text)
    method: str = ""
    path: str = Field(default="", sa_type=Text, description="below the listing, without query")
    route: str = Field(default="", description="as the call is counted, e.g. GET /forecast/{city}")
    state: str = Field(default=PurchaseState.INTENT)
    scheme: str
    amount_atoms: int = atoms("price signed for")
    charged_atoms: int = atoms("price proved charged")
    deposit_atoms: int = atoms("deposit signed with it")
    channel_id: str | None = None
    cumulative_atoms: int = atoms("voucher amount signed")
    payment_header: str = Field(sa_type=Text, description="PAYMENT-SIGNATURE as sent")
    tx_hash: str | None = None
    error: str | None = None
    created_at: int = Field(default=0, sa_type=BigInteger)
    updated_at: int = Field(default=0, sa_type=BigInteger)
