"""What becomes of a payment, as writes: confirmed, failed, or put back by a reorg."""

from __future__ import annotations

from collections.abc import Sequence

from finance.ledger import Account, charge_key, entry, exact_key
from finance.models import PaymentKind, PaymentState
from finance.selling import owed
from finance.selling.mirror import OnchainState, mirror_writes
from finance.selling.owed import Owed
from finance.selling.settlement_events import Found
from finance.store import Batch, Write
from finance.x402 import codes


def sent(payments: Sequence[Owed], tx_id: int, now: int) -> list[Write]:
    """Committed with the signed transaction that carries them, before it is broadcast."""
    return [
        Write(owed.MARK_SENT, {**_seen(each, PaymentState.OWED, now), "tx": tx_id})
        for each in payments
    ]


def owed_again(payments: Sequence[Owed], now: int) -> Batch:
    """Their transaction ended without touching them, or was never broadcast."""
    return Batch([Write(owed.MARK_OWED, _seen(each, PaymentState.SENT, now)) for each in payments])


def failed(payment: Owed, code: str, now: int) -> Batch:
    """The chain refused it for good."""
    return Batch([_fail(payment, code, now)])


def confirmed_exact(payment: Owed, found: Found, key: str, now: int) -> Batch:
    """The price arrived; `key` is the next turn of `ledger_key` (finance.chain.bookings)."""
    row = entry(
        key,
        Account.EXACT,
        payment.value_atoms,
        now,
        call_id=payment.id,
        tx_hash=found.tx_hash,
        log_index=found.log_index,
    )
    return Batch([_confirm(payment, found, now), row])


def confirmed_deposit(payment: Owed, found: Found, state: OnchainState, now: int) -> Batch:
    """The deposit arrived: its channel is open and the first call charged to it.

    A deposit that a reorg moved was charged already; only its place is new.
    """
    channel_id = payment.channel_id or ""
    writes = [_confirm(payment, found, now), *mirror_writes(channel_id, state, now)]
    if payment.tx_hash is None:
        writes += _charge(payment, channel_id, found, now)
    return Batch(writes)


def deposited_in_vain(payment: Owed, state: OnchainState, now: int) -> Batch:
    """The deposit arrived, but its voucher no longer fits the channel: nothing is charged."""
    mirrored = mirror_writes(payment.channel_id or "", state, now)
    return Batch([_fail(payment, codes.CUMULATIVE_MISMATCH, now), *mirrored])


def reorganised(payment: Owed, key: str, now: int) -> Batch:
    """The block with the payment's event is gone: it is on its way again.

    An exact payment's booking is reversed. A deposit's charge stands, since its call was
    served; the mirror says what backs it.
    """
    reopen = Write(owed.REOPEN, _seen(payment, PaymentState.CONFIRMED, now))
    if payment.kind == PaymentKind.DEPOSIT:
        return Batch([reopen])
    undo = entry(
        key,
        Account.EXACT,
        -payment.value_atoms,
        now,
        call_id=payment.id,
        tx_hash=payment.tx_hash,
        log_index=payment.log_index,
    )
    return Batch([reopen, undo])


def ledger_key(payment: Owed) -> str:
    """What an exact payment is booked under."""
    return exact_key(payment.payer, payment.nonce)


def _charge(payment: Owed, channel_id: str, found: Found, now: int) -> list[Write]:
    charge = {
        "id": channel_id,
        "charged": payment.voucher_atoms - payment.charge_atoms,
        "signed": payment.voucher_atoms,
        "signature": payment.voucher_signature,
        "now": now,
    }
    row = entry(
        charge_key(payment.id),
        Account.CHARGED,
        payment.charge_atoms,
        now,
        channel_id=channel_id,
        call_id=payment.id,
        tx_hash=found.tx_hash,
        log_index=found.log_index,
    )
    return [Write(owed.CHARGE_DEPOSIT, charge), row]


def _confirm(payment: Owed, found: Found, now: int) -> Write:
    seen = _seen(payment, payment.state, now)
    return Write(owed.MARK_CONFIRMED, {**seen, "hash": found.tx_hash, "log": found.log_index})


def _fail(payment: Owed, code: str, now: int) -> Write:
    return Write(owed.MARK_FAILED, {**_seen(payment, payment.state, now), "reason": code})


def _seen(payment: Owed, state: str, now: int) -> dict[str, object]:
    return {"seen_id": payment.id, "seen_state": str(state), "now": now}
