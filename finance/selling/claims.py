"""Turns vouchers into USDC in the wallet: many channels and the sweep in one transaction.

The rows say what is owed, the chain says what was claimed; a claim that is sent again
is the same transaction, and one that is made again for nothing changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby

from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS
from finance.chain.reverts import explain_revert
from finance.chain.sender import TxOutcome
from finance.chain.transactions import unix_now
from finance.errors import (
    CallReverted,
    ChainError,
    FinanceError,
    GasCapExceeded,
    GasTooDear,
    SettlementUnknown,
)
from finance.models import TxState
from finance.selling.claim_policy import (
    ClaimPolicy,
    ClaimView,
    Reason,
    due,
    withdrawing,
    worth_claiming,
)
from finance.selling.claimable import (
    CLAIM,
    Claimable,
    claim_and_sweep,
    claim_call,
    claim_reference,
    last_claim_at,
    load_claimable,
    next_reference,
    raise_claimed,
    receivers_of,
)
from finance.selling.settlement_events import BATCH_SETTLEMENT, CLAIMED
from finance.selling.tools import SellerTools
from finance.store import Batch
from finance.x402.abi import calldata
from finance.x402.settlement_calls import settle_calldata
from finance.x402.text import to_hex
from finance.x402.vouchers import needs_contract_check

CHANNELS_PER_TRANSACTION = 100
_TRIED_AT_ONCE = 50
_OUTCOME_SECONDS = 120.0
# How soon what the chain has refused is tried again: of a channel whose payer is withdrawing in a
# third of the time that is left, so that its claim is in time if it can be made at all.
RETRY_SECONDS = 1800
LAST_RETRY_SECONDS = 60

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class ClaimReport:
    """What a claim did. `excluded`: channels that could not be claimed, with the reason;
    `open_transactions`: sent, but not confirmed yet."""

    reason: Reason
    claimed_atoms: int = 0
    channels: int = 0
    tx_hashes: list[str] = field(default_factory=list)
    open_transactions: int = 0
    excluded: dict[str, str] = field(default_factory=dict)


class Claims:
    """Claims and sweeps for one receiver authorizer."""

    def __init__(self, tools: SellerTools, policy: ClaimPolicy | None = None) -> None:
        self._store, self._sender, self._rpc = tools.store, tools.sender, tools.rpc
        self._receiver, self._network = tools.receiver, tools.network
        self._channels, self._mirror = tools.channels, tools.mirror
        self.policy = policy or ClaimPolicy()
        # Two claims at once would claim the same twice: harmless, but paid for.
        self._turn = asyncio.Lock()
        self._wanted: set[str] = set()
        # When there was nothing worth a claim, and when all was claimed: what is owed has not
        # waited for longer. A channel that is claimed by itself puts off no other.
        self._idle_at = self._all_at = 0
        # Channels that the chain has refused, and when (monotonic seconds).
        self._refused_at: dict[str, float] = {}
        self._soon: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """Wait for nothing; what was sent is followed by the sender and the watcher."""
        if self._soon is not None:
            self._soon.cancel()
            await asyncio.gather(self._soon, return_exceptions=True)

    def claim_soon(self, channel_id: str) -> None:
        """Ask for a claim of this channel without waiting for it."""
        self._wanted.add(channel_id)
        if self._soon is None or self._soon.done():
            self._soon = asyncio.get_running_loop().create_task(self._claim_wanted())

    async def claim_due(self, now: int) -> ClaimReport | None:
        """Claim if the policy says so, and against withdrawals in any case; where nothing is worth
        it, sweep what an earlier claim could not. Raises ChainError when the chain cannot be asked
        and no payer is withdrawing; a withdrawal asks for no gas price."""
        rows = await asyncio.to_thread(load_claimable, self._store.engine, self._network)
        views = [row.view() for row in self._to_be_tried(rows)]
        leaving = [view.channel_id for view in views if withdrawing(view)]
        try:
            # Whoever leaves may go on buying for a month: the others have their own time.
            reason = await self._due(now, [view for view in views if not withdrawing(view)])
        except ChainError:
            if not leaving:
                raise
            reason = None
        if reason is not None:
            return await self.claim(reason)
        return await self.claim(Reason.WITHDRAWAL, leaving) if leaving else None

    async def _due(self, now: int, views: Sequence[ClaimView]) -> Reason | None:
        """Why all should be claimed now, by these channels."""
        if not worth_claiming(views, self.policy):
            self._idle_at = now
            await self._sweep()
            return None
        if not 0 < self._all_at <= now:  # not known to this process, or ahead as the clock was
            engine, chain_id = self._store.engine, self._network.chain_id
            self._all_at = await asyncio.to_thread(last_claim_at, engine, chain_id, now)
        since = self._all_at
        if since < self._idle_at <= now:
            since = self._idle_at
        gas_price = (await self._rpc.head()).base_fee_wei
        return due(now, views, self.policy, gas_price, since)

    async def leaving(self) -> list[str]:
        """Channels whose payer is withdrawing while something claimable is owed, but for what the
        chain has just refused."""
        rows = await asyncio.to_thread(load_claimable, self._store.engine, self._network)
        return [row.channel_id for row in self._to_be_tried(rows) if withdrawing(row.view())]

    async def claim_all(self, reason: Reason = Reason.REQUESTED) -> ClaimReport:
        """Claim everything that is owed, whatever the policy; before backup and shutdown."""
        return await self.claim(reason)

    async def claim(
        self, reason: Reason, channel_ids: Collection[str] | None = None
    ) -> ClaimReport:
        """Claim these channels (None: all that owe) and sweep. Waits for confirmation. What the
        chain has just refused is tried only if that is requested.

        Raises ChainError when nothing could be sent.
        """
        report = ClaimReport(reason)
        async with self._turn:
            rows = await asyncio.to_thread(
                load_claimable, self._store.engine, self._network, channel_ids
            )
            if reason is not Reason.REQUESTED:
                rows = self._to_be_tried(rows)
            for row in rows:
                self._refused_at.pop(row.channel_id, None)
            for group in self._groups(rows, report):
                await self._claim_group(group, report)
            if channel_ids is None and (report.tx_hashes or report.open_transactions):
                self._all_at = unix_now()
        for channel_id, why in report.excluded.items():
            _LOG.error("channel %s cannot be claimed: %s", channel_id, why)
        return report

    def _to_be_tried(self, rows: Sequence[Claimable]) -> list[Claimable]:
        now, clock = int(time.time()), time.monotonic()
        refused = self._refused_at
        return [
            row
            for row in rows
            if row.channel_id not in refused or clock >= refused[row.channel_id] + _pause(row, now)
        ]

    def _refuse(self, report: ClaimReport, reasons: Mapping[str, str]) -> None:
        """What the chain would not take is left alone for a while."""
        report.excluded.update(reasons)
        self._refused_at.update(dict.fromkeys(reasons, time.monotonic()))

    def _groups(self, rows: Sequence[Claimable], report: ClaimReport) -> list[list[Claimable]]:
        """What fits into one transaction each: one receiver and token, our authorizer."""
        good = [row for row in rows if not self._exclude_hopeless(row, report)]
        good.sort(key=lambda row: (_sweep_of(row), _asks_contract(row)))
        groups = []
        for _, same in groupby(good, key=_sweep_of):
            rest = list(same)
            size = CHANNELS_PER_TRANSACTION
            groups += [rest[at : at + size] for at in range(0, len(rest), size)]
        return groups

    def _exclude_hopeless(self, row: Claimable, report: ClaimReport) -> bool:
        if row.claim.config.receiver_authorizer != self._receiver.address_bytes:
            authorizer = to_hex(row.claim.config.receiver_authorizer)
            self._refuse(report, {row.channel_id: f"its receiver authorizer is {authorizer}"})
        elif row.gain <= 0:  # a deposit may come any time
            report.excluded[row.channel_id] = f"{row.owed} atoms are owed, but it holds no more"
        return row.channel_id in report.excluded

    async def _claim_group(self, group: list[Claimable], report: ClaimReport) -> None:
        good, data = group, await self._sweeping(group)
        if data is None:
            # One bad channel must not block the others, nor a token that moves to nobody the claim:
            # it can be swept later; what a payer has withdrawn is lost.
            if not (good := await self._without_culprits(group, report)):
                return
            data = await self._sweeping(good)
            data = data or claim_call(good, self._receiver, self._network.chain_id)
        ids = [row.channel_id for row in good]
        base = claim_reference(good)
        ref = await self._reference(base)
        try:
            tx_id = await self._sender.send(CLAIM, ref, BATCH_SETTLEMENT_ADDRESS, data)
            outcome = _require_taken(await self._sender.outcome(tx_id, _OUTCOME_SECONDS))
        except SettlementUnknown:
            report.open_transactions += 1
            return
        except GasTooDear:
            raise
        except (CallReverted, GasCapExceeded) as error:
            if len(good) > 1:
                half = len(good) // 2
                await self._claim_group(good[:half], report)
                await self._claim_group(good[half:], report)
            elif isinstance(error, GasCapExceeded) and not _asks_contract(good[0]):
                raise
            else:
                self._refuse(report, {ids[0]: str(error)})
            return
        await self._book(outcome, ids, report)

    async def _sweeping(self, group: Sequence[Claimable]) -> bytes | None:
        """The claim of all of these with its sweep; None where the chain would refuse it now."""
        data = claim_and_sweep(group, self._receiver, self._network.chain_id)
        try:
            await self._rpc.eth_call(BATCH_SETTLEMENT_ADDRESS, data, sender=self._sender.address)
        except CallReverted:
            return None
        return data

    async def _reference(self, base: str) -> str:
        wallet = self._sender.address
        return await asyncio.to_thread(next_reference, self._store.engine, CLAIM, base, wallet)

    async def _sweep(self) -> None:
        """Move what was claimed while the token moved to nobody."""
        engine, chain_id = self._store.engine, self._network.chain_id
        for receiver, token in await asyncio.to_thread(receivers_of, engine, chain_id):
            view = calldata("receivers", ("address", "address"), receiver, token)
            totals = await self._rpc.eth_call(BATCH_SETTLEMENT_ADDRESS, view)
            claimed, settled = totals[:32], totals[32:64]
            if claimed == settled:
                continue
            base = f"sweep:{chain_id}:{to_hex(receiver)}:{to_hex(claimed)}"
            ref = await self._reference(base)
            data = settle_calldata(receiver, token)
            with suppress(CallReverted):  # then it does still
                await self._sender.send(CLAIM, ref, BATCH_SETTLEMENT_ADDRESS, data)

    async def _without_culprits(
        self, group: list[Claimable], report: ClaimReport
    ) -> list[Claimable]:
        """Try each by itself; what fails is looked at again with fresh balances, once."""
        bad = {row.channel_id: why for row, why in await self._failing(group)}
        if bad:
            await self._mirror.sync(bad)
            fresh = await asyncio.to_thread(
                load_claimable, self._store.engine, self._network, list(bad)
            )
            fresh = [row for row in fresh if not self._exclude_hopeless(row, report)]
            still = {row.channel_id: why for row, why in await self._failing(fresh)}
            self._refuse(report, still)
            mended = [row for row in fresh if row.channel_id not in still]
            group = [row for row in group if row.channel_id not in bad] + mended
        return group

    async def _failing(self, rows: Sequence[Claimable]) -> list[tuple[Claimable, str]]:
        failing, chain_id = [], self._network.chain_id
        for part in _tried_together(rows):
            calls = [
                (BATCH_SETTLEMENT_ADDRESS, claim_call([row], self._receiver, chain_id))
                for row in part
            ]
            results = await self._rpc.multicall(calls)
            for row, (succeeded, data) in zip(part, results, strict=True):
                if not succeeded:
                    failing.append((row, explain_revert(data)))
        return failing

    async def _book(self, outcome: TxOutcome, ids: Sequence[str], report: ClaimReport) -> None:
        """By their own events; the ledger's rows are the watcher's."""
        if outcome.state not in (TxState.MINED, TxState.FINAL):
            report.excluded.update(dict.fromkeys(ids, outcome.error or "it was not mined"))
            return
        totals = {}
        for log in outcome.logs:
            if log.address == BATCH_SETTLEMENT and log.topics[0] == CLAIMED:
                totals[log.topics[1]] = int.from_bytes(log.data[32:64], "big")
                report.claimed_atoms += int.from_bytes(log.data[:32], "big")
        if totals:
            writes = [raise_claimed(channel_id, total) for channel_id, total in totals.items()]
            await self._store.commit(Batch(writes))
        for channel_id, total in totals.items():
            self._channels.note_claimed(channel_id, total)
        report.channels += len(totals)
        report.tx_hashes.append(outcome.tx_hash or "")

    async def _claim_wanted(self) -> None:
        while self._wanted:
            wanted, self._wanted = self._wanted, set()
            try:
                await self.claim(Reason.AT_RISK, wanted)
            except FinanceError as error:
                # The claim job comes again; the gateway admits no more until then.
                _LOG.warning("claiming %d channels: %s", len(wanted), error)
            except Exception:
                _LOG.exception("claiming %d channels", len(wanted))


def _pause(row: Claimable, now: int) -> int:
    """Seconds for which a channel that was refused is left alone."""
    if not row.withdraw_requested_at:
        return RETRY_SECONDS
    left = row.withdraw_requested_at + row.claim.config.withdraw_delay - now
    return min(max(left // 3, LAST_RETRY_SECONDS), RETRY_SECONDS)


def _require_taken(outcome: TxOutcome) -> TxOutcome:
    """What the chain refuses in its block is refused like what it refuses before: a wallet that is
    a contract may agree to a claim only where it is tried out. Raises CallReverted."""
    if outcome.state is TxState.REVERTED:
        raise CallReverted("the transaction was reverted")
    return outcome


def _asks_contract(row: Claimable) -> bool:
    """Whether the payer is a contract, which makes its claim as dear as it likes."""
    return needs_contract_check(row.claim.config)


def _tried_together(rows: Sequence[Claimable]) -> list[Sequence[Claimable]]:
    """What is tried in one read each: a contract by itself, for it may burn all gas there is."""
    contracts = [row for row in rows if _asks_contract(row)]
    others = [row for row in rows if not _asks_contract(row)]
    parts = [others[at : at + _TRIED_AT_ONCE] for at in range(0, len(others), _TRIED_AT_ONCE)]
    return [*parts, *([row] for row in contracts)]


def _sweep_of(row: Claimable) -> tuple[bytes, bytes]:
    return row.claim.config.receiver, row.claim.config.token
