"""Authorizations presented to us (EIP-3009): reserved, released, owed, as guarded writes.

The unique key (chain, token, payer, nonce) is what makes one authorization buy one
call, whoever presents it, however often, to whichever process (law 1).
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, text

from finance.errors import PaymentRefused
from finance.models import PaymentKind, PaymentState
from finance.money import MAX_ATOMS
from finance.selling.answers import authorization_answer_key
from finance.store import Write
from finance.x402 import codes, vouchers
from finance.x402.digest import ERC3009_COLLECTOR
from finance.x402.offers import Terms
from finance.x402.text import to_hex
from finance.x402.values import DepositPayment, ExactPayment

# A released authorization may be presented again, by whoever is first.
RESERVE = text(
    "INSERT INTO onchain_payment (id, kind, state, chain_id, token, payer, nonce, pay_to,"
    " value_atoms, charge_atoms, valid_after, valid_before, signature, channel_id, deposit_salt,"
    " voucher_atoms, voucher_signature, fingerprint, owner, listing_id, route, created_at,"
    " updated_at)"
    " VALUES (:id, :kind, 'reserved', :chain_id, :token, :payer, :nonce, :pay_to,"
    " :value_atoms, :charge_atoms, :valid_after, :valid_before, :signature, :channel_id,"
    " :deposit_salt, :voucher_atoms, :voucher_signature, '', :owner, :listing_id, :route, :at, :at)"
    " ON CONFLICT (chain_id, token, payer, nonce) DO UPDATE SET id = excluded.id,"
    " kind = excluded.kind, state = 'reserved', pay_to = excluded.pay_to,"
    " value_atoms = excluded.value_atoms, charge_atoms = excluded.charge_atoms,"
    " valid_after = excluded.valid_after, valid_before = excluded.valid_before,"
    " signature = excluded.signature, channel_id = excluded.channel_id,"
    " deposit_salt = excluded.deposit_salt, voucher_atoms = excluded.voucher_atoms,"
    " voucher_signature = excluded.voucher_signature, fingerprint = '', owner = excluded.owner,"
    " listing_id = excluded.listing_id, route = excluded.route, updated_at = excluded.updated_at"
    " WHERE onchain_payment.state = 'released'"
)
OWE = text(
    "UPDATE onchain_payment SET state = 'owed', fingerprint = :fingerprint, updated_at = :at"
    " WHERE id = :id AND state = 'reserved'"
)
RELEASE = text(
    "UPDATE onchain_payment SET state = 'released', updated_at = :at"
    " WHERE id = :id AND state = 'reserved'"
)
# After a crash: the calls these were reserved for ended with their process.
RELEASE_OWNER = text(
    "UPDATE onchain_payment SET state = 'released', updated_at = :at"
    " WHERE state = 'reserved' AND owner = :owner"
)
_OWNERS = text(
    "SELECT DISTINCT owner FROM onchain_payment WHERE state IN ('reserved', 'owed', 'sent')"
)
_BY_NONCE = text(
    "SELECT id, state, fingerprint, error, tx_hash, charge_atoms FROM onchain_payment"
    " WHERE chain_id = :chain_id AND token = :token AND payer = :payer AND nonce = :nonce"
)


@dataclass(frozen=True, slots=True)
class Authorization:
    """What an exact payment or a deposit has the payer sign for the token. Hex is 0x text."""

    kind: PaymentKind
    chain_id: int
    token: str
    payer: str
    nonce: str
    pay_to: str
    value: int
    valid_after: int
    valid_before: int
    signature: str

    @property
    def key(self) -> str:
        """Unique per authorization; also where its answer is kept."""
        return authorization_answer_key(self.chain_id, self.token, self.payer, self.nonce)


@dataclass(frozen=True, slots=True)
class Known:
    """What the books say of an authorization seen before."""

    id: str
    state: PaymentState
    fingerprint: str
    error: str | None
    tx_hash: str | None
    amount_atoms: int  # what its call costs


def authorization_of(payment: ExactPayment | DepositPayment, terms: Terms) -> Authorization:
    """The authorization in a payment. Raises PaymentRefused if it has no end: what was
    signed is stored as it is, in 64 bits."""
    if isinstance(payment, ExactPayment):
        signed, kind, signature = payment.authorization, PaymentKind.EXACT, payment.signature
    else:
        signed, kind = vouchers.deposit_authorization(payment), PaymentKind.DEPOSIT
        signature = payment.deposit_signature
    if signed.valid_before > MAX_ATOMS:
        expiry = {PaymentKind.EXACT: codes.EXACT_VALID_BEFORE}
        code = expiry.get(kind, codes.DEPOSIT_VALID_BEFORE)
        raise PaymentRefused("The authorization is valid for ever; it needs an end.", code)
    return Authorization(
        kind,
        terms.chain_id,
        to_hex(terms.asset),
        to_hex(signed.from_address),
        to_hex(signed.nonce),
        to_hex(signed.to if kind is PaymentKind.EXACT else ERC3009_COLLECTOR),
        signed.value,
        signed.valid_after,
        signed.valid_before,
        to_hex(signature),
    )


def reserve(
    authorization: Authorization,
    payment: ExactPayment | DepositPayment,
    terms: Terms,
    call_id: str,
    at: int,
    owner: int,
) -> Write:
    """Take the authorization for one call; refused if it is taken or was used.

    `owner` is the number of this process: its death frees what it has reserved.
    """
    deposit = payment if isinstance(payment, DepositPayment) else None
    return Write(
        RESERVE,
        {
            "id": call_id,
            "kind": str(authorization.kind),
            "chain_id": authorization.chain_id,
            "token": authorization.token,
            "payer": authorization.payer,
            "nonce": authorization.nonce,
            "pay_to": authorization.pay_to,
            "value_atoms": authorization.value,
            "charge_atoms": terms.amount_atoms,
            "valid_after": authorization.valid_after,
            "valid_before": authorization.valid_before,
            "signature": authorization.signature,
            "channel_id": to_hex(deposit.channel_id) if deposit else None,
            "deposit_salt": f"0x{deposit.deposit_salt:064x}" if deposit else None,
            "voucher_atoms": deposit.max_claimable if deposit else 0,
            "voucher_signature": to_hex(deposit.signature) if deposit else None,
            "owner": owner,
            "listing_id": terms.listing_id,
            "route": f"{terms.method} {terms.route}",
            "at": at,
        },
    )


def owe(call_id: str, fingerprint: str, at: int) -> Write:
    """The answer is there; the money must move before it leaves."""
    return Write(OWE, {"id": call_id, "fingerprint": fingerprint, "at": at})


def release(call_id: str, at: int) -> Write:
    """Nothing was delivered: the authorization may be presented again."""
    return Write(RELEASE, {"id": call_id, "at": at})


def release_of(owner: int, at: int) -> Write:
    """What a process that is gone had reserved."""
    return Write(RELEASE_OWNER, {"owner": owner, "at": at}, rows=None)


def reserving_owners(engine: Engine) -> set[int]:
    """Numbers of the processes that have reserved something, or have it settled. Blocks."""
    with engine.connect() as connection:
        return set(connection.execute(_OWNERS).scalars())


def find_known(engine: Engine, authorization: Authorization) -> Known | None:
    """What is known of an authorization. Blocks: call it off the event loop."""
    params = {
        "chain_id": authorization.chain_id,
        "token": authorization.token,
        "payer": authorization.payer,
        "nonce": authorization.nonce,
    }
    with engine.connect() as connection:
        row = connection.execute(_BY_NONCE, params).one_or_none()
    if row is None:
        return None
    state = PaymentState(row.state)
    return Known(row.id, state, row.fingerprint, row.error, row.tx_hash, row.charge_atoms)
