"""Exact transfers: what the official facilitator refuses, we refuse, with its code."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from x402.http import utils as sdk_http
from x402.mechanisms.evm import constants as sdk
from x402.mechanisms.evm.exact.facilitator import ExactEvmScheme
from x402.mechanisms.evm.multicall import encode_contract_call

from finance.errors import PaymentRefused
from finance.x402 import codes, digest, exact, text, wire
from finance.x402.offers import Offer
from finance.x402.values import ExactPayment, TransferAuthorization
from tests.unit.x402.cases import PAYER_KEY, USDC, equal_to_sdk, sdk_requirements, terms

ROUTE = terms()
REQUIREMENTS = Offer.build(ROUTE).expected["exact"]
PAYER = digest.address_of(PAYER_KEY)


class Chain:
    """A chain for the official facilitator on which only the token has code."""

    def get_code(self, address: str) -> bytes:
        return b"\x01" if address.lower() == text.to_hex(USDC) else b""


def official(payment: ExactPayment) -> str | None:
    """The official facilitator's verdict."""
    header = wire.encode_payment(REQUIREMENTS, payment)
    payload: Any = sdk_http.decode_payment_signature_header(header.decode())
    verdict, _ = ExactEvmScheme(Chain())._verify(  # type: ignore[arg-type]
        payload, sdk_requirements(REQUIREMENTS), simulate=False
    )
    return None if verdict.is_valid else verdict.invalid_reason


def ours(payment: ExactPayment, now: int) -> str | None:
    try:
        asks_code = exact.check_authorization(payment, ROUTE, now)
    except PaymentRefused as error:
        return error.code
    # Nobody has code on this chain.
    return codes.EXACT_SIGNATURE if asks_code else None


def transfer(now: int, **changes: Any) -> TransferAuthorization:
    honest = TransferAuthorization(
        PAYER, ROUTE.pay_to, ROUTE.amount_atoms, 0, now + 60, b"\x0c" * 32
    )
    return replace(honest, **changes)


@equal_to_sdk
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "to": st.just(b"\x03" * 20),
            "value": st.sampled_from([0, 999, 1001, 2**256 - 1]),
            "from_address": st.just(b"\x04" * 20),
            "valid_after": st.sampled_from([-100, 100]),
            "valid_before": st.sampled_from([-100, 3, 100]),
        },
    ),
    st.booleans(),
)
def test_a_transfer_is_taken_exactly_when_the_official_facilitator_takes_it(
    changes: dict[str, Any], tampered: bool
) -> None:
    now = int(time.time())
    for name in ("valid_after", "valid_before"):
        if name in changes:
            changes[name] += now
    payment = exact.sign_authorization(PAYER_KEY, transfer(now, **changes), ROUTE.token_domain)
    if tampered:
        payment = replace(payment, signature=b"\x01" + payment.signature[1:])
    assert ours(payment, now) == official(payment)


def test_the_window_of_a_transfer_is_closed_at_its_edges() -> None:
    now = 1_000_000
    edges = transfer(now, valid_after=now, valid_before=now + 6)
    assert ours(exact.sign_authorization(PAYER_KEY, edges, ROUTE.token_domain), now) is None
    late = replace(edges, valid_before=now + 5)
    early = replace(edges, valid_after=now + 1)
    for window, code in ((late, codes.EXACT_VALID_BEFORE), (early, codes.EXACT_VALID_AFTER)):
        assert ours(exact.sign_authorization(PAYER_KEY, window, ROUTE.token_domain), now) == code


@pytest.mark.parametrize("signature", [b"\x01" * 64, b"\x01" * 65, b"\x02" * 200])
def test_a_signature_that_is_not_the_payers_is_left_to_the_payers_code(signature: bytes) -> None:
    now = 1_000_000
    assert exact.check_authorization(ExactPayment(transfer(now), signature), ROUTE, now)


def test_a_wallet_that_is_not_deployed_cannot_pay() -> None:
    now = 1_000_000
    wrapped = ExactPayment(transfer(now), b"\x00" * 96 + sdk.ERC6492_MAGIC_VALUE)
    assert ours(wrapped, now) == codes.EXACT_FACTORY_NOT_ALLOWED
    assert ours(ExactPayment(transfer(now), b""), now) == codes.EXACT_SIGNATURE


@pytest.mark.parametrize("length", [65, 64, 130])
def test_a_settlement_calls_the_form_of_transfer_that_fits_the_signature(length: int) -> None:
    authorization, signature = transfer(1_000_000), bytes(range(length))
    fields = [
        text.checksum(authorization.from_address),
        text.checksum(authorization.to),
        authorization.value,
        authorization.valid_after,
        authorization.valid_before,
        authorization.nonce,
    ]
    parts: list[Any] = (
        [signature[64], signature[:32], signature[32:64]] if length == 65 else [signature]
    )
    abi = (
        sdk.TRANSFER_WITH_AUTHORIZATION_VRS_ABI
        if length == 65
        else sdk.TRANSFER_WITH_AUTHORIZATION_BYTES_ABI
    )
    theirs = encode_contract_call(abi, "transferWithAuthorization", *fields, *parts)
    assert exact.transfer_calldata(ExactPayment(authorization, signature)) == theirs
