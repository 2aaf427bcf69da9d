"""The life of one payment to us, as rules over frozen values.

                       upstream failed, caller gone
    presented ─▶ reserved ─────────────────────────▶ released
        │            │
        │ refused    ├─ voucher, whole answer ─────▶ charged ─▶ answered
        ▼            ├─ voucher, long answer ──────▶ streaming ─▶ charged | reversed
       402           └─ exact, deposit ────────────▶ owed ─▶ confirmed | failed | unknown

The shell (node/gateway) asks these functions what may happen next, stores it, and
only then acts. Nothing here knows a database, a clock or a network.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from finance.errors import AuthorizationReused, FinanceError, PaymentRefused
from finance.models import PaymentState
from finance.x402 import codes, vouchers
from finance.x402.offers import Terms
from finance.x402.values import VoucherPayment


class AtRiskExceeded(FinanceError):
    """Too much of this channel is charged but not claimed yet (law 8); claiming mends it."""

    code = "amount_at_risk_exceeded"


class ChannelBooks(msgspec.Struct, frozen=True):
    """What is known of a channel when a voucher arrives; amounts in atoms.

    `withdrawing` is the amount of a withdrawal the payer has started: it may leave the
    channel before we claim, so it backs no voucher any more.
    """

    charged: int
    signed: int
    signature: bytes
    balance: int
    total_claimed: int
    withdrawing: int = 0

    @property
    def backing(self) -> int:
        """What the channel holds for us whatever the payer does."""
        return max(self.balance - self.withdrawing, 0)


class Admission(StrEnum):
    """What a voucher that arrives may be."""

    NEW = "new"  # buys this call
    REPLAY = "replay"  # the last one again: it has bought its answer already


def admit_voucher(
    payment: VoucherPayment, terms: Terms, books: ChannelBooks, ceiling: int
) -> Admission:
    """Decide on a voucher whose channel is held for it and whose configuration is checked; its
    signature is not yet.

    Raises CumulativeMismatch, AtRiskExceeded, PaymentRefused.
    """
    if is_last_voucher(payment, books):
        return Admission.REPLAY
    vouchers.check_voucher(payment, terms, books.charged, books.balance, books.total_claimed)
    if payment.max_claimable > books.backing:
        message = "The payer is withdrawing what would back this voucher."
        raise PaymentRefused(message, codes.CUMULATIVE_EXCEEDS_BALANCE)
    check_at_risk(books, terms, ceiling)
    return Admission.NEW


def check_at_risk(books: ChannelBooks, terms: Terms, ceiling: int) -> None:
    """Raises AtRiskExceeded. A call dearer than the ceiling waits for the claim of all before it,
    not for ever."""
    unclaimed = books.charged - books.total_claimed
    if unclaimed > 0 and unclaimed + terms.amount_atoms > ceiling:
        raise AtRiskExceeded("Too much is unclaimed on this channel; it is being claimed.")


def is_last_voucher(payment: VoucherPayment, books: ChannelBooks) -> bool:
    """Whether this is the very voucher that bought the channel's last answer."""
    return (
        0 < books.charged == payment.max_claimable == books.signed
        and payment.signature == books.signature
    )


def is_delivery(status: int) -> bool:
    """Whether an upstream answer is what was paid for (law 3). Redirects are not, and so
    neither is 304: the caller has the content from elsewhere. 101 opens a stream, which is
    what whoever asked for one has paid for."""
    return 200 <= status < 300 or status == 101


class Presented(StrEnum):
    """What an authorization that may be known already is good for."""

    RESERVE = "reserve"  # never seen: insert it
    RESERVE_AGAIN = "reserve_again"  # released before: take it over by a guarded update
    WAIT = "wait"  # this very call, on its way to the chain: wait for its answer
    ANSWERED = "answered"  # this very call, settled: give the stored answer


def present_authorization(
    state: PaymentState | None,
    fingerprint: str,
    known_fingerprint: str = "",
    failure: str | None = None,
) -> Presented:
    """Decide on an EIP-3009 authorization by what the books say of its nonce (law 1).

    Raises AuthorizationReused when it pays, or paid, for another call, and
    PaymentRefused with the old reason (`failure`) when the chain has refused it.
    """
    same = fingerprint == known_fingerprint
    match state:
        case None:
            return Presented.RESERVE
        case PaymentState.RELEASED:
            return Presented.RESERVE_AGAIN
        case PaymentState.RESERVED:
            raise AuthorizationReused("This authorization is paying for a call right now.")
        case PaymentState.OWED | PaymentState.SENT:
            if same:
                return Presented.WAIT
            raise AuthorizationReused("This authorization is paying for another call.")
        case PaymentState.CONFIRMED:
            if same:
                return Presented.ANSWERED
            raise AuthorizationReused("This authorization has paid for another call.")
        case PaymentState.FAILED:
            message = "The chain has refused this authorization."
            raise PaymentRefused(message, failure or codes.INVALID_PAYLOAD)
