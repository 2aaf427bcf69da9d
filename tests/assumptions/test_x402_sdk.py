"""What we rely on in the `x402` package; a new version that changes it fails here first."""

from __future__ import annotations

import base64
import inspect
import json

import pytest
from eth_utils import keccak
from x402.http import constants as http
from x402.http import utils as headers
from x402.mechanisms.evm import constants as evm
from x402.mechanisms.evm.batch_settlement import constants, errors
from x402.mechanisms.evm.batch_settlement.client import recovery
from x402.mechanisms.evm.batch_settlement.server import settle, verify
from x402.mechanisms.evm.exact.facilitator import ExactEvmScheme
from x402.schemas import PaymentPayload, PaymentRequirements, SettleResponse

from finance.errors import (
    AuthorizationReused,
    ChannelBusy,
    CumulativeMismatch,
    SettlementFailed,
    SettlementUnknown,
)
from finance.x402 import codes, digest, exact, text, vouchers, wire

OURS_ALONE = {"INVALID_VERSION", "INVALID_PAYLOAD", "INVALID_REQUIREMENTS"}
OURS_ALONE |= {"INVALID_PAYMENT_IDENTIFIER"}


def strings(module: object) -> set[str]:
    return {value for value in vars(module).values() if isinstance(value, str)}


def test_our_error_codes_are_the_sdks() -> None:
    known = strings(errors) | strings(evm)
    declared = {name: value for name, value in vars(codes).items() if name.isupper()}
    unknown = {name for name, value in declared.items() if value not in known}
    assert unknown - {"_BATCH"} == OURS_ALONE


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ChannelBusy.code, errors.ERR_CHANNEL_BUSY),
        (CumulativeMismatch.code, errors.ERR_CUMULATIVE_AMOUNT_MISMATCH),
        (AuthorizationReused.code, evm.ERR_NONCE_ALREADY_USED),
        (SettlementUnknown.code, evm.ERR_SETTLEMENT_PENDING),
        (SettlementFailed.code, evm.ERR_TRANSACTION_FAILED),
        (codes.CUMULATIVE_MISMATCH, errors.ERR_CUMULATIVE_AMOUNT_MISMATCH),
        (codes.VOUCHER_SIGNATURE, errors.ERR_INVALID_VOUCHER_SIGNATURE),
        (codes.CHANNEL_NOT_FOUND, errors.ERR_CHANNEL_NOT_FOUND),
        (codes.DEPOSIT_VALID_BEFORE, errors.ERR_VALID_BEFORE_EXPIRED),
        (codes.REFUND_NO_BALANCE, errors.ERR_REFUND_NO_BALANCE),
        (codes.EXACT_SIGNATURE, evm.ERR_INVALID_SIGNATURE),
    ],
)
def test_each_code_says_what_the_sdks_says(ours: str, theirs: str) -> None:
    assert ours == theirs


def test_header_names() -> None:
    assert wire.PAYMENT_REQUIRED == http.PAYMENT_REQUIRED_HEADER
    assert wire.PAYMENT_SIGNATURE == http.PAYMENT_SIGNATURE_HEADER
    assert wire.PAYMENT_RESPONSE == http.PAYMENT_RESPONSE_HEADER


def test_contracts_and_bounds() -> None:
    assert text.checksum(digest.BATCH_SETTLEMENT) == constants.BATCH_SETTLEMENT_ADDRESS
    assert text.checksum(digest.ERC3009_COLLECTOR) == constants.ERC3009_DEPOSIT_COLLECTOR_ADDRESS
    assert vouchers.MIN_WITHDRAW_DELAY_SECONDS == constants.MIN_WITHDRAW_DELAY
    assert vouchers.MAX_WITHDRAW_DELAY_SECONDS == constants.MAX_WITHDRAW_DELAY
    assert wire.BATCH_SETTLEMENT_SCHEME == constants.SCHEME_BATCH_SETTLEMENT
    assert constants.BATCH_SETTLEMENT_DOMAIN_NAME == "x402 Batch Settlement"
    assert constants.BATCH_SETTLEMENT_DOMAIN_VERSION == "1"
    assert exact.is_counterfactual(evm.ERC6492_MAGIC_VALUE)


def test_type_hashes() -> None:
    def fields(name: str, types: dict[str, list[dict[str, str]]]) -> str:
        return f"{name}({','.join(f['type'] + ' ' + f['name'] for f in types[name])})"

    entry = fields("ClaimEntry", constants.CLAIM_BATCH_TYPES)
    claim_batch = fields("ClaimBatch", constants.CLAIM_BATCH_TYPES) + entry
    receive = fields("ReceiveWithAuthorization", constants.RECEIVE_AUTHORIZATION_TYPES)
    assert keccak(text=fields("Voucher", constants.VOUCHER_TYPES)) == digest._VOUCHER
    assert keccak(text=fields("Refund", constants.REFUND_TYPES)) == digest._REFUND
    assert keccak(text=claim_batch) == digest._BATCH
    assert keccak(text=receive) == digest._RECEIVE
    assert constants.CHANNEL_CONFIG_TYPEHASH == digest._CHANNEL


def test_absent_fields_are_left_out_of_headers_and_extra_is_not() -> None:
    accepted = PaymentRequirements(
        scheme="exact", network="n", asset="a", amount="1", pay_to="p", max_timeout_seconds=1
    )
    payment = PaymentPayload(payload={}, accepted=accepted)
    document = json.loads(base64.b64decode(headers.encode_payment_signature_header(payment)))
    assert set(document) == {"x402Version", "payload", "accepted"}
    assert document["accepted"]["extra"] == {}
    answer = SettleResponse(success=False, transaction="", network="n")
    document = json.loads(base64.b64decode(headers.encode_payment_response_header(answer)))
    assert document == {"success": False, "transaction": "", "network": "n"}


def test_the_server_answers_a_voucher_with_an_empty_amount() -> None:
    source = inspect.getsource(settle.handle_before_settle)
    assert 'transaction=""' in source and 'amount=""' in source
    assert '"chargedAmount": requirements.amount' in source


def test_the_client_recovers_from_these_two_errors_only() -> None:
    source = inspect.getsource(recovery.process_corrective_payment_required)
    assert "ERR_CUMULATIVE_AMOUNT_MISMATCH, ERR_CUMULATIVE_AMOUNT_BELOW_CLAIMED" in source


def test_the_server_sends_states_with_a_cumulative_mismatch_only() -> None:
    source = inspect.getsource(verify.handle_enrich_payment_required_response)
    assert "ctx.error != ERR_CUMULATIVE_AMOUNT_MISMATCH" in source


def test_a_transfer_must_outlive_the_check_by_six_seconds() -> None:
    source = inspect.getsource(ExactEvmScheme._verify)
    assert "valid_before) < now + 6" in source and exact.EXPIRY_BUFFER_SECONDS == 6
