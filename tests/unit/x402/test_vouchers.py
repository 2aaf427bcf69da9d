"""Channels: what the official server and facilitator refuse, we refuse, with their codes."""

from __future__ import annotations

import time
from typing import Any

import pytest
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from x402.http import utils as sdk_http
from x402.mechanisms.evm.batch_settlement import types as sdk
from x402.mechanisms.evm.batch_settlement.client.eip3009 import (
    create_batch_settlement_eip3009_deposit_payload,
)
from x402.mechanisms.evm.batch_settlement.encoding import build_erc3009_collector_data
from x402.mechanisms.evm.batch_settlement.facilitator.claim import build_voucher_claim_args
from x402.mechanisms.evm.batch_settlement.facilitator.deposit_eip3009 import _verify_receive_auth
from x402.mechanisms.evm.batch_settlement.facilitator.refund import _encode_calldata
from x402.mechanisms.evm.batch_settlement.facilitator.utils import (
    to_contract_channel_config,
    validate_channel_config,
)
from x402.mechanisms.evm.batch_settlement.server import BatchSettlementEvmScheme
from x402.mechanisms.evm.batch_settlement.server.storage import Channel
from x402.mechanisms.evm.batch_settlement.server.verify import handle_before_verify
from x402.mechanisms.evm.signers import EthAccountSigner
from x402.schemas.hooks import AbortResult, SkipVerifyResult, VerifyContext

from finance.errors import CumulativeMismatch, PaymentRefused
from finance.x402 import codes, digest, text, vouchers, wire
from finance.x402.values import ChannelConfig, DepositPayment, RefundPayment, VoucherPayment
from tests.unit.x402.cases import (
    CASES,
    CHAIN_ID,
    NOW,
    PAYER_KEY,
    RECEIVER_KEY,
    batch,
    channel,
    configs,
    equal_to_sdk,
    hex_key,
    sdk_config,
    sdk_requirements,
    terms,
    uints,
    words,
)

ROUTE = terms()
CONFIG = channel(ROUTE)
CHANNEL_ID = digest.channel_id(CONFIG, CHAIN_ID)
NETWORK = f"eip155:{CHAIN_ID}"
CHARGED, BALANCE, CLAIMED = 4000, 9000, 3000
NOBODY = bytes(20)


def voucher(amount: int, config: ChannelConfig = CONFIG) -> VoucherPayment:
    channel_id = digest.channel_id(config, CHAIN_ID)
    signature = vouchers.sign_voucher(PAYER_KEY, channel_id, amount, CHAIN_ID)
    return VoucherPayment(config, channel_id, amount, signature)


def code_of(check: Any, *arguments: Any) -> str | None:
    try:
        check(*arguments)
    except PaymentRefused as error:
        assert str(error)
        return error.code
    return None


@equal_to_sdk
@given(
    st.sampled_from(["receiver", "receiver_authorizer", "token", "withdraw_delay", "id", "none"]),
    st.sampled_from([900, 899, 86_400, 2_592_000, 2_592_001]),
    st.booleans(),
)
def test_a_channel_is_taken_exactly_when_the_facilitator_takes_it(
    changed: str, delay: int, follows: bool
) -> None:
    route = terms(withdraw_delay_seconds=delay if follows else 86_400)
    config = replace(CONFIG, withdraw_delay=delay)
    if changed in ("receiver", "receiver_authorizer", "token"):
        config = replace(config, **{changed: b"\x0d" * 20})
    channel_id = digest.channel_id(config, 1 if changed == "id" else CHAIN_ID)
    theirs = validate_channel_config(
        sdk_config(config), text.to_hex(channel_id), sdk_requirements(batch(route))
    )
    assert code_of(vouchers.check_config, config, channel_id, route) == theirs


