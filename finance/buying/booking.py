"""What an answer proves about a payment, and the books that say so.

`judge` reads an answer, `book` makes its meaning durable and frees the channel,
`refused` does both for a 402 and takes over what a corrective one proves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from finance.buying.answers import Sent, check_correction, check_receipt
from finance.buying.channels import Channel
from finance.buying.deposits import Deposits
from finance.buying.limits import Reservation, Spending
from finance.buying.lost import ProvedLate
from finance.buying.onchain import ChainView
from finance.buying.pools import ChannelPools
from finance.buying.proofs import adopt, adoption, find_charged, superseded
from finance.buying.purchase import (
    Payment,
    Verdict,
    channel_charged,
    channel_stopped,
    ended,
    spent,
)
from finance.buying.signing import SignedDeposit
from finance.errors import PaymentMalformed, RpcUnavailable, SellerUntrustworthy
from finance.models import ChannelState, PurchaseState
from finance.networks import Network
from finance.store import Batch, Increment, Store, Write
from finance.x402 import codes
from finance.x402.receipt import decode_response, read_states
from finance.x402.values import BATCH_SETTLEMENT_SCHEME, PaymentRequired

Announce = Callable[[str, str, str], Write]
"""(type, severity, message) to a row of the event log."""


class Bookkeeper:
    """Turns sellers' answers into rows. `payer` is the wallet's address, lower-case hex."""

    def __init__(
        self,
        store: Store,
        network: Network,
        payer: str,
        pools: ChannelPools,
        deposits: Deposits,
        view: ChainView,
        spending: Spending,
        announce: Announce,
        proved_late: ProvedLate,
    ) -> None:
        self._store, self._network, self._payer = store, network, payer
        self._pools, self._deposits, self._view = pools, deposits, view
        self._spending, self._announce, self._proved_late = spending, announce, proved_late
        # Purchases by an authorization whose calls run still: these book what becomes of it.
        self.running: set[str] = set()

    def judge(self, payment: Payment, status: int, receipt_header: bytes | str | None) -> Verdict:
        """What an answer other than 402 says about our money. Never raises."""
        channel = payment.channel
        if receipt_header is None:
            if status < 400:
                return Verdict(PurchaseState.UNKNOWN, error="no_receipt")
            error = f"seller_answered_{status}"
            # A voucher's fate shows in the next one; an authorization's only on the chain.
            return Verdict(PurchaseState.FAILED if channel else PurchaseState.UNKNOWN, error=error)
        try:
            receipt = decode_response(receipt_header)
            if not receipt.success:
                return Verdict(PurchaseState.UNKNOWN, error=(receipt.error_reason or "")[:200])
            charged = check_receipt(receipt, self._sent(payment))
        except (PaymentMalformed, SellerUntrustworthy) as error:
            return Verdict(PurchaseState.UNKNOWN, error="receipt_wrong", stop=str(error))
        if channel is not None and receipt.channel_state is not None:
            _compare_balance(channel, payment.deposit, receipt.channel_state.balance)
        return Verdict(PurchaseState.PAID, charged, receipt.transaction or None)

    def _sent(self, payment: Payment) -> Sent:
        network, payer = self._network.caip2, self._payer
        channel = payment.channel
        if channel is None:
            return Sent(network, payer, payment.amount_atoms)
        before = payment.cumulative - payment.amount_atoms
        return Sent(network, payer, payment.amount_atoms, channel.id, before)

    async def book(
        self,
        payment: Payment,
        verdict: Verdict,
        also: Sequence[Write] = (),
        increments: Sequence[Increment] = (),
    ) -> None:
        """Make a verdict durable together with `also`, then free the channel."""
        if payment.sent_before and verdict.state == PurchaseState.FAILED:
            # This try did nothing; the first one may have been charged.
            verdict = replace(verdict, state=PurchaseState.UNKNOWN, never_sent=False)
        channel = payment.channel
        try:
            if channel is None:
                await self._book_exact(payment, verdict, also, increments)
            elif verdict.state == PurchaseState.PAID:
                await self._book_charge(payment, channel, verdict, also, increments)
            else:
                await self._book_open(payment, channel, verdict, also, increments)
        finally:
            self.running.discard(payment.order.purchase_id)
            if channel is not None:
                self._pools.release(channel)

    async def _book_exact(
        self,
        payment: Payment,
        verdict: Verdict,
        also: Sequence[Write],
        increments: Sequence[Increment],
    ) -> None:
        now, purchase_id = int(time.time()), payment.order.purchase_id
        writes = [*also, ended(purchase_id, verdict, now)]
        if verdict.state == PurchaseState.PAID:
            atoms, tx = verdict.charged_atoms, verdict.tx_hash
            writes.append(spent(purchase_id, atoms, None, tx, now))
        elif verdict.never_sent and payment.reservation:
            writes += self._spending.release(payment.reservation)
        if verdict.stop:
            writes.append(self._announce_stop(payment, verdict.stop))
        await self._store.commit(Batch(writes, increments))

    async def _book_charge(
        self,
        payment: Payment,
        channel: Channel,
        verdict: Verdict,
        also: Sequence[Write],
        increments: Sequence[Increment],
    ) -> None:
        try:
            await self._store_charge(payment, channel, verdict, also, increments)
        except BaseException:
            # The answer was paid, the books do not say so yet: the next proof will.
            channel.unresolved.append(payment.as_open())
            raise

    async def _store_charge(
        self,
        payment: Payment,
        channel: Channel,
        verdict: Verdict,
        also: Sequence[Write],
        increments: Sequence[Increment],
    ) -> None:
        if payment.deposit is not None and not await self._deposits.confirm(channel):
            # The seller says the money arrived; the books wait for the chain to say so.
            channel.balance = max(channel.balance, payment.cumulative)
        now, purchase_id = int(time.time()), payment.order.purchase_id
        charged = payment.cumulative - payment.amount_atoms + verdict.charged_atoms
        writes = [*also, ended(purchase_id, verdict, now)]
        if charged != channel.charged:
            writes.append(channel_charged(channel, charged, now))
        if verdict.charged_atoms:
            atoms, tx = verdict.charged_atoms, verdict.tx_hash
            writes.append(spent(purchase_id, atoms, channel, tx, now))
        if channel.unresolved:
            writes += superseded(channel, charged, purchase_id, self._spending, now)
        await self._store.commit(Batch(writes, increments))
        channel.charged = charged
        if channel.unresolved:
            channel.unresolved = [each for each in channel.unresolved if each.cumulative > charged]

    async def _book_open(
        self,
        payment: Payment,
        channel: Channel,
        verdict: Verdict,
        also: Sequence[Write],
        increments: Sequence[Increment],
    ) -> None:
        now = int(time.time())
        writes = [*also, ended(payment.order.purchase_id, verdict, now)]
        if verdict.never_sent and payment.reservation:
            writes += self._given_back(payment.reservation, payment, channel)
        elif all(each.call_id != payment.order.purchase_id for each in channel.unresolved):
            channel.unresolved.append(payment.as_open(verdict.state == PurchaseState.REFUSED))
        if payment.deposit is not None:
            channel.stale = True
        if verdict.stop:
            writes.append(self._announce_stop(payment, verdict.stop))
            writes.append(channel_stopped(channel, verdict.stop, now))
            channel.state = ChannelState.STOPPED
        await self._store.commit(Batch(writes, increments))

    def _given_back(
        self, reservation: Reservation, payment: Payment, channel: Channel
    ) -> list[Write]:
        """What was counted for a voucher that never left, unless it counts for one that did: it
        is moved back to that."""
        left = [each for each in channel.unresolved if each.cumulative <= payment.cumulative]
        if not left:
            return self._spending.release(reservation)
        left[-1].reservation = reservation
        return []

    def _announce_stop(self, payment: Payment, reason: str) -> Write:
        seller = payment.order.origin
        where = f"channel {payment.channel.id_hex}" if payment.channel else "an exact payment"
        sentence = (
            f"The answer of {seller} does not add up: {reason}. Nothing more is signed for"
            f" {where}; money left in a channel can be withdrawn by its payer."
        )
        return self._announce("channel_stopped", "error", sentence)

    # Refusals

    async def refused(self, payment: Payment, required: PaymentRequired, reason: str) -> bool:
        """Book a 402 that answered a payment and free its channel; True if paying again makes
        sense: it set the channel right, or another one can be taken."""
        channel = payment.channel
        if channel is None:
            await self.book(payment, Verdict(PurchaseState.UNKNOWN, error=reason[:200]))
            return False
        if reason == codes.CHANNEL_BUSY:
            return await self._set_aside(payment, channel)
        verdict = Verdict(PurchaseState.REFUSED, error=reason[:200])
        try:
            return await self._mend(payment, channel, required, reason, verdict)
        except SellerUntrustworthy as error:
            if payment.sent_before:  # what it says now does not prove that nothing was charged
                verdict = replace(verdict, state=PurchaseState.UNKNOWN)
            await self._book_open(payment, channel, replace(verdict, stop=str(error)), (), ())
            return False
        finally:
            self._pools.release(channel)

    async def _set_aside(self, payment: Payment, channel: Channel) -> bool:
        """Another call holds this channel at the seller: somebody else's, so that this one may
        go through another channel, or its own first try, which may still be charged."""
        state = PurchaseState.UNKNOWN if payment.sent_before else PurchaseState.REFUSED
        try:
            await self._book_open(
                payment, channel, Verdict(state, error=codes.CHANNEL_BUSY), (), ()
            )
        finally:
            self._pools.release_later(channel)
        return not payment.sent_before

    async def _mend(
        self,
        payment: Payment,
        channel: Channel,
        required: PaymentRequired,
        reason: str,
        verdict: Verdict,
    ) -> bool:
        if reason in (codes.CUMULATIVE_MISMATCH, codes.CUMULATIVE_BELOW_CLAIMED):
            return await self._correct(payment, channel, required, verdict)
        await self._book_open(payment, channel, verdict, (), ())
        if reason not in (codes.CUMULATIVE_EXCEEDS_BALANCE, codes.CHANNEL_NOT_FOUND):
            return False
        before = channel.balance
        await self._deposits.sync(channel)
        return channel.balance != before or not channel.usable

    async def _correct(
        self, payment: Payment, channel: Channel, required: PaymentRequired, verdict: Verdict
    ) -> bool:
        """Take over what the seller proves with our own voucher, or what the chain claimed."""
        charged = await self._proved(channel, required)
        if charged is None or charged == payment.cumulative - payment.amount_atoms:
            await self._book_open(payment, channel, verdict, (), ())
            return False
        now, purchase_id = int(time.time()), payment.order.purchase_id
        late = self._proved_late
        proof = await adoption(channel, charged, purchase_id, now, late, refused=purchase_id)
        # Not if it is the one that was charged: a retry sends what was signed before.
        refusal = ended(purchase_id, verdict, now, seen=False)
        books = [channel_charged(channel, charged, now), refusal]
        await self._store.commit(Batch([*proof.writes, *books], proof.increments))
        earlier = charged > payment.cumulative or find_charged(channel, charged) is not None
        payment.outdated = earlier and charged >= payment.cumulative
        channel.unresolved.append(payment.as_open(refused=True))
        adopt(channel, charged, refused=purchase_id)
        return True

    async def _proved(self, channel: Channel, required: PaymentRequired) -> int | None:
        """The cumulative charge by our own voucher, or by the chain; None if neither shows it."""
        try:
            claimed, seen = (await self._view.channel(channel.id)).total_claimed, True
        except RpcUnavailable:
            claimed, seen = channel.total_claimed, False
        for entry in required.accepts:
            if entry.scheme != BATCH_SETTLEMENT_SCHEME:
                continue
            try:
                state, voucher = read_states(entry.extra)
            except PaymentMalformed as error:
                raise SellerUntrustworthy(str(error)) from error
            if state is not None and voucher is not None:
                return check_correction(
                    state, voucher, channel.config, channel.id, self._network.chain_id, claimed
                )
            if seen and state is not None and state.charged_cumulative_amount == claimed:
                # A seller that lost its books begins again at what it claimed (x402
                # batch-settlement, "Server State Loss"); it asks for less than we owe it.
                return claimed
        return claimed if claimed > channel.charged else None


def _compare_balance(channel: Channel, deposit: SignedDeposit | None, told: int) -> None:
    """Anybody may pay into a channel. What a seller knows of and we do not, the chain is asked
    for before the channel is used again."""
    known = channel.balance + (deposit.amount_atoms if deposit is not None else 0)
    if channel.verified and told > known:
        channel.stale, channel.verified = True, False
