"""The error reasons of the wire: stable strings that every x402 SDK knows.

Source: the `x402` package, `mechanisms/evm/batch_settlement/errors.py` and
`mechanisms/evm/constants.py`, and the core list of the x402 v2 specification;
`tests/assumptions/test_x402_sdk.py` holds them equal to the installed package.
"""

from __future__ import annotations

from typing import Final

# The core specification, for what no scheme claims.
INVALID_VERSION: Final = "invalid_x402_version"
INVALID_PAYLOAD: Final = "invalid_payload"
INVALID_REQUIREMENTS: Final = "invalid_payment_requirements"
INVALID_PAYMENT_IDENTIFIER: Final = "invalid_payment_identifier"
UNSUPPORTED_SCHEME: Final = "unsupported_scheme"

# exact
EXACT_NETWORK_MISMATCH: Final = "network_mismatch"
EXACT_RECIPIENT_MISMATCH: Final = "invalid_exact_evm_payload_recipient_mismatch"
EXACT_VALUE_MISMATCH: Final = "invalid_exact_evm_payload_authorization_value_mismatch"
EXACT_VALID_BEFORE: Final = "invalid_exact_evm_payload_authorization_valid_before"
EXACT_VALID_AFTER: Final = "invalid_exact_evm_payload_authorization_valid_after"
EXACT_SIGNATURE: Final = "invalid_exact_evm_payload_signature"
EXACT_FACTORY_NOT_ALLOWED: Final = "eip6492_factory_not_allowed"

# batch-settlement
_BATCH: Final = "invalid_batch_settlement_evm_"
BATCH_NETWORK_MISMATCH: Final = _BATCH + "network_mismatch"
PAYLOAD_TYPE: Final = _BATCH + "payload_type"
VOUCHER_PAYLOAD: Final = _BATCH + "voucher_payload"
DEPOSIT_PAYLOAD: Final = _BATCH + "deposit_payload"
REFUND_PAYLOAD: Final = _BATCH + "refund_payload"
CHANNEL_ID_INVALID: Final = _BATCH + "channel_id_invalid"
CHANNEL_ID_MISMATCH: Final = _BATCH + "channel_id_mismatch"
RECEIVER_MISMATCH: Final = _BATCH + "receiver_mismatch"
RECEIVER_AUTHORIZER_MISMATCH: Final = _BATCH + "receiver_authorizer_mismatch"
TOKEN_MISMATCH: Final = _BATCH + "token_mismatch"
WITHDRAW_DELAY_MISMATCH: Final = _BATCH + "withdraw_delay_mismatch"
WITHDRAW_DELAY_OUT_OF_RANGE: Final = _BATCH + "withdraw_delay_out_of_range"
VOUCHER_SIGNATURE: Final = _BATCH + "voucher_signature"
CUMULATIVE_MISMATCH: Final = _BATCH + "cumulative_amount_mismatch"
CUMULATIVE_EXCEEDS_BALANCE: Final = _BATCH + "cumulative_exceeds_balance"
CUMULATIVE_BELOW_CLAIMED: Final = _BATCH + "cumulative_below_claimed"
CHANNEL_NOT_FOUND: Final = _BATCH + "channel_not_found"
CHANNEL_BUSY: Final = _BATCH + "channel_busy"
DEPOSIT_BELOW_MINIMUM: Final = _BATCH + "deposit_below_min_deposit"
DEPOSIT_VALID_AFTER: Final = _BATCH + "payload_authorization_valid_after"
DEPOSIT_VALID_BEFORE: Final = _BATCH + "payload_authorization_valid_before"
DEPOSIT_SIGNATURE: Final = _BATCH + "receive_authorization_signature"
DEPOSIT_FACTORY_NOT_ALLOWED: Final = _BATCH + "eip6492_factory_not_allowed"
ERC3009_REQUIRED: Final = _BATCH + "erc3009_authorization_required"
REFUND_AMOUNT_INVALID: Final = _BATCH + "refund_amount_invalid"
REFUND_NO_BALANCE: Final = _BATCH + "refund_no_balance"