def official(payment: VoucherPayment, charged: int, balance: int, claimed: int) -> str | None:
    """The official server's verdict on a voucher, from its own mirrored state."""
    requirements = sdk_requirements(batch(ROUTE))
    server = BatchSettlementEvmScheme(requirements.pay_to)
    state = Channel(
        text.to_hex(payment.channel_id),
        sdk_config(payment.config),
        str(charged),
        balance=str(balance),
        total_claimed=str(claimed),
        onchain_synced_at=int(time.time() * 1000),
    )
    server.get_storage().update_channel(state.channel_id, lambda _: state)
    header = wire.encode_payment(batch(ROUTE), payment)
    payload: Any = sdk_http.decode_payment_signature_header(header.decode())
    result = handle_before_verify(server, VerifyContext(payload, requirements))
    if isinstance(result, AbortResult):
        return result.reason
    assert isinstance(result, SkipVerifyResult)
    return result.result.invalid_reason


def ours(payment: VoucherPayment, charged: int, balance: int, claimed: int) -> str | None:
    try:
        vouchers.check_config(payment.config, payment.channel_id, ROUTE)
        vouchers.check_voucher(payment, ROUTE, charged, balance, claimed)
        assert vouchers.check_voucher_signature(payment, ROUTE) is False
    except PaymentRefused as error:
        return error.code
    return None


@equal_to_sdk
@given(
    st.integers(-2, 2),
    st.sampled_from([CHARGED + 1000, CHARGED + 999, BALANCE, 1]),
    st.sampled_from([0, CLAIMED, CHARGED + 999, CHARGED + 1000]),
)
def test_a_voucher_is_taken_exactly_when_the_official_server_takes_it(
    off_by: int, balance: int, claimed: int
) -> None:
    payment = voucher(CHARGED + ROUTE.amount_atoms + off_by)
    verdict = ours(payment, CHARGED, balance, claimed)
    assert verdict == official(payment, CHARGED, balance, claimed)


@equal_to_sdk
@given(st.integers(0, 64), st.integers(1, 255))
def test_a_forged_voucher_is_refused_as_the_official_server_does(at: int, flip: int) -> None:
    payment = voucher(CHARGED + ROUTE.amount_atoms)
    signature = bytearray(payment.signature)
    signature[at] ^= flip
    forged = replace(payment, signature=bytes(signature))
    assert ours(forged, CHARGED, BALANCE, CLAIMED) == codes.VOUCHER_SIGNATURE
    # The SDK believes any v of the right parity; the contract, and so we, do not.
    if at != 64:
        assert official(forged, CHARGED, BALANCE, CLAIMED) == codes.VOUCHER_SIGNATURE


def test_a_voucher_off_the_books_asks_for_the_corrective_402() -> None:
    with pytest.raises(CumulativeMismatch):
        vouchers.check_voucher(voucher(CHARGED), ROUTE, CHARGED, BALANCE, CLAIMED)
    unknown = code_of(vouchers.check_voucher, voucher(1000), ROUTE, 0, 0, 0)
    assert unknown == codes.CHANNEL_NOT_FOUND


def test_a_channel_without_voucher_key_is_never_believed_without_its_contract() -> None:
    config = replace(CONFIG, payer_authorizer=NOBODY)
    payment = voucher(5000, config)
    assert vouchers.needs_contract_check(config)
    assert vouchers.check_voucher_signature(payment, ROUTE) is True
    for signature in (payment.signature, b"", bytes(65)):
        assert not vouchers.voucher_signed_by(config, payment.channel_id, 5000, signature, CHAIN_ID)


def deposit(route: Any = ROUTE, **changes: Any) -> DepositPayment:
    """A deposit the official client made, decoded by us."""
    signer = EthAccountSigner(Account.from_key(hex_key(PAYER_KEY)))
    requirements = batch(route)
    made = create_batch_settlement_eip3009_deposit_payload(
        signer, sdk_requirements(requirements), sdk_config(CONFIG), 5000, CHARGED + 1000
    )
    header = wire.encode_payment(requirements, voucher(1))
    payload: Any = sdk_http.decode_payment_signature_header(header.decode())
    payload.payload = made.to_dict()
    payment = wire.decode_payment(sdk_http.encode_payment_signature_header(payload)).payload
    assert isinstance(payment, DepositPayment)
    return replace(payment, **changes)


