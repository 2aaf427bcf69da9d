"""`/api/finance`: all that the console's Finance tab and Settings > Limits do."""

from __future__ import annotations

import asyncio
import time
from typing import TypeVar

from fastapi import Query
from pydantic import SecretStr

from finance.actions import Action
from finance.balance import money_in_books
from finance.channel_views import (
    bought_channels,
    count_bought,
    sold_channels,
    sold_totals,
)
from finance.history import Filter, Place, read_history
from finance.operations import Token
from finance.selling.gas_cost import gas_per_usdc
from finance.transaction_views import recent_transactions
from finance.withdrawal import read_amount, read_destination
from finance.withdrawals import count_withdrawals, find_withdrawal, recent_withdrawals
from node.accounts.access import Identity, Permission
from node.accounts.audit import Actor, audit_write
from node.accounts.service import Accounts
from node.api import finance_book_shapes as books
from node.api import finance_shapes as shapes
from node.api.paging import PAGE_SIZE, FilterText, Id, Listed, PageNumber
from node.api.routing import Caller, Endpoints
from node.preferences import read_preference
from node.treasury.choices import ClaimTerms, Thresholds
from node.treasury.errors import TreasuryInvalid, TreasuryUnknown
from node.treasury.limits import read_limits, set_limit
from node.treasury.paying_in import pay_link
from node.treasury.policies import change_claim_terms, change_thresholds
from node.treasury.reconciling import read_run, recent_runs
from node.treasury.sending import send_withdrawal
from node.treasury.treasury import Treasury
from node.treasury.wallet_file import export_wallet, import_wallet

T = TypeVar("T")


def endpoints(treasury: Treasury, accounts: Accounts) -> list[Endpoints]:
    """All of this area."""
    guarded = Guarded(accounts)
    area = Endpoints("/finance", ["finance"])
    _wallet(area, treasury)
    _withdrawals(area, treasury, guarded)
    _choices(area, treasury)
    _channels(area, treasury)
    _deeds(area, treasury, guarded)
    _books(area, treasury)
    _wallet_file(area, treasury, guarded)
    _limits(area, treasury)
    return [area]


