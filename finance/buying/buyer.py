"""Paying: from terms to a signature on disk, and from an answer to the books.

`pay` commits the intent and what may be signed before it returns a header; `book`
commits what the answer proved. In between, the channel belongs to that one payment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from finance.buying.answers import Sent, check_correction, check_receipt
from finance.buying.channels import Channel, SellerChannels, SellerId, channel_config, seller_of
from finance.buying.deposits import Deposits, deposit_size, most_to_deposit, still_good
from finance.buying.limits import Ask, Reservation, Spending
from finance.buying.onchain import ChainReader, ChainView
from finance.buying.policy import BuyingPolicy
from finance.buying.proofs import adopt, adoption, superseded
from finance.buying.purchase import (
    Order,
    Payment,
    Verdict,
    channel_charged,
    channel_row,
    channel_signed,
    channel_stopped,
    ended,
    intent,
    spent,
)
from finance.buying.signing import (
    SignedDeposit,
    deposit_payload,
    exact_payload,
    header,
    new_deposit,
    token_domain,
    voucher_payload,
)
from finance.buying.terms import Terms
from finance.errors import (
    ChannelBusy,
    PaymentMalformed,
    RpcUnavailable,
    SellerUntrustworthy,
    StoreConflict,
)
from finance.models import ChannelState, PurchaseState
from finance.networks import Network
from finance.store import Batch, Increment, Store, Write
from finance.wallet.signer import Keys
from finance.x402 import codes, digest, text
from finance.x402.receipt import decode_response, read_states
from finance.x402.values import BATCH_SETTLEMENT_SCHEME, EXACT, PaymentRequired
from finance.x402.vouchers import sign_voucher

Announce = Callable[[str, str, str], Write]
"""(type, severity, message) to a row of the event log."""


class Buyer:
    """One node's purchases. Use `recovery.restore` on it before the first payment."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        network: Network,
        rpc: ChainReader,
        announce: Announce,
        policy: BuyingPolicy | None = None,
    ) -> None:
        self.store, self.keys, self.network = store, keys, network
        self.policy = policy or BuyingPolicy()
        self.spending = Spending(store)
        self.view = ChainView(rpc, network)
        self.deposits = Deposits(store, self.view, self.spending)
        self.sellers: dict[SellerId, SellerChannels] = {}
        self._announce = announce
        self._domain = token_domain(network)

    def pool(self, seller: SellerId) -> SellerChannels:
        """The channels to one seller, known or none yet."""
        if (found := self.sellers.get(seller)) is None:
            found = SellerChannels(seller, self.policy.max_channels_per_seller)
            self.sellers[seller] = found
        return found

    # Paying

    async def pay(self, order: Order, terms: Terms, channel: Channel | None = None) -> Payment:
        """Sign for one call; intent, channel and counters are on disk when this returns.

        `channel` is one the caller has reserved (`take`), else a free one is found.
        Raises SpendingRefused, ChannelBusy, RpcUnavailable, StoreConflict, StoreUnavailable;
        nothing was signed then.
        """
        if terms.scheme == EXACT:
            return await self._pay_exact(order, terms)
        if channel is None:
            channel = await self._acquire(seller_of(terms, order.origin))
        try:
            if channel.stale:
                await self.deposits.sync(channel)
            return await self._pay_voucher(order, terms, channel)
        except BaseException:
            self.release(channel)
            raise

    async def _pay_exact(self, order: Order, terms: Terms) -> Payment:
        now = int(time.time())
        ask = Ask(order.listing_id, order.key_id, terms.amount_atoms)
        reservation, writes = self.spending.reserve(ask, now)
        valid_before = now + min(terms.max_timeout_seconds, self.policy.max_validity_seconds)
        payload, _ = exact_payload(self.keys.wallet, terms, self._domain, valid_before)
        payment = Payment(
            order,
            EXACT,
            terms.amount_atoms,
            header(terms, payload, payment_id(order)),
            terms,
            reservation,
        )
        await self._commit_intent([*writes, *intent(payment, now)], reservation, ())
        return payment

    async def _pay_voucher(self, order: Order, terms: Terms, channel: Channel) -> Payment:
        now = int(time.time())
        cumulative = channel.charged + terms.amount_atoms
        deposit, is_new = self._deposit_for(order, terms, channel, cumulative, now)
        unspent = max(0, channel.balance - channel.charged)
        new_atoms = deposit.amount_atoms if deposit and is_new else 0
        ask = Ask(order.listing_id, order.key_id, terms.amount_atoms, new_atoms, unspent)
        moved = [each for each in channel.unresolved if each.cumulative <= cumulative]
        given_back = [each.reservation for each in moved if each.reservation is not None]
        reservation, writes = self.spending.reserve(ask, now, given_back)
        if deposit and is_new:
            deposit = self._sign_deposit(channel, deposit)
        signature = self._sign(channel, cumulative)
        payment = self._voucher_payment(order, terms, channel, cumulative, signature, deposit)
        payment.reservation = replace(reservation, deposit_atoms=0)
        opening = deposit is not None
        if cumulative > channel.signed or opening:
            highest = (cumulative, signature)
            if cumulative <= channel.signed:
                highest = (channel.signed, channel.signature)
            writes += self._channel_writes(channel, *highest, opening, now)
        await self._commit_intent([*writes, *intent(payment, now)], reservation, given_back)
        if cumulative > channel.signed:
            channel.signed, channel.signature = cumulative, signature
        channel.stored = True
        for each in moved:
            each.reservation = None
        if deposit and is_new:
            channel.deposit, channel.state = deposit, ChannelState.OPENING
            channel.deposit_reservation = replace(reservation, amount_atoms=0)
        return payment

    def _channel_writes(
        self, channel: Channel, signed: int, signature: bytes, opening: bool, now: int
    ) -> list[Write]:
        if channel.stored:
            return [channel_signed(channel, signed, signature, opening, now)]
        return [channel_row(channel, self.network.chain_id, signed, signature, now)]

    def _voucher_payment(
        self,
        order: Order,
        terms: Terms,
        channel: Channel,
        cumulative: int,
        signature: bytes,
        deposit: SignedDeposit | None,
    ) -> Payment:
        if deposit is None:
            payload = voucher_payload(channel.head, cumulative, signature)
        else:
            payload = deposit_payload(channel.config, channel.id, cumulative, signature, deposit)
        return Payment(
            order,
            BATCH_SETTLEMENT_SCHEME,
            terms.amount_atoms,
            header(terms, payload, payment_id(order)),
            terms,
            None,
            channel,
            cumulative,
            deposit,
        )

    def _sign(self, channel: Channel, cumulative: int) -> bytes:
        if cumulative == channel.signed and channel.signature:
            return channel.signature  # the same signature again
        return sign_voucher(
            self.keys.voucher.private, channel.id, cumulative, self.network.chain_id
        )

    def _deposit_for(
        self, order: Order, terms: Terms, channel: Channel, cumulative: int, now: int
    ) -> tuple[SignedDeposit | None, bool]:
        """The deposit this voucher needs: none, the one still out, or a new unsigned one."""
        missing = cumulative - channel.balance
        if missing <= 0:
            return None, False
        if channel.deposit is not None:
            if still_good(channel.deposit, missing, now):
                return channel.deposit, False
            raise ChannelBusy("A deposit into this channel is still open.")
        unspent = max(0, channel.balance - channel.charged)
        ask = Ask(order.listing_id, order.key_id, 0, 0, unspent)
        most = most_to_deposit(self.spending.limits, self.spending, ask, now)
        amount = deposit_size(terms, channel, missing, self.policy.deposit_calls, most)
        valid_before = now + min(terms.max_timeout_seconds, self.policy.max_validity_seconds)
        return SignedDeposit(amount, valid_before, 0, b"", b""), True

    def _sign_deposit(self, channel: Channel, unsigned: SignedDeposit) -> SignedDeposit:
        return new_deposit(
            self.keys.wallet,
            channel.config,
            channel.id,
            unsigned.amount_atoms,
            unsigned.valid_before,
            self._domain,
        )

    async def _commit_intent(
        self, writes: Sequence[Write], reservation: Reservation, given_back: Sequence[Reservation]
    ) -> None:
        try:
            await self.store.commit(Batch(writes))
        except StoreConflict:
            self.spending.undo(reservation, given_back)
            # Somebody else counted too (a restored copy, a second process): look again.
            await asyncio.to_thread(self.spending.load, time.time())
            raise
        except Exception:
            self.spending.undo(reservation, given_back)
            raise

    # Channels

    async def _acquire(self, seller: SellerId) -> Channel:
        pool = self.pool(seller)
        if (free := pool.take_free()) is not None:
            return free
        if pool.any_in_use:
            try:
                return await pool.wait(self.policy.patience_seconds)
            except ChannelBusy:
                if (free := pool.take_free()) is not None:
                    return free
        if pool.may_open:
            return await self._open(pool)
        return await pool.wait(self.policy.channel_wait_seconds)

    async def _open(self, pool: SellerChannels) -> Channel:
        """The next channel to a seller; if the chain knows it, with what is in it."""
        channel = self._next_channel(pool)
        pool.channels.append(channel)
        try:
            await self.deposits.sync(channel)
        except RpcUnavailable:
            # A corrective 402 mends a base that is too low; nothing is lost by it.
            channel.stale = False
        except BaseException:
            self.release(channel)
            raise
        return channel

    def _next_channel(self, pool: SellerChannels) -> Channel:
        """The channel with the lowest number that is not known yet."""
        payer, authorizer = self.keys.wallet.address_bytes, self.keys.voucher.address_bytes
        known = {each.id for each in pool.channels}
        for index in range(len(known) + 1):
            config = channel_config(pool.seller, index, payer, authorizer, self.network)
            channel_id = digest.channel_id(config, self.network.chain_id)
            if channel_id not in known:
                break
        return Channel(channel_id, text.to_hex(channel_id), config, pool.seller, busy=True)

    def take(self, channel_id_hex: str) -> Channel | None:
        """Reserve one certain channel; None if it is not known or must not be used.

        Raises ChannelBusy when another call has it.
        """
        for pool in self.sellers.values():
            for channel in pool.channels:
                if channel.id_hex == channel_id_hex and channel.usable:
                    if channel.busy:
                        raise ChannelBusy("The channel of this payment is in use.")
                    channel.busy = True
                    return channel
        return None

    def release(self, channel: Channel) -> None:
        """Hand a channel to the next call."""
        self.pool(channel.seller).release(channel)

    # Booking

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
        return Verdict(PurchaseState.PAID, charged, receipt.transaction or None)

    def _sent(self, payment: Payment) -> Sent:
        network, payer = self.network.caip2, self.keys.wallet.address
        channel = payment.channel
        if channel is None:
            return Sent(network, payer, payment.amount_atoms)
        before = payment.cumulative - payment.amount_atoms
        balance = channel.balance + (payment.deposit.amount_atoms if payment.deposit else 0)
        return Sent(network, payer, payment.amount_atoms, channel.id, before, balance)

    async def book(
        self,
        payment: Payment,
        verdict: Verdict,
        also: Sequence[Write] = (),
        increments: Sequence[Increment] = (),
    ) -> None:
        """Make a verdict durable together with `also`, then free the channel."""
        channel = payment.channel
        try:
            if channel is None:
                await self._book_exact(payment, verdict, also, increments)
            elif verdict.state == PurchaseState.PAID:
                await self._book_charge(payment, channel, verdict, also, increments)
            else:
                await self._book_open(payment, channel, verdict, also, increments)
        finally:
            if channel is not None:
                self.release(channel)

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
            writes += self.spending.release(payment.reservation)
        if verdict.stop:
            writes.append(self._announce_stop(payment, verdict.stop))
        await self.store.commit(Batch(writes, increments))

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
        if payment.deposit is not None and not await self.deposits.confirm(channel):
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
            writes += superseded(channel, charged, purchase_id, self.spending, now)
        await self.store.commit(Batch(writes, increments))
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
            writes += self.spending.release(payment.reservation)
        elif all(each.call_id != payment.order.purchase_id for each in channel.unresolved):
            channel.unresolved.append(payment.as_open())
        if payment.deposit is not None:
            channel.stale = True
        if verdict.stop:
            writes.append(self._announce_stop(payment, verdict.stop))
            writes.append(channel_stopped(channel, verdict.stop, now))
            channel.state = ChannelState.STOPPED
        await self.store.commit(Batch(writes, increments))

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
        """Book a 402 that answered a payment and free its channel; True if it set the channel
        right, so that paying again makes sense."""
        channel = payment.channel
        if channel is None:
            await self.book(payment, Verdict(PurchaseState.UNKNOWN, error=reason[:200]))
            return False
        verdict = Verdict(PurchaseState.REFUSED, error=reason[:200])
        try:
            return await self._mend(payment, channel, required, reason, verdict)
        except SellerUntrustworthy as error:
            await self._book_open(payment, channel, replace(verdict, stop=str(error)), (), ())
            return False
        finally:
            self.release(channel)

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
        await self.deposits.sync(channel)
        return channel.balance != before

    async def _correct(
        self, payment: Payment, channel: Channel, required: PaymentRequired, verdict: Verdict
    ) -> bool:
        """Take over what the seller proves with our own voucher, or what the chain claimed."""
        charged = await self._proved(channel, required)
        if charged is None or charged == payment.cumulative - payment.amount_atoms:
            await self._book_open(payment, channel, verdict, (), ())
            return False
        now, purchase_id = int(time.time()), payment.order.purchase_id
        writes = adoption(channel, charged, purchase_id, now)
        writes.append(channel_charged(channel, charged, now))
        writes.append(ended(purchase_id, verdict, now))
        await self.store.commit(Batch(writes))
        channel.unresolved.append(payment.as_open())
        adopt(channel, charged)
        return True

    async def _proved(self, channel: Channel, required: PaymentRequired) -> int | None:
        try:
            claimed = (await self.view.channel(channel.id)).total_claimed
        except RpcUnavailable:
            claimed = channel.total_claimed
        for entry in required.accepts:
            if entry.scheme != BATCH_SETTLEMENT_SCHEME:
                continue
            try:
                state, voucher = read_states(entry.extra)
            except PaymentMalformed as error:
                raise SellerUntrustworthy(str(error)) from error
            if state is not None and voucher is not None:
                return check_correction(
                    state, voucher, channel.config, channel.id, self.network.chain_id, claimed
                )
        return claimed if claimed > channel.charged else None


def payment_id(order: Order) -> str:
    """The payment-identifier we give a seller: one per signature, 16 characters or more."""
    return f"farebox_{order.purchase_id}"
