"""Everything that can go wrong with money, as one tree.

    FinanceError
    ├── AmountInvalid            a number that is no amount of money
    ├── WalletError              keystore missing, damaged, or the passphrase is wrong
    │   └── PassphraseWrong
    ├── ChainError
    │   ├── RpcUnavailable       no endpoint answered in time; nothing is known
    │   │   └── ReadsRefused     many reads at once were refused; fewer may be answered
    │   ├── RpcRefused           an endpoint answered with a JSON-RPC error
    │   │   └── CallReverted     the contract refused; carries the revert data
    │   └── GasCapExceeded       fees above the operator's caps
    │       └── GasTooDear       a unit of gas is: no smaller transaction is below them
    ├── PaymentRefused           a payment that does not buy this call (`code` = x402 errorReason)
    │   ├── PaymentMalformed     the header cannot be read
    │   ├── AuthorizationReused  this signed authorization already paid, or is paying
    │   ├── ChannelBusy          another request of this channel is in flight
    │   └── CumulativeMismatch   voucher and books disagree; carries the corrective state
    ├── SettlementFailed         the chain refused the payment; nothing was charged
    ├── SettlementUnknown        broadcast, but not confirmed in time; it stays open
    ├── LimitExceeded            the buyer's own limits forbid signing
    ├── SellerUntrustworthy      a seller's answer that does not add up
    ├── StoreConflict            a guarded write found other values than expected
    └── StoreUnavailable         the database cannot be written; nothing was

A `code` is stable and machine-readable; edges translate it into HTTP.
"""

from __future__ import annotations

from typing import Any


class FinanceError(Exception):
    """Base of every error this package raises on purpose."""

    code = "finance_error"

    def __init__(self, message: str = "", code: str | None = None) -> None:
        if code is not None:
            self.code = code
        super().__init__(message or self.code)


class AmountInvalid(FinanceError):
    code = "amount_invalid"


class WalletError(FinanceError):
    code = "wallet_error"


class PassphraseWrong(WalletError):
    code = "passphrase_wrong"


class ChainError(FinanceError):
    code = "chain_error"


class RpcUnavailable(ChainError):
    """No RPC endpoint answered: the question is open, not answered with no."""

    code = "rpc_unavailable"


class ReadsRefused(RpcUnavailable):
    """An endpoint refused many reads at once: nothing is known of any, fewer may be answered."""


class RpcRefused(ChainError):
    """A JSON-RPC error object: `rpc_code`, message and optional `data` (0x hex)."""

    code = "rpc_refused"

    def __init__(self, message: str, rpc_code: int = 0, data: Any = None) -> None:
        super().__init__(message)
        self.rpc_code = rpc_code
        self.data = data


class CallReverted(RpcRefused):
    code = "call_reverted"


class GasCapExceeded(ChainError):
    code = "gas_cap_exceeded"


class GasTooDear(GasCapExceeded):
    """Each unit of gas is above the cap, also in a smaller transaction."""


class PaymentRefused(FinanceError):
    """The payment does not buy this call; `code` is the x402 error reason."""

    code = "payment_refused"


class PaymentMalformed(PaymentRefused):
    code = "invalid_payload"


class AuthorizationReused(PaymentRefused):
    """This signed authorization already paid for another call, or is about to."""

    code = "invalid_exact_evm_nonce_already_used"


class ChannelBusy(PaymentRefused):
    code = "invalid_batch_settlement_evm_channel_busy"


class CumulativeMismatch(PaymentRefused):
    """The voucher's base is not the channel's charged amount (corrective 402)."""

    code = "invalid_batch_settlement_evm_cumulative_amount_mismatch"


class SettlementFailed(FinanceError):
    """The payment is certainly not on the chain and will not be; `code` is the errorReason."""

    code = "transaction_failed"


class SettlementUnknown(FinanceError):
    """Broadcast but not confirmed in time; it may still be mined. Never pay it again."""

    code = "settlement_pending"


class LimitExceeded(FinanceError):
    """Signing would pass a limit; `scope` names which (call, listing, key, day, deposit)."""

    code = "limit_exceeded"

    def __init__(self, message: str, scope: str) -> None:
        super().__init__(message, code=f"limit_exceeded_{scope}")
        self.scope = scope


class WithdrawalRefused(FinanceError):
    """Nothing was sent. `field` (token, destination, amount) is where the mistake is."""

    code = "withdrawal_refused"

    def __init__(self, message: str, code: str, field: str | None = None) -> None:
        super().__init__(message, code)
        self.field = field


class ChannelNotClosable(FinanceError):
    code = "channel_not_closable"


class SellerUntrustworthy(FinanceError):
    code = "seller_untrustworthy"


class StoreConflict(FinanceError):
    code = "store_conflict"


class StoreUnavailable(FinanceError):
    code = "store_unavailable"
