"""The rules of one payment, without anything around them."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from finance.errors import AuthorizationReused, CumulativeMismatch, PaymentRefused
from finance.models import PaymentState
from finance.selling.admission import (
    Admission,
    AtRiskExceeded,
    ChannelBooks,
    Presented,
    admit_voucher,
    is_delivery,
    present_authorization,
)
from finance.x402.offers import Terms
from finance.x402.values import ChannelConfig, VoucherPayment

ADDRESS = b"\x01" * 20
TERMS = Terms("l", "/", "GET", "https://x", 10, ADDRESS, ADDRESS, 1, ADDRESS, "USDC", "2")
CONFIG = ChannelConfig(ADDRESS, ADDRESS, ADDRESS, ADDRESS, ADDRESS, 900, bytes(32))
BOOKS = ChannelBooks(charged=50, signed=50, signature=b"s", balance=100, total_claimed=40)


def admit(due: int, books: ChannelBooks = BOOKS, signature: bytes = b"n", **rest: int) -> Admission:
    voucher = VoucherPayment(CONFIG, bytes(32), due, signature)
    return admit_voucher(voucher, TERMS, books, rest.get("ceiling", 1000))


def test_exactly_the_price_above_what_was_charged_is_admitted() -> None:
    assert admit(60) is Admission.NEW
    for due in (0, 50, 59, 61, 70):
        with pytest.raises(CumulativeMismatch):
            admit(due)


def test_the_last_voucher_again_is_a_replay_and_a_reversed_one_is_not() -> None:
    assert admit(50, signature=b"s") is Admission.REPLAY
    reversed_books = replace(BOOKS, charged=40, total_claimed=0)
    assert admit(50, reversed_books, signature=b"s") is Admission.NEW


def test_what_the_channel_does_not_hold_is_refused() -> None:
    for books in (replace(BOOKS, balance=59), replace(BOOKS, withdrawing=50)):
        with pytest.raises(PaymentRefused) as refusal:
            admit(60, books)
        assert refusal.value.code.endswith("cumulative_exceeds_balance")


def test_above_the_ceiling_nothing_is_admitted_until_it_is_claimed() -> None:
    assert admit(60, ceiling=20) is Admission.NEW
    with pytest.raises(AtRiskExceeded):
        admit(60, ceiling=19)
    assert admit(60, replace(BOOKS, total_claimed=50), ceiling=10) is Admission.NEW


def test_only_success_is_a_delivery() -> None:
    assert all(is_delivery(status) for status in (101, 200, 201, 204, 206))
    assert not any(is_delivery(status) for status in (100, 301, 302, 304, 400, 404, 500, 503))


def test_an_authorization_buys_one_call_and_its_own_answer() -> None:
    assert present_authorization(None, "f") is Presented.RESERVE
    assert present_authorization(PaymentState.RELEASED, "f") is Presented.RESERVE_AGAIN
    assert present_authorization(PaymentState.CONFIRMED, "f", "f") is Presented.ANSWERED
    for state in (PaymentState.OWED, PaymentState.SENT):
        assert present_authorization(state, "f", "f") is Presented.WAIT
    for state in (PaymentState.OWED, PaymentState.SENT, PaymentState.CONFIRMED):
        with pytest.raises(AuthorizationReused):
            present_authorization(state, "f", "g")
    with pytest.raises(AuthorizationReused):
        present_authorization(PaymentState.RESERVED, "f", "f")
    with pytest.raises(PaymentRefused) as refusal:
        present_authorization(PaymentState.FAILED, "f", "f", "transaction_failed")
    assert refusal.value.code == "transaction_failed"