def test_the_official_clients_deposit_is_taken() -> None:
    now = int(time.time())
    assert vouchers.check_deposit(deposit(), ROUTE, now, CHARGED, 0, 0) is False


@pytest.mark.parametrize(
    ("changes", "balance", "code"),
    [
        ({"deposit_amount": 0}, 0, codes.DEPOSIT_PAYLOAD),
        ({"deposit_amount": 2**63}, 0, codes.DEPOSIT_PAYLOAD),
        ({"deposit_amount": 2**63 - 1}, 1, codes.DEPOSIT_PAYLOAD),
        ({"deposit_amount": 99}, 0, codes.DEPOSIT_BELOW_MINIMUM),
        ({"deposit_amount": 4999}, 0, codes.CUMULATIVE_EXCEEDS_BALANCE),
        ({"valid_before": NOW + 5}, 0, codes.DEPOSIT_VALID_BEFORE),
        ({"valid_after": NOW + 1}, 0, codes.DEPOSIT_VALID_AFTER),
        ({"max_claimable": 1}, 0, codes.CUMULATIVE_MISMATCH),
        ({"signature": bytes(65)}, 0, codes.VOUCHER_SIGNATURE),
        ({"channel_id": bytes(32)}, 0, codes.CHANNEL_ID_MISMATCH),
        ({"deposit_signature": b""}, 0, codes.DEPOSIT_SIGNATURE),
        ({"deposit_signature": b"\x64\x92" * 40}, 0, codes.DEPOSIT_FACTORY_NOT_ALLOWED),
    ],
)
def test_a_deposit_that_would_not_pay_is_refused(
    changes: dict[str, Any], balance: int, code: str
) -> None:
    route = terms(min_deposit_atoms=100)
    payment = replace(deposit(route), valid_before=NOW + 600)
    check = vouchers.check_deposit
    found = code_of(check, replace(payment, **changes), route, NOW, CHARGED, balance, 0)
    assert found == code


def test_a_deposit_not_signed_by_the_payer_is_left_to_the_payers_code() -> None:
    payment = deposit(deposit_amount=5001)
    now = int(time.time())
    assert vouchers.check_deposit(payment, ROUTE, now, CHARGED, 0, 0) is True


@equal_to_sdk
@given(uints(128), uints(256), uints(256), uints(256))
def test_the_facilitator_believes_the_deposits_we_sign(
    amount: int, valid_after: int, valid_before: int, salt: int
) -> None:
    class Chain:
        def get_code(self, address: str) -> bytes:
            return b""

    payment = DepositPayment(
        CONFIG, CHANNEL_ID, 1, b"", amount, valid_after, valid_before, salt, b""
    )
    signed = vouchers.sign_deposit(PAYER_KEY, payment, ROUTE.token_domain)
    assert _verify_receive_auth(
        Chain(),  # type: ignore[arg-type]
        payer=text.checksum(CONFIG.payer),
        asset=text.checksum(ROUTE.asset),
        name=ROUTE.token_name,
        version=ROUTE.token_version,
        chain_id=CHAIN_ID,
        amount=str(amount),
        valid_after=valid_after,
        valid_before=valid_before,
        nonce=text.to_hex(digest.deposit_nonce(CHANNEL_ID, salt)),
        signature=text.to_hex(signed.deposit_signature),
    )
    assert digest.recover_address(
        vouchers.deposit_digest(signed, ROUTE), signed.deposit_signature
    ) == digest.address_of(PAYER_KEY)


def refund(amount: int | None, signed: int = CHARGED) -> RefundPayment:
    base = voucher(signed)
    return RefundPayment(CONFIG, CHANNEL_ID, signed, base.signature, amount)


@pytest.mark.parametrize(("amount", "given_back"), [(None, 5000), (1, 1), (5000, 5000)])
def test_a_refund_gives_back_what_was_not_spent(amount: int | None, given_back: int) -> None:
    found = vouchers.check_refund(refund(amount), ROUTE, CHARGED, BALANCE, CLAIMED)
    assert found == given_back


