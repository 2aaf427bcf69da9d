"""Payments whose answer is stored and whose money must move: rows, and the calls they make."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Engine, Row, bindparam, func, select, update

from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS
from finance.models import (
    ChainTx,
    ChannelState,
    OnchainPayment,
    PaymentKind,
    PaymentState,
    SellerChannel,
)
from finance.networks import Network
from finance.selling.mirror import OnchainState, config_of, state_of
from finance.x402.digest import (
    domain_separator,
    receive_authorization_digest,
    recover_address,
    transfer_authorization_digest,
)
from finance.x402.exact import transfer_calldata
from finance.x402.settlement_calls import deposit_calldata
from finance.x402.text import to_hex
from finance.x402.values import ChannelConfig, DepositPayment, ExactPayment, TransferAuthorization

SETTLE = "settle"

_PAYMENT = OnchainPayment.__table__  # type: ignore[attr-defined]
_CHANNEL = SellerChannel.__table__  # type: ignore[attr-defined]
_TX = ChainTx.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Owed:
    """One `onchain_payment` row; `config` and `channel` (its mirror) are a deposit's."""

    id: str
    kind: str
    state: str
    token: str
    payer: str
    nonce: str
    pay_to: str
    value_atoms: int
    charge_atoms: int
    valid_after: int
    valid_before: int
    signature: str
    channel_id: str | None
    deposit_salt: str | None
    voucher_atoms: int
    voucher_signature: str | None
    tx_id: int | None
    tx_hash: str | None
    log_index: int | None
    error: str | None
    owner: int
    created_at: int
    config: ChannelConfig | None = None
    channel: OnchainState | None = None

    def authorization(self) -> TransferAuthorization:
        """What the payer signed for the token."""
        return TransferAuthorization(
            _bytes(self.payer),
            _bytes(self.pay_to),
            self.value_atoms,
            self.valid_after,
            self.valid_before,
            _bytes(self.nonce),
        )


_FIELDS = tuple(name for name in Owed.__slots__ if name not in ("config", "channel"))


def load(engine: Engine, ids: Collection[str]) -> list[Owed]:
    """The rows of these payments as they are now, deposits with their channel."""
    return _load(engine, _PAYMENT.c.id.in_(sorted(ids)))


def load_open(engine: Engine, chain_id: int) -> list[Owed]:
    """Every payment whose money is still to move or on its way."""
    states = _PAYMENT.c.state.in_([PaymentState.OWED, PaymentState.SENT])
    return _load(engine, states & (_PAYMENT.c.chain_id == chain_id))


def load_mined_in(engine: Engine, tx_hashes: Collection[str]) -> list[Owed]:
    """Payments confirmed by events of these transactions."""
    confirmed = _PAYMENT.c.state == PaymentState.CONFIRMED
    return _load(engine, confirmed & _PAYMENT.c.tx_hash.in_(sorted(tx_hashes)))


def _load(engine: Engine, condition: ColumnElement[bool]) -> list[Owed]:
    joined = _PAYMENT.outerjoin(_CHANNEL, _CHANNEL.c.channel_id == _PAYMENT.c.channel_id)
    channel = [column for column in _CHANNEL.c if column.name not in _PAYMENT.c]
    query = select(*_PAYMENT.c, *channel).select_from(joined).where(condition)
    with engine.connect() as connection:
        return [_owed(row) for row in connection.execute(query)]


def _owed(row: Row[Any]) -> Owed:
    values = {name: getattr(row, name) for name in _FIELDS}
    if row.kind != PaymentKind.DEPOSIT or row.receiver is None:
        return Owed(**values)
    return Owed(**values, config=config_of(row), channel=state_of(row))


def settling_call(payment: Owed) -> tuple[str, bytes]:
    """(target, calldata) that moves the payment's money."""
    if payment.kind == PaymentKind.EXACT:
        signed = ExactPayment(payment.authorization(), _bytes(payment.signature))
        return payment.token, transfer_calldata(signed)
    return BATCH_SETTLEMENT_ADDRESS, deposit_calldata(_deposit(payment))


def _deposit(payment: Owed) -> DepositPayment:
    if payment.config is None or payment.channel_id is None or payment.deposit_salt is None:
        raise ValueError(f"deposit {payment.id} has no channel")
    return DepositPayment(
        payment.config,
        _bytes(payment.channel_id),
        payment.voucher_atoms,
        _bytes(payment.voucher_signature or "0x"),
        payment.value_atoms,
        payment.valid_after,
        payment.valid_before,
        int(payment.deposit_salt, 16),
        _bytes(payment.signature),
    )


def own_key_signed(payment: Owed, network: Network) -> bool:
    """Whether the signature is the payer's key's, and no contract has a say in it."""
    name, version = network.usdc_name, network.usdc_version
    domain = domain_separator(name, version, network.chain_id, _bytes(payment.token))
    exact = payment.kind == PaymentKind.EXACT
    digest = transfer_authorization_digest if exact else receive_authorization_digest
    signer = recover_address(digest(domain, payment.authorization()), _bytes(payment.signature))
    return signer is not None and to_hex(signer) == payment.payer


def reference(payments: Sequence[Owed], attempt: int) -> str:
    """The `chain_tx.ref` of a transaction: the payments it carries, findable by each."""
    return f"{attempt}:" + ",".join(sorted(payment.id for payment in payments))


def count_transactions(engine: Engine, payment_id: str) -> int:
    """How many transactions were made for a payment: its next one needs another reference."""
    query = select(func.count()).where(
        _TX.c.purpose == SETTLE, _TX.c.ref.contains(payment_id, autoescape=True)
    )
    with engine.connect() as connection:
        return int(connection.scalar(query) or 0)


_SEEN = (_PAYMENT.c.id == bindparam("seen_id"), _PAYMENT.c.state == bindparam("seen_state"))

MARK_SENT = (
    update(_PAYMENT)
    .where(*_SEEN)
    .values(state=PaymentState.SENT.value, tx_id=bindparam("tx"), updated_at=bindparam("now"))
)
MARK_OWED = (
    update(_PAYMENT)
    .where(*_SEEN)
    .values(state=PaymentState.OWED.value, tx_id=None, updated_at=bindparam("now"))
)
REOPEN = (
    update(_PAYMENT)
    .where(*_SEEN)
    .values(state=PaymentState.SENT.value, updated_at=bindparam("now"))
)
MARK_CONFIRMED = (
    update(_PAYMENT)
    .where(*_SEEN)
    .values(
        state=PaymentState.CONFIRMED.value,
        tx_hash=bindparam("hash"),
        log_index=bindparam("log"),
        error=None,
        updated_at=bindparam("now"),
    )
)
MARK_FAILED = (
    update(_PAYMENT)
    .where(*_SEEN)
    .values(state=PaymentState.FAILED.value, error=bindparam("reason"), updated_at=bindparam("now"))
)
CHARGE_DEPOSIT = (
    update(_CHANNEL)
    .where(
        _CHANNEL.c.channel_id == bindparam("id"), _CHANNEL.c.charged_atoms == bindparam("charged")
    )
    .values(
        state=ChannelState.OPEN.value,
        charged_atoms=bindparam("signed"),
        signed_atoms=bindparam("signed"),
        voucher_signature=bindparam("signature"),
        last_request_at=bindparam("now"),
    )
)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])
