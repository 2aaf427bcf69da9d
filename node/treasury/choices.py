"""What operators choose about money, with defaults that do no harm."""

from __future__ import annotations

from finance.selling.claim_policy import ClaimPolicy
from finance.thresholds import Level, Standing
from node.preferences import Preference


class Thresholds(Preference, frozen=True, kw_only=True, tag="thresholds"):
    """Below which balances the operator is told, and paid serving pauses by itself.

    A seller needs gas (without it no deposit of a buyer can be taken and nothing is
    claimed), but no USDC: so gas has a threshold from the start, about twenty claims on
    Base, and USDC none until somebody who also buys sets one. 0 is off.
    """

    low_usdc_atoms: int = 0
    low_gas_wei: int = 200_000_000_000_000
    margin_percent: int = 20
    auto_pause: bool = True

    @property
    def usdc(self) -> Level:
        return Level(self.low_usdc_atoms, self.margin_percent)

    @property
    def gas(self) -> Level:
        return Level(self.low_gas_wei, self.margin_percent)


class Serving(Preference, frozen=True, kw_only=True, tag="serving"):
    """Whether paid serving is paused, and why; see finance.thresholds.Standing."""

    low_usdc: bool = False
    low_gas: bool = False
    auto_paused_at: int = 0
    hand_paused_at: int = 0
    waived: bool = False

    @classmethod
    def of(cls, standing: Standing) -> Serving:
        return cls(
            low_usdc=standing.low_usdc,
            low_gas=standing.low_gas,
            auto_paused_at=standing.auto_paused_at,
            hand_paused_at=standing.hand_paused_at,
            waived=standing.waived,
        )

    @property
    def standing(self) -> Standing:
        return Standing(
            self.low_usdc, self.low_gas, self.auto_paused_at, self.hand_paused_at, self.waived
        )


class ClaimTerms(Preference, frozen=True, kw_only=True, tag="claim_policy"):
    """When vouchers are claimed; see finance.selling.claim_policy."""

    interval_seconds: int = ClaimPolicy().interval_seconds
    at_risk_atoms: int = ClaimPolicy().at_risk_atoms
    dust_atoms: int = ClaimPolicy().dust_atoms
    gas_price_wei: int = ClaimPolicy().gas_price_wei
    longest_seconds: int = ClaimPolicy().longest_seconds

    @property
    def policy(self) -> ClaimPolicy:
        return ClaimPolicy(
            self.interval_seconds,
            self.at_risk_atoms,
            self.dust_atoms,
            self.gas_price_wei,
            self.longest_seconds,
        )
