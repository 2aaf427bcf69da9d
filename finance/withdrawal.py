"""What may be withdrawn, and where to: rules over plain values.

Amounts are atoms of the token asked for (USDC: 10^-6, ETH: wei), addresses lower-case hex.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from finance.chain.addresses import (
    BATCH_SETTLEMENT_ADDRESS,
    ERC3009_COLLECTOR_ADDRESS,
    MULTICALL3_ADDRESS,
)
from finance.errors import AmountInvalid, WithdrawalRefused
from finance.models import TxState
from finance.money import Usdc, Wei, ungrouped
from finance.networks import Network
from finance.operations import Token
from finance.x402.abi import calldata
from finance.x402.text import checksum, parse_address

PURPOSES = {Token.USDC: "withdraw_usdc", Token.ETH: "withdraw_eth"}
# A rollup takes its fee for the data on top of gas; ours is far below this (about a cent).
DATA_FEE_WEI = 5 * 10**12
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_AMOUNT = re.compile(r"[0-9]{1,60}(\.[0-9]{1,18})?")
# The zero address, precompiled contracts and what chains keep for themselves.
_RESERVED_BELOW = 2**32


class Stage(StrEnum):
    """How far a withdrawal has come."""

    REQUESTED = "requested"
    SIGNED = "signed"
    SENT = "sent"
    MINED = "mined"
    FINAL = "final"
    FAILED = "failed"


STAGE_OF_TX = {
    TxState.INTENDED: Stage.REQUESTED,
    TxState.SIGNED: Stage.SIGNED,
    TxState.BROADCAST: Stage.SENT,
    TxState.MINED: Stage.MINED,
    TxState.FINAL: Stage.FINAL,
    TxState.REVERTED: Stage.FAILED,
    TxState.REJECTED: Stage.FAILED,
}


@dataclass(frozen=True, slots=True)
class Fee:
    """Gas for one transaction, in wei: what it will probably cost, and at the very most."""

    expected_wei: int
    worst_wei: int


@dataclass(frozen=True, slots=True)
class Available:
    """What the wallet has and what of it is promised to withdrawals on their way."""

    usdc: int
    wei: int
    usdc_promised: int = 0
    wei_promised: int = 0

    @property
    def free_usdc(self) -> int:
        return max(0, self.usdc - self.usdc_promised)

    @property
    def free_wei(self) -> int:
        return max(0, self.wei - self.wei_promised)


@dataclass(frozen=True, slots=True)
class Quote:
    """Exactly what would happen if it were confirmed now."""

    token: Token
    destination: str
    amount: int
    fee: Fee
    left: int


def read_destination(text: str, own: str, network: Network) -> str:
    """A wallet's address from what was typed; raise WithdrawalRefused.

    Mixed case must be the EIP-55 checksum; text in one case carries none.
    """
    typed = text.strip()
    if not _ADDRESS.fullmatch(typed):
        raise _bad_destination("An address is 0x and 40 hexadecimal digits.")
    address = parse_address(typed)
    digits = typed[2:]
    if digits not in (digits.lower(), digits.upper()) and typed != checksum(address):
        raise _bad_destination(
            "The capital letters do not fit this address (EIP-55): a character is mistyped."
            " Copy it again from where it came."
        )
    found = typed.lower()
    if found == own.lower():
        raise _bad_destination("This is the node's own wallet: nothing would move.")
    contracts = (
        network.usdc,
        BATCH_SETTLEMENT_ADDRESS,
        ERC3009_COLLECTOR_ADDRESS,
        MULTICALL3_ADDRESS,
    )
    if found in [each.lower() for each in contracts]:
        raise _bad_destination("This is a contract that keeps what it is sent: it would be lost.")
    if int(found, 16) < _RESERVED_BELOW:
        raise _bad_destination("Nobody has the key of this address: the money would be lost.")
    return found


def read_amount(token: Token, text: str) -> int:
    """Atoms of `token` from a decimal; raise WithdrawalRefused."""
    typed = ungrouped(text)
    kind = Usdc if token is Token.USDC else Wei
    if not _AMOUNT.fullmatch(typed):
        raise _bad_amount(f"Enter an amount of {token} like 12.5, or withdraw all.")
    try:
        amount = int(kind.parse(typed))
    except AmountInvalid as error:
        raise _bad_amount(f"{error}.") from error
    if not amount:
        raise _bad_amount("Nothing is no amount to withdraw.")
    return amount


def decide(
    token: Token, destination: str, amount: int | None, available: Available, fee: Fee
) -> Quote:
    """The withdrawal of `amount` (None: all there is); raise WithdrawalRefused.

    Gas is paid in ETH whatever is sent, so ETH keeps what its own transaction may cost.
    """
    gas = fee.worst_wei + DATA_FEE_WEI
    if available.free_wei < gas:
        raise WithdrawalRefused(
            f"The transaction needs up to {Wei(gas)} ETH for gas and the wallet has"
            f" {Wei(available.free_wei)} ETH free. Send it some ETH first.",
            "gas_short",
            "token",
        )
    most = available.free_usdc if token is Token.USDC else available.free_wei - gas
    wanted = most if amount is None else amount
    if not wanted or wanted > most:
        raise _too_much(token, wanted, most)
    return Quote(token, destination, wanted, fee, most - wanted)


def transaction_of(
    token: Token, destination: str, amount: int, network: Network
) -> tuple[str, bytes, int]:
    """(to, data, value in wei) of the transaction that moves it."""
    if token is Token.ETH:
        return destination, b"", amount
    data = calldata("transfer", ("address", "uint256"), parse_address(destination), amount)
    return network.usdc, data, 0


def _too_much(token: Token, wanted: int, most: int) -> WithdrawalRefused:
    kind = Usdc if token is Token.USDC else Wei
    kept = " (the gas for its own transaction stays)" if token is Token.ETH else ""
    if not wanted:
        return _bad_amount(f"There is no {token} to withdraw{kept}.", "balance_short")
    return _bad_amount(
        f"The most that can be withdrawn is {kind(most)} {token}{kept}.", "balance_short"
    )


def _bad_destination(sentence: str) -> WithdrawalRefused:
    return WithdrawalRefused(sentence, "destination_invalid", "destination")


def _bad_amount(sentence: str, code: str = "amount_invalid") -> WithdrawalRefused:
    return WithdrawalRefused(sentence, code, "amount")
