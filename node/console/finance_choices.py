"""Finance > Thresholds and Finance > Claims: when serving pauses, when vouchers are claimed."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, replace
from decimal import Decimal

from starlette.responses import Response

from finance.errors import AmountInvalid
from finance.money import Usdc, Wei, ungrouped
from finance.selling.gas_cost import GasCost, gas_per_usdc
from node.accounts.access import Permission
from node.console.finance import ServingView, serving_view
from node.console.format import Amount, aligned, amount, cell_amount
from node.console.forms import FieldError, Form, in_units, read_units
from node.console.pages import Pages
from node.console.visit import Visit
from node.durations import DAY
from node.preferences import read_preference
from node.treasury.choices import ClaimTerms, Thresholds
from node.treasury.errors import TreasuryError
from node.treasury.policies import change_claim_terms, change_thresholds
from node.treasury.treasury import Treasury

_WHOLE = "A whole number."
_GWEI = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class ThresholdsView:
    """What `finance/thresholds.html` shows."""

    form: Form
    serving: ServingView
    usdc: Amount
    eth: Amount
    may_move: bool


@dataclass(frozen=True, slots=True)
class CostLine:
    """Gas of the selling side over a time."""

    label: str
    gas: Amount
    earned: Amount
    per_usdc: Amount


@dataclass(frozen=True, slots=True)
class ClaimsView:
    """What `finance/claims.html` shows."""

    form: Form
    costs: tuple[CostLine, ...]
    may_move: bool


def pages(treasury: Treasury) -> Pages:
    """Thresholds."""
    pages = Pages("finance", "thresholds")

    @pages.get("/finance/thresholds", Permission.SEE_FINANCE)
    async def show(visit: Visit) -> Response:
        chosen = await asyncio.to_thread(read_preference, treasury.engine, Thresholds)
        return await _thresholds_page(treasury, visit, _threshold_form(chosen).as_shown(), 200)

    @pages.post("/finance/thresholds", Permission.MOVE_MONEY)
    async def save(visit: Visit) -> Response:
        form = Form(visit.form)
        try:
            chosen = await asyncio.to_thread(read_preference, treasury.engine, Thresholds)
            wanted = _read_thresholds(form.merged(_threshold_form(chosen).values))
            await asyncio.to_thread(
                change_thresholds, treasury.engine, wanted, visit.actor, visit.now
            )
        except (FieldError, TreasuryError) as error:
            return await _thresholds_page(treasury, visit, form.refused(error), 422)
        return visit.redirect("/finance/thresholds", "Thresholds saved.")

    return pages


def claim_pages(treasury: Treasury) -> Pages:
    """The claim policy, and what claiming costs."""
    pages = Pages("finance", "claims")

    @pages.get("/finance/claims", Permission.SEE_FINANCE)
    async def show(visit: Visit) -> Response:
        chosen = await asyncio.to_thread(read_preference, treasury.engine, ClaimTerms)
        return await _claims_page(treasury, visit, _claim_form(chosen).as_shown(), 200)

    @pages.post("/finance/claims", Permission.MOVE_MONEY)
    async def save(visit: Visit) -> Response:
        form = Form(visit.form)
        try:
            before = await asyncio.to_thread(read_preference, treasury.engine, ClaimTerms)
            wanted = _read_claim_terms(form.merged(_claim_form(before).values), before)
            await asyncio.to_thread(
                change_claim_terms, treasury.engine, wanted, visit.actor, visit.now
            )
        except (FieldError, TreasuryError) as error:
            return await _claims_page(treasury, visit, form.refused(error), 422)
        await treasury.reload()
        return visit.redirect("/finance/claims", "Claim policy saved.")

    return pages


async def _thresholds_page(treasury: Treasury, visit: Visit, form: Form, status: int) -> Response:
    balances = treasury.purse.balances
    view = ThresholdsView(
        form,
        await asyncio.to_thread(serving_view, treasury, visit),
        amount(balances.usdc),
        amount(balances.gas),
        visit.identity.may(Permission.MOVE_MONEY),
    )
    return visit.page("finance/thresholds.html", view, "Thresholds", status)


def _threshold_form(chosen: Thresholds) -> Form:
    return Form(
        {
            "low_usdc": str(Usdc(chosen.low_usdc_atoms)),
            "low_gas": str(Wei(chosen.low_gas_wei)),
            "margin": str(chosen.margin_percent),
            "auto_pause": "on" if chosen.auto_pause else "",
        }
    )


def _read_thresholds(form: Form) -> Thresholds:
    return Thresholds(
        low_usdc_atoms=read_usdc(form, "low_usdc"),
        low_gas_wei=_wei(form, "low_gas"),
        margin_percent=read_number(form, "margin"),
        auto_pause=form.value("auto_pause") == "on",
    )


async def _claims_page(treasury: Treasury, visit: Visit, form: Form, status: int) -> Response:
    costs = await asyncio.to_thread(_costs, treasury, visit.now)
    view = ClaimsView(form, costs, visit.identity.may(Permission.MOVE_MONEY))
    return visit.page("finance/claims.html", view, "Claims", status)


def _costs(treasury: Treasury, now: int) -> tuple[CostLine, ...]:
    spans = (("24 hours", now - DAY), ("30 days", now - 30 * DAY), ("Since the start", 0))
    engine, chain_id = treasury.engine, treasury.network.chain_id
    lines = [_cost(label, gas_per_usdc(engine, chain_id, since)) for label, since in spans]
    gas = aligned([line.gas for line in lines])
    return tuple(replace(line, gas=each) for line, each in zip(lines, gas, strict=True))


def _cost(label: str, cost: GasCost) -> CostLine:
    ratio = cost.wei_per_usdc_up
    return CostLine(
        label,
        cell_amount(Wei(max(0, cost.gas_wei))),
        cell_amount(Usdc(max(0, cost.earned_atoms))),
        amount(None if ratio is None else Wei(max(0, ratio)), 9),
    )


def _claim_form(chosen: ClaimTerms) -> Form:
    return Form(
        {
            "interval": in_units(chosen.interval_seconds, 60),
            "at_risk": str(Usdc(chosen.at_risk_atoms)),
            "dust": str(Usdc(chosen.dust_atoms)),
            "gas_price": _gwei_text(chosen.gas_price_wei),
            "longest": in_units(chosen.longest_seconds, 60),
        }
    )


def _read_claim_terms(form: Form, before: ClaimTerms) -> ClaimTerms:
    return ClaimTerms(
        interval_seconds=_minutes(form, "interval", before.interval_seconds),
        at_risk_atoms=read_usdc(form, "at_risk"),
        dust_atoms=read_usdc(form, "dust"),
        gas_price_wei=_gwei(form, "gas_price"),
        longest_seconds=_minutes(form, "longest", before.longest_seconds),
    )


def _minutes(form: Form, name: str, stored: int) -> int:
    seconds = read_units(form, name, 60, stored, _WHOLE)
    if seconds is None:
        raise FieldError(name, _WHOLE)
    return seconds


def read_usdc(form: Form, name: str) -> int:
    """Atoms of what was typed; raises FieldError."""
    try:
        return int(Usdc.parse(ungrouped(form.value(name))))
    except AmountInvalid:
        raise FieldError(name, "An amount of USDC with at most 6 decimals, like 12.5.") from None


def _wei(form: Form, name: str) -> int:
    try:
        return int(Wei.parse(ungrouped(form.value(name))))
    except AmountInvalid:
        raise FieldError(name, "A number with at most 18 decimals, like 0.001.") from None


def _gwei_text(wei: int) -> str:
    return format(Decimal(wei).scaleb(-9).normalize(), "f")


def _gwei(form: Form, name: str) -> int:
    text = ungrouped(form.value(name))
    if not _GWEI.fullmatch(text):
        raise FieldError(name, "A price in gwei with at most 9 decimals, like 2 or 0.05.")
    return int(Decimal(text).scaleb(9))


def read_number(form: Form, name: str) -> int:
    """A whole number; raises FieldError."""
    text = form.value(name).strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise FieldError(name, _WHOLE)
    return int(text)
