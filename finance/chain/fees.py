"""What a transaction may cost: EIP-1559 fees from recent blocks, under the operator's caps.

All amounts are wei. `max_fee_wei` and `max_priority_fee_wei` are per unit of gas.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from finance.chain.answers import Nonsense, read_quantity
from finance.chain.endpoint import Question
from finance.chain.rpc import Rpc
from finance.errors import GasCapExceeded, GasTooDear
from finance.networks import Network

_GWEI = 10**9
_ETHER = 10**18
_BLOCKS = 10
_MIN_PRIORITY_FEE_WEI = 10**6
# Nodes take a replacement at +10 %; some at +12.5 %.
_BUMP_NUMERATOR, _BUMP_DENOMINATOR = 9, 8
# EIP-7825: no transaction may ask for more.
MAX_TX_GAS = 2**24


@dataclass(frozen=True, slots=True)
class GasCaps:
    """The most ETH that may go into gas: per unit of gas, transaction and UTC day."""

    per_gas_wei: int
    per_tx_wei: int
    per_day_wei: int

    @classmethod
    def default(cls, network: Network) -> GasCaps:
        """What an operator who set nothing gets; generous only where ETH is play money."""
        if network.name == "devnet":
            return cls(1000 * _GWEI, 10 * _ETHER, 1000 * _ETHER)
        return cls(20 * _GWEI, _ETHER // 100, _ETHER // 10)


@dataclass(frozen=True, slots=True)
class Fees:
    """EIP-1559 fees per unit of gas."""

    max_fee_wei: int
    max_priority_fee_wei: int

    def bumped(self) -> Fees:
        """At least 12.5 % more of both: what replaces a waiting transaction."""
        return Fees(_bump_up(self.max_fee_wei), _bump_up(self.max_priority_fee_wei))

    def at_least(self, other: Fees) -> Fees:
        priority = max(self.max_priority_fee_wei, other.max_priority_fee_wei)
        return Fees(max(self.max_fee_wei, other.max_fee_wei, priority), priority)


def suggest_fees(base_fees: list[int], rewards: list[int]) -> Fees:
    """Twice the next base fee, so that six full blocks cannot outbid it, plus the usual tip."""
    paid = [reward for reward in rewards if reward > 0]
    tip = max(int(median(paid)) if paid else 0, _MIN_PRIORITY_FEE_WEI)
    return Fees(2 * base_fees[-1] + tip, tip)


def gas_limit_up(estimate: int) -> int:
    """The estimate with room: state may change before mining, and an inner call that may
    fail (Multicall3) gets only 63/64 of what is left, so a tight limit would fail it."""
    return max(estimate, min(estimate * 3 // 2 + 10_000, MAX_TX_GAS))


def require_within_caps(caps: GasCaps, fees: Fees, gas_limit: int, spent_today_wei: int) -> None:
    """Raise GasCapExceeded when this transaction could cost more than the caps allow."""
    worst = gas_limit * fees.max_fee_wei
    if fees.max_fee_wei > caps.per_gas_wei:
        raise GasTooDear(
            f"Gas costs {fees.max_fee_wei} wei a unit; the cap is {caps.per_gas_wei} wei."
        )
    if worst > caps.per_tx_wei:
        raise GasCapExceeded(
            f"The transaction may cost {worst} wei; the cap is {caps.per_tx_wei} wei."
        )
    if spent_today_wei + worst > caps.per_day_wei:
        raise GasCapExceeded(
            f"{spent_today_wei} wei went into gas today and {worst} wei more may be needed; "
            f"the cap is {caps.per_day_wei} wei a day."
        )


async def read_fees(rpc: Rpc) -> Fees:
    """Fees for a transaction to be mined soon (eth_feeHistory)."""
    params = (hex(_BLOCKS), "latest", [50])
    base_fees, rewards = await rpc.ask(Question("eth_feeHistory", params, _read_history))
    return suggest_fees(base_fees, rewards)


def _read_history(value: Any) -> tuple[list[int], list[int]]:
    try:
        base_fees = [read_quantity(each) for each in value["baseFeePerGas"]]
        rewards = [read_quantity(each[0]) for each in value.get("reward") or ()]
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise Nonsense("a fee history without fees") from error
    if not base_fees:
        raise Nonsense("a fee history without blocks")
    return base_fees, rewards


def _bump_up(wei: int) -> int:
    return -(-wei * _BUMP_NUMERATOR // _BUMP_DENOMINATOR)