@pytest.mark.parametrize(
    ("payment", "balance", "claimed", "code"),
    [
        (refund(0), BALANCE, CLAIMED, codes.REFUND_AMOUNT_INVALID),
        (refund(5001), BALANCE, CLAIMED, codes.REFUND_NO_BALANCE),
        (refund(None), CHARGED, CLAIMED, codes.REFUND_NO_BALANCE),
        (refund(None), CHARGED - 1, CLAIMED, codes.REFUND_NO_BALANCE),
        (refund(None), 0, 0, codes.CHANNEL_NOT_FOUND),
        (refund(None), BALANCE, CHARGED + 1, codes.CUMULATIVE_BELOW_CLAIMED),
        (refund(None, CHARGED + 1), BALANCE, CLAIMED, codes.CUMULATIVE_MISMATCH),
    ],
)
def test_a_refund_of_money_that_was_spent_is_refused(
    payment: RefundPayment, balance: int, claimed: int, code: str
) -> None:
    assert code_of(vouchers.check_refund, payment, ROUTE, CHARGED, balance, claimed) == code


# Plain ABI encoding, and slow there: a tenth of the cases.
@settings(equal_to_sdk, max_examples=max(30, CASES // 10))
@given(configs, uints(128), uints(128), uints(256), st.binary(max_size=70))
def test_our_transactions_are_the_sdks(
    config: ChannelConfig, amount: int, total: int, nonce: int, signature: bytes
) -> None:
    row = to_contract_channel_config(sdk_config(config))
    theirs = sdk.VoucherClaim(sdk_config(config), str(amount), text.to_hex(signature), str(total))
    claim = vouchers.claim_calldata(
        [vouchers.Claim(config, amount, signature, total)] * 2, b"\x01" * 65
    )
    assert claim == _encode_calldata(
        "claimWithSignature", [build_voucher_claim_args([theirs, theirs]), b"\x01" * 65]
    )
    back = vouchers.refund_calldata(config, amount, nonce, signature)
    assert back == _encode_calldata("refundWithSignature", [row, amount, nonce, signature])
    sweep = vouchers.settle_calldata(config.receiver, config.token)
    assert sweep == _encode_calldata("settle", [row[2], row[4]])
    whole = vouchers.multicall_calldata([claim, back, sweep])
    assert whole == _encode_calldata("multicall", [[claim, back, sweep]])


@settings(equal_to_sdk, max_examples=max(30, CASES // 10))
@given(words, uints(128), uints(256), uints(256), uints(256), st.binary(max_size=70))
def test_our_deposits_are_the_sdks(
    channel_id: bytes, amount: int, after: int, before: int, salt: int, signature: bytes
) -> None:
    data = build_erc3009_collector_data(
        str(after), str(before), f"0x{salt:064x}", text.to_hex(signature)
    )
    assert vouchers.collector_data(after, before, salt, signature) == data
    payment = DepositPayment(CONFIG, channel_id, 1, b"", amount, after, before, salt, signature)
    row = to_contract_channel_config(sdk_config(CONFIG))
    collector = text.checksum(digest.ERC3009_COLLECTOR)
    theirs = _encode_calldata("deposit", [row, amount, collector, data])
    assert vouchers.deposit_calldata(payment) == theirs


def test_the_receiver_signs_claims_and_refunds_with_its_authorizer() -> None:
    entries = [(CHANNEL_ID, 5000, 4000)]
    authorizer = digest.address_of(RECEIVER_KEY)
    signed = vouchers.sign_claim_batch(RECEIVER_KEY, entries, CHAIN_ID)
    claimed = digest.claim_batch_digest(entries, CHAIN_ID)
    assert digest.recover_address(claimed, signed) == authorizer
    signed = vouchers.sign_refund(RECEIVER_KEY, CHANNEL_ID, 3, 700, CHAIN_ID)
    refunded = digest.refund_digest(CHANNEL_ID, 3, 700, CHAIN_ID)
    assert digest.recover_address(refunded, signed) == authorizer
