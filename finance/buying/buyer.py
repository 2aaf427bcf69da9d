"""Paying: from terms to a signature that is on disk before it may leave.

`pay` commits the intent and what may be signed before it returns a header;
`books.book` commits what the answer proved. In between, the channel belongs to that
one payment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from finance.buying.booking import Announce, Bookkeeper
from finance.buying.channels import Channel, seller_of
from finance.buying.deposits import Deposits, deposit_size, most_to_deposit
from finance.buying.limits import Ask, Reservation, Spending
from finance.buying.lost import ProvedLate
from finance.buying.onchain import ChainReader, ChainView
from finance.buying.policy import BuyingPolicy
from finance.buying.pools import ChannelPools
from finance.buying.proofs import found_onchain
from finance.buying.purchase import (
    Order,
    Payment,
    channel_row,
    channel_signed,
    intent,
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
from finance.buying.stored import read_again
from finance.buying.terms import Terms
from finance.errors import (
    ChannelBusy,
    StoreConflict,
)
from finance.models import ChannelState
from finance.networks import Network
from finance.store import Batch, Locks, Store, Write
from finance.wallet.signer import Keys
from finance.x402.values import BATCH_SETTLEMENT_SCHEME, EXACT
from finance.x402.vouchers import sign_voucher


class Buyer:
    """One node's purchases. Use `recovery.restore` on it before the first payment."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        network: Network,
        rpc: ChainReader,
        announce: Announce,
        proved_late: ProvedLate,
        policy: BuyingPolicy | None = None,
        locks: Locks | None = None,
    ) -> None:
        self.store, self.keys, self.network = store, keys, network
        self.policy = policy or BuyingPolicy()
        self.spending = Spending(store)
        self.view = ChainView(rpc, network)
        self.proved_late = proved_late
        self.deposits = Deposits(store, self.view, self.spending, proved_late)
        self.pools = ChannelPools(keys, network, self.deposits, self.policy, store.engine, locks)
        self.books = Bookkeeper(
            store,
            network,
            keys.wallet.address,
            self.pools,
            self.deposits,
            self.view,
            self.spending,
            announce,
            proved_late,
        )
        self._domain = token_domain(network)

    # Paying

    async def pay(self, order: Order, terms: Terms) -> Payment:
        """Sign for one call; intent, channel and counters are on disk when this returns.

        Raises SpendingRefused, ChannelBusy, RpcUnavailable, StoreConflict, StoreUnavailable;
        nothing was signed then.
        """
        if terms.scheme == EXACT:
            return await self._pay_exact(order, terms)
        channel = await self.pools.acquire(
            seller_of(terms, order.origin), terms.amount_atoms, order.channel_id
        )
        try:
            return await self._pay_voucher(order, terms, channel)
        except BaseException:
            self.pools.release(channel)
            raise

    async def _pay_exact(self, order: Order, terms: Terms) -> Payment:
        now = int(time.time())
        before = order.signed_besides(None)
        ask = Ask(order.listing_id, order.key_id, terms.amount_atoms, signed_atoms=before)
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
        await self._commit_intent([*writes, *intent(payment, now)], reservation)
        self.books.running.add(order.purchase_id)
        return payment

    async def _pay_voucher(self, order: Order, terms: Terms, channel: Channel) -> Payment:
        now = int(time.time())
        cumulative = channel.charged + terms.amount_atoms
        deposit, is_new = self._deposit_for(order, terms, channel, now)
        unspent = max(0, channel.balance - channel.charged)
        new_atoms = deposit.amount_atoms if deposit and is_new else 0
        before = order.signed_besides(channel)
        ask = Ask(order.listing_id, order.key_id, terms.amount_atoms, new_atoms, unspent, before)
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
        writes += intent(payment, now)
        await self._commit_intent(writes, reservation, given_back, channel)
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
        row = channel_row(channel, self.network.chain_id, signed, signature, now)
        return [row, *found_onchain(channel, now)]

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
        self, order: Order, terms: Terms, channel: Channel, now: int
    ) -> tuple[SignedDeposit | None, bool]:
        """The deposit this voucher needs: none, the one still out, or a new unsigned one."""
        missing = channel.lacks(terms.amount_atoms)
        if missing <= 0:
            return None, False
        if channel.deposit is not None:
            if channel.waits(terms.amount_atoms, now):
                raise ChannelBusy("A deposit into this channel is still open.")
            return channel.deposit, False
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
        self,
        writes: Sequence[Write],
        reservation: Reservation,
        given_back: Sequence[Reservation] = (),
        channel: Channel | None = None,
    ) -> None:
        try:
            await self.store.commit(Batch(writes))
        except StoreConflict:
            self.spending.undo(reservation, given_back)
            # Somebody else counted too (a restored copy, a second process): look again.
            await asyncio.to_thread(self.spending.load, time.time())
            if channel is not None:
                await read_again(self.store.engine, channel)
            raise
        except Exception:
            self.spending.undo(reservation, given_back)
            raise


def payment_id(order: Order) -> str:
    """The payment-identifier we give a seller: one per signature, 16 characters or more."""
    return f"farebox_{order.purchase_id}"