class Guarded:
    """Asks for the password before money moves."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def confirm(self, identity: Identity, password: SecretStr) -> tuple[Actor, int]:
        """Who does it, and when. Raises SignInRefused; wrong ones count."""
        now = int(time.time())
        await self._accounts.check_password(identity, password.get_secret_value(), now)
        return Actor.of(identity), now


def _wallet(area: Endpoints, treasury: Treasury) -> None:
    @area.get("", Permission.SEE_FINANCE)
    async def wallet() -> shapes.WalletOut:
        """Balances and where to send money."""
        network, purse = treasury.network, treasury.purse
        held = await asyncio.to_thread(money_in_books, treasury.engine, network.chain_id)
        usdc, gas = purse.balances.usdc, purse.balances.gas
        return shapes.WalletOut(
            address=treasury.address,
            network=network.name,
            chain_id=network.chain_id,
            payment_uri=pay_link(treasury),
            usdc_atoms=None if usdc is None else int(usdc),
            eth_wei=None if gas is None else str(int(gas)),
            looked_at=int(purse.looked_at),
            in_channels_atoms=held[0],
            unclaimed_atoms=held[1],
        )

    @area.get("/serving", Permission.SEE_FINANCE)
    async def serving() -> shapes.ServingOut:
        """Whether paid calls are served."""
        return _serving(treasury)

    @area.post("/serving/pause", Permission.MOVE_MONEY)
    async def pause(identity: Caller) -> shapes.ServingOut:
        """Until it is resumed by hand."""
        await treasury.guard.pause(Actor.of(identity), int(time.time()))
        return _serving(treasury)

    @area.post("/serving/resume", Permission.MOVE_MONEY)
    async def resume(identity: Caller) -> shapes.ServingOut:
        """Also while a balance is low."""
        await treasury.guard.resume(Actor.of(identity), int(time.time()))
        return _serving(treasury)


def _serving(treasury: Treasury) -> shapes.ServingOut:
    standing = treasury.guard.standing
    return shapes.ServingOut(
        paused=standing.paused,
        auto_paused_at=standing.auto_paused_at,
        hand_paused_at=standing.hand_paused_at,
        low_usdc=standing.low_usdc,
        low_gas=standing.low_gas,
        waived=standing.waived,
    )


def _withdrawals(area: Endpoints, treasury: Treasury, guarded: Guarded) -> None:
    engine, service, chain_id = treasury.engine, treasury.withdrawals, treasury.network.chain_id

    @area.post("/withdrawals/quote", Permission.MOVE_MONEY)
    async def quote(wish: shapes.QuoteIn) -> shapes.WithdrawalQuoteOut:
        """What a withdrawal would do and cost; nothing is sent."""
        found = await service.quote(wish.token, wish.destination, wish.amount)
        return shapes.WithdrawalQuoteOut(
            token=found.token,
            destination=found.destination,
            amount=str(found.amount),
            left=str(found.left),
            expected_fee_wei=str(found.fee.expected_wei),
            worst_fee_wei=str(found.fee.worst_wei),
        )

    @area.post("/withdrawals", Permission.MOVE_MONEY)
    async def withdraw(wish: shapes.WithdrawalIn, identity: Caller) -> shapes.WithdrawalOut:
        """Send money, once per id. It may still be on its way when this answers."""
        actor, now = await guarded.confirm(identity, wish.password)
        to = read_destination(wish.destination, treasury.address, treasury.network)
        atoms = read_amount(wish.token, wish.amount)
        view = await send_withdrawal(service, wish.id, wish.token, to, atoms, actor, now)
        return shapes.WithdrawalOut.of(view)

    @area.get("/withdrawals", Permission.SEE_FINANCE)
    async def withdrawals(page: PageNumber = 1) -> Listed[shapes.WithdrawalOut]:
        """Newest first."""
        skip = PAGE_SIZE * (page - 1)
        found = await asyncio.to_thread(recent_withdrawals, engine, chain_id, PAGE_SIZE, skip)
        total = await asyncio.to_thread(count_withdrawals, engine, chain_id)
        return _paged([shapes.WithdrawalOut.of(each) for each in found], total, page)

    @area.get("/withdrawals/{withdrawal_id}", Permission.SEE_FINANCE)
    async def withdrawal(withdrawal_id: Id) -> shapes.WithdrawalOut:
        """How far one is."""
        found = await asyncio.to_thread(find_withdrawal, engine, withdrawal_id)
        if found is None or found.chain_id != chain_id:
            raise TreasuryUnknown("There is no such withdrawal.")
        return shapes.WithdrawalOut.of(found)


def _choices(area: Endpoints, treasury: Treasury) -> None:
    engine, chain_id = treasury.engine, treasury.network.chain_id

    @area.get("/thresholds", Permission.SEE_FINANCE)
    async def thresholds() -> shapes.ThresholdsShape:
        """When serving pauses by itself."""
        return _thresholds(await asyncio.to_thread(read_preference, engine, Thresholds))

    @area.put("/thresholds", Permission.MOVE_MONEY)
    async def set_thresholds(
        wanted: shapes.ThresholdsShape, identity: Caller
    ) -> shapes.ThresholdsShape:
        """Change them."""
        chosen = Thresholds(
            low_usdc_atoms=wanted.low_usdc_atoms,
            low_gas_wei=int(wanted.low_gas_wei),
            margin_percent=wanted.margin_percent,
            auto_pause=wanted.auto_pause,
        )
        actor, now = Actor.of(identity), int(time.time())
        await asyncio.to_thread(change_thresholds, engine, chosen, actor, now)
        return _thresholds(chosen)

    @area.get("/claim-policy", Permission.SEE_FINANCE)
    async def claim_policy() -> shapes.ClaimPolicyShape:
        """When vouchers are claimed."""
        return _claim_policy(await asyncio.to_thread(read_preference, engine, ClaimTerms))

    @area.put("/claim-policy", Permission.MOVE_MONEY)
    async def set_claim_policy(
        wanted: shapes.ClaimPolicyShape, identity: Caller
    ) -> shapes.ClaimPolicyShape:
        """Change it."""
        chosen = ClaimTerms(**wanted.model_dump())
        actor, now = Actor.of(identity), int(time.time())
        await asyncio.to_thread(change_claim_terms, engine, chosen, actor, now)
        await treasury.reload()
        return _claim_policy(chosen)

    @area.get("/gas", Permission.SEE_FINANCE)
    async def gas(since: shapes.Seconds = None) -> shapes.GasOut:
        """Gas spent per USDC earned."""
        cost = await asyncio.to_thread(gas_per_usdc, engine, chain_id, since or 0)
        ratio = cost.wei_per_usdc_up
        return shapes.GasOut(
            since=since or 0,
            gas_wei=str(cost.gas_wei),
            earned_atoms=cost.earned_atoms,
            wei_per_usdc=None if ratio is None else str(ratio),
        )


def _thresholds(chosen: Thresholds) -> shapes.ThresholdsShape:
    return shapes.ThresholdsShape(
        low_usdc_atoms=chosen.low_usdc_atoms,
        low_gas_wei=str(chosen.low_gas_wei),
        margin_percent=chosen.margin_percent,
        auto_pause=chosen.auto_pause,
    )


def _claim_policy(chosen: ClaimTerms) -> shapes.ClaimPolicyShape:
    return shapes.ClaimPolicyShape(
        interval_seconds=chosen.interval_seconds,
        at_risk_atoms=chosen.at_risk_atoms,
        dust_atoms=chosen.dust_atoms,
        gas_price_wei=chosen.gas_price_wei,
        longest_seconds=chosen.longest_seconds,
    )


def _channels(area: Endpoints, treasury: Treasury) -> None:
    engine, chain_id = treasury.engine, treasury.network.chain_id

    @area.get("/channels/selling", Permission.SEE_FINANCE)
    async def selling(page: PageNumber = 1) -> Listed[shapes.SoldOut]:
        """Those we are paid through, what owes most first."""
        skip = PAGE_SIZE * (page - 1)
        found = await asyncio.to_thread(sold_channels, engine, chain_id, PAGE_SIZE, skip)
        totals = await asyncio.to_thread(sold_totals, engine, chain_id)
        return _paged([shapes.SoldOut.of(each) for each in found], totals.channels, page)

    @area.get("/channels/buying", Permission.SEE_FINANCE)
    async def buying(page: PageNumber = 1) -> Listed[shapes.BoughtOut]:
        """Those we pay through, the most unspent first."""
        skip = PAGE_SIZE * (page - 1)
        found = await asyncio.to_thread(bought_channels, engine, chain_id, PAGE_SIZE, skip)
        total = await asyncio.to_thread(count_bought, engine, chain_id)
        return _paged([shapes.BoughtOut.of(each) for each in found], total, page)

    @area.get("/transactions", Permission.SEE_FINANCE)
    async def transactions() -> list[shapes.TransactionOut]:
        """The newest fifty of this node."""
        found = await asyncio.to_thread(recent_transactions, engine, chain_id, (), PAGE_SIZE)
        return [shapes.TransactionOut.of(each) for each in found]


def _deeds(area: Endpoints, treasury: Treasury, guarded: Guarded) -> None:
    @area.post("/channels/claim", Permission.MOVE_MONEY)
    async def claim(wish: shapes.ClaimIn, identity: Caller) -> shapes.Accepted:
        """Claim and sweep now, without waiting for it."""
        actor, now = await guarded.confirm(identity, wish.password)
        await treasury.selling.claim(wish.channel_ids or None, actor, now)
        return shapes.Accepted()

    @area.post("/channels/selling/{channel_id}/refund", Permission.MOVE_MONEY)
    async def refund(
        channel_id: shapes.ChannelId, wish: shapes.Password, identity: Caller
    ) -> shapes.Accepted:
        """Claim what a channel owes and give its buyer the rest."""
        actor, now = await guarded.confirm(identity, wish.password)
        await treasury.selling.refund(channel_id, actor, now)
        return shapes.Accepted()

    @area.post("/channels/buying/{channel_id}/close", Permission.MOVE_MONEY)
    async def close(
        channel_id: shapes.ChannelId, wish: shapes.Password, identity: Caller
    ) -> shapes.Accepted:
        """Get back what is unspent, from the seller or through the contract."""
        actor, now = await guarded.confirm(identity, wish.password)
        trail = audit_write(actor, "channel.close", channel_id, now)
        await treasury.closings.close(channel_id, (trail,))
        return shapes.Accepted()


def _books(area: Endpoints, treasury: Treasury) -> None:
    engine = treasury.engine

    @area.get("/history", Permission.SEE_FINANCE)
    async def history(
        action: Action | None = None,
        token: Token | None = None,
        since: shapes.Seconds = None,
        before: shapes.Seconds = None,
        text: FilterText = "",
        after: str = Query(default="", max_length=60, description="`older` of the page before"),
    ) -> books.HistoryOut:
        """What moved on the chain, newest first, fifty at a time."""
        place = Place.parse(after)
        if after and place is None:
            raise TreasuryInvalid("after", "This is no place in the history.")
        wanted = Filter(action, token, since, before, text, treasury.network.chain_id)
        page = await asyncio.to_thread(read_history, engine, wanted, place, PAGE_SIZE)
        return books.HistoryOut(
            items=[books.MovementOut.of(each) for each in page.lines],
            older=page.older.text() if page.older else None,
        )

    @area.get("/reconciliations", Permission.SEE_FINANCE)
    async def reconciliations() -> list[books.RunOut]:
        """The newest twenty."""
        return [books.RunOut.of(run) for run in await asyncio.to_thread(recent_runs, engine)]

    @area.post("/reconciliations", Permission.MOVE_MONEY)
    async def reconcile(identity: Caller) -> books.Started:
        """Hold the books against the chain, without waiting for it."""
        run_id = await treasury.reconciler.begin(Actor.of(identity), int(time.time()))
        return books.Started(id=run_id)

    @area.get("/reconciliations/{run_id}", Permission.SEE_FINANCE)
    async def reconciliation(run_id: shapes.RowId) -> books.RunOut:
        """One of them."""
        run = await asyncio.to_thread(read_run, engine, run_id)
        if run is None:
            raise TreasuryUnknown("There is no such reconciliation.")
        return books.RunOut.of(run)


def _wallet_file(area: Endpoints, treasury: Treasury, guarded: Guarded) -> None:
    @area.post("/wallet/export", Permission.EXPORT_WALLET)
    async def export(wish: books.ExportIn, identity: Caller) -> books.KeystoreOut:
        """The wallet as encrypted keystore."""
        actor, now = await guarded.confirm(identity, wish.password)
        phrase = wish.passphrase.get_secret_value()
        text = await export_wallet(treasury.engine, treasury.keystore, phrase, actor, now)
        return books.KeystoreOut(keystore=text)

    @area.post("/wallet/import", Permission.EXPORT_WALLET)
    async def take_in(wish: books.ImportIn, identity: Caller) -> books.ImportOut:
        """Replace the wallet of an unused node, from its next start on."""
        actor, now = await guarded.confirm(identity, wish.password)
        address = await import_wallet(
            treasury.engine,
            treasury.keystore,
            wish.keystore,
            wish.its_passphrase.get_secret_value(),
            wish.passphrase.get_secret_value(),
            treasury.purse.seen(now),
            actor,
            now,
        )
        return books.ImportOut(address=address)


def _limits(area: Endpoints, treasury: Treasury) -> None:
    @area.get("/limits", Permission.SEE_FINANCE)
    async def limits() -> books.LimitsOut:
        """The most that is signed, and what of it is used today."""
        return await _limits_out(treasury)

    @area.put("/limits", Permission.MOVE_MONEY)
    async def change(wanted: books.LimitIn, identity: Caller) -> books.LimitsOut:
        """Change one; the node follows within seconds."""
        actor, now = Actor.of(identity), int(time.time())
        place = wanted.scope, wanted.subject
        await set_limit(treasury.store, *place, wanted.limit_atoms, actor, now)
        return await _limits_out(treasury)


async def _limits_out(treasury: Treasury) -> books.LimitsOut:
    view = await asyncio.to_thread(read_limits, treasury.engine, int(time.time()))
    return books.LimitsOut(
        day=view.day,
        deposited_atoms=view.deposited,
        limits=[
            books.LimitOut(
                scope=line.scope,
                subject=line.subject,
                name=line.name,
                limit_atoms=line.limit,
                used_atoms=line.used,
                default=not line.chosen,
            )
            for line in (*view.general, *view.overrides)
        ],
    )


def _paged(items: list[T], total: int, page: int) -> Listed[T]:
    return Listed(items=items, total=total, page=page, pages=max(-(-total // PAGE_SIZE), 1))
