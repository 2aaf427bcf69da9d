"""Changing thresholds and the claim policy: what is sensible, and the trail of it."""

from __future__ import annotations

from sqlalchemy import Engine

from finance.money import MAX_ATOMS
from node.accounts.audit import Actor
from node.preferences import change_preference
from node.treasury.choices import ClaimTerms, Thresholds
from node.treasury.errors import TreasuryInvalid

DAY_SECONDS = 86_400
# Beyond this a preference's number is an accident (and 64 bits end soon after).
MOST_WEI = 9 * 10**18


def change_thresholds(engine: Engine, wanted: Thresholds, actor: Actor, now: int) -> None:
    """Raises TreasuryInvalid (blocking)."""
    _within("low_usdc", wanted.low_usdc_atoms, 0, MAX_ATOMS, "This is no amount of USDC.")
    _within("low_gas", wanted.low_gas_wei, 0, MOST_WEI, "At most 9 ETH make a threshold.")
    _within("margin", wanted.margin_percent, 0, 1000, "The margin is 0 to 1000 percent.")
    change_preference(engine, wanted, actor, now)


def change_claim_terms(engine: Engine, wanted: ClaimTerms, actor: Actor, now: int) -> None:
    """Raises TreasuryInvalid (blocking)."""
    week = 7 * DAY_SECONDS
    _within("interval", wanted.interval_seconds, 60, week, "From a minute to seven days.")
    _within("at_risk", wanted.at_risk_atoms, 1, MAX_ATOMS, "This is no amount of USDC.")
    _within("dust", wanted.dust_atoms, 0, MAX_ATOMS, "This is no amount of USDC.")
    if wanted.dust_atoms > wanted.at_risk_atoms:
        raise TreasuryInvalid("dust", "What is not worth a claim must be below what is at risk.")
    _within("gas_price", wanted.gas_price_wei, 1, 10**15, "From 1 wei to a million gwei.")
    _within("longest", wanted.longest_seconds, 600, 30 * DAY_SECONDS, "Ten minutes to 30 days.")
    if wanted.longest_seconds < wanted.interval_seconds:
        raise TreasuryInvalid("longest", "The longest wait cannot be shorter than the interval.")
    change_preference(engine, wanted, actor, now)


def _within(field: str, value: int, least: int, most: int, sentence: str) -> None:
    if not least <= value <= most:
        raise TreasuryInvalid(field, sentence)
