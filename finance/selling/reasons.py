"""Why the chain would not take a payment, in the wire's words.

Codes are the `x402` package's (`mechanisms/evm/constants.py` and
`batch_settlement/errors.py`); sentences are those of Circle's FiatTokenV2_2.
"""

from __future__ import annotations

from typing import Final

from finance.chain.reverts import explain_revert
from finance.models import PaymentKind
from finance.x402 import codes

NONCE_USED: Final = "invalid_exact_evm_nonce_already_used"
EXACT_BALANCE: Final = "invalid_exact_evm_insufficient_balance"
EXACT_SIMULATION: Final = "invalid_exact_evm_transaction_simulation_failed"
DEPOSIT_BALANCE: Final = "invalid_batch_settlement_evm_insufficient_balance"
DEPOSIT_SIMULATION: Final = "invalid_batch_settlement_evm_deposit_simulation_failed"
DEPOSIT_FAILED: Final = "invalid_batch_settlement_evm_deposit_transaction_failed"
EXACT_FAILED: Final = "transaction_failed"

_SENTENCES = (
    ("authorization is expired", codes.EXACT_VALID_BEFORE, codes.DEPOSIT_VALID_BEFORE),
    ("authorization is not yet valid", codes.EXACT_VALID_AFTER, codes.DEPOSIT_VALID_AFTER),
    ("authorization is used or canceled", NONCE_USED, NONCE_USED),
    ("transfer amount exceeds balance", EXACT_BALANCE, DEPOSIT_BALANCE),
    ("invalid signature", codes.EXACT_SIGNATURE, codes.DEPOSIT_SIGNATURE),
)


def simulation_code(kind: str, revert_data: bytes) -> str:
    """The errorReason for a payment whose call reverts in simulation."""
    sentence = explain_revert(revert_data).lower()
    deposit = kind == PaymentKind.DEPOSIT
    for words, exact_code, deposit_code in _SENTENCES:
        if words in sentence:
            return deposit_code if deposit else exact_code
    return DEPOSIT_SIMULATION if deposit else EXACT_SIMULATION


def expired_code(kind: str) -> str:
    """The errorReason for an authorization that can never be mined again."""
    return codes.DEPOSIT_VALID_BEFORE if kind == PaymentKind.DEPOSIT else codes.EXACT_VALID_BEFORE


def failed_code(kind: str) -> str:
    """The errorReason for a payment that the chain refused without a word."""
    return DEPOSIT_FAILED if kind == PaymentKind.DEPOSIT else EXACT_FAILED
