"""When the seller claims: never too late, never for nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from finance.selling.claim_policy import ClaimPolicy, ClaimView, Reason, due

POLICY = ClaimPolicy(
    interval_seconds=3600,
    at_risk_atoms=1_000_000,
    dust_atoms=1_000,
    gas_price_wei=100,
    longest_seconds=86_400,
)
CHEAP, DEAR = 50, 10**15
NOW = 1_800_000_000


def channel(unclaimed: int, withdraw_requested_at: int = 0) -> ClaimView:
    return ClaimView("0x01", unclaimed, withdraw_requested_at)


def test_nothing_owed_costs_no_gas() -> None:
    assert due(NOW, [], POLICY, CHEAP, 0) is None
    assert due(NOW, [channel(0, NOW - 5)], POLICY, CHEAP, 0) is None


def test_dust_waits_for_more() -> None:
    assert due(NOW, [channel(999)], POLICY, CHEAP, 0) is None


def test_interval_claims_when_it_is_time() -> None:
    assert due(NOW, [channel(5_000)], POLICY, CHEAP, NOW - 3599) is None
    assert due(NOW, [channel(5_000)], POLICY, CHEAP, NOW - 3600) is Reason.INTERVAL


def test_amount_at_risk_does_not_wait_for_the_interval() -> None:
    two = [channel(600_000), channel(400_000)]
    assert due(NOW, two, POLICY, CHEAP, NOW) is Reason.AT_RISK


def test_dear_gas_is_waited_out_but_not_for_ever() -> None:
    assert due(NOW, [channel(5_000_000)], POLICY, DEAR, NOW - 86_399) is None
    assert due(NOW, [channel(5_000_000)], POLICY, DEAR, NOW - 86_400) is Reason.OVERDUE


@given(
    st.integers(1, 2**62), st.integers(1, NOW), st.integers(0, 2**200), st.integers(0, NOW + 10**6)
)
def test_withdrawal_is_answered_at_once_whatever_gas_costs(
    unclaimed: int, requested_at: int, gas_price: int, last_claim_at: int
) -> None:
    channels = [channel(0), channel(unclaimed, requested_at)]
    assert due(NOW, channels, POLICY, gas_price, last_claim_at) is Reason.WITHDRAWAL
