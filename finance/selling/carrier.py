"""Moves the money of owed payments, one step at a time, each decided from the rows.

A step reads the rows, acts, and stores what it learned; it can be repeated after a
crash at any point. Nothing is failed but what the chain cannot or will not take, and
an authorization that is used on-chain is looked up by its nonce before anything else:
our own transaction, a stranger's, or one from before a crash may have moved the money.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from itertools import groupby

from finance.chain.addresses import MULTICALL3_ADDRESS
from finance.chain.answers import Log
from finance.chain.bookings import next_turns
from finance.chain.rpc import Rpc, aggregate3
from finance.chain.sender import Sender
from finance.chain.transactions import TxOutcome, unix_now
from finance.errors import (
    CallReverted,
    GasCapExceeded,
    GasTooDear,
    ReadsRefused,
    RpcRefused,
    RpcUnavailable,
    SettlementUnknown,
    StoreConflict,
)
from finance.models import PaymentKind, PaymentState, TxState
from finance.networks import Network
from finance.selling import settlement_books as books
from finance.selling.mirror import Mirror
from finance.selling.owed import (
    SETTLE,
    Owed,
    count_transactions,
    load,
    own_key_signed,
    reference,
    settling_call,
)
from finance.selling.reasons import NONCE_USED, expired_code, failed_code, simulation_code
from finance.selling.settlement_events import (
    AUTHORIZATION_CANCELED,
    AUTHORIZATION_USED,
    Found,
    address_topic,
    find_own,
    is_of_nonce,
)
from finance.store import Store, Write
from finance.x402.abi import calldata

MOST_PER_TRANSACTION = 40
FOLLOW_SECONDS = 5.0
# Many endpoints refuse longer ranges of logs, some take far shorter ones only.
LOG_BLOCKS = 2000
# An authorization cannot be used before it was presented; clocks may differ.
CLOCK_SECONDS = 600

_LOG = logging.getLogger(__name__)


class Carrier:
    """Carries payments from owed to confirmed or failed."""

    def __init__(
        self, store: Store, sender: Sender, rpc: Rpc, mirror: Mirror, network: Network
    ) -> None:
        self._store = store
        self._sender = sender
        self._rpc = rpc
        self._mirror = mirror
        self._network = network
        # Payments that did not go through together with others: next time by themselves.
        self._alone: set[str] = set()
        self._transactions: dict[str, int] = {}

    async def remember(self, payments: Sequence[Owed]) -> None:
        """After a restart: which references are taken already."""
        for payment in payments:
            count = await asyncio.to_thread(count_transactions, self._store.engine, payment.id)
            self._transactions[payment.id] = count

    def forget(self, payment_id: str) -> None:
        """The payment is decided."""
        self._alone.discard(payment_id)
        self._transactions.pop(payment_id, None)

    async def step(self, ids: Sequence[str]) -> list[Owed]:
        """Do what can be done now; the rows as they were read at the beginning.

        Raises ChainError or StoreUnavailable; then try again later.
        """
        rows = await asyncio.to_thread(load, self._store.engine, ids)
        owed = [row for row in rows if row.state == PaymentState.OWED]
        sent = [row for row in rows if row.state == PaymentState.SENT]
        works = [self._send(group) for group in self._groups(owed)]
        works += [self._follow(tx_id, group) for tx_id, group in _by_transaction(sent)]
        results = await asyncio.gather(*works, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return rows

    def _groups(self, owed: Sequence[Owed]) -> list[list[Owed]]:
        """Those that can share a transaction together; a contract's say stays by itself."""
        alone = [
            row for row in owed if row.id in self._alone or not own_key_signed(row, self._network)
        ]
        together = [row for row in owed if row not in alone]
        size = MOST_PER_TRANSACTION
        shared = [together[at : at + size] for at in range(0, len(together), size)]
        return [*shared, *([row] for row in alone)]

    # owed -> sent

    async def _send(self, payments: list[Owed]) -> None:
        calls = [settling_call(payment) for payment in payments]
        try:
            results = await self._rpc.multicall(calls)
        except ReadsRefused:
            if len(payments) == 1:
                raise
            # The code of some of the payers may burn all gas, so that none is left for the rest.
            self._alone.update(payment.id for payment in payments)
            return
        refused = [
            (payment, data)
            for payment, (succeeded, data) in zip(payments, results, strict=True)
            if not succeeded
        ]
        await asyncio.gather(*(self._refused(each, data, payments) for each, data in refused))
        bad = {payment.id for payment, _ in refused}
        passing = [payment for payment in payments if payment.id not in bad]
        if passing:
            await self._broadcast(passing)

    async def _refused(self, payment: Owed, data: bytes, together: Sequence[Owed]) -> None:
        """The simulation of one call failed: by itself, or because of its neighbours?"""
        if len(together) > 1:
            [(succeeded, data)] = await self._rpc.multicall([settling_call(payment)])
            if succeeded:
                self._alone.add(payment.id)
                return
        await self._judge(payment, simulation_code(payment.kind, data))

    async def _broadcast(self, payments: Sequence[Owed]) -> None:
        attempt = max(self._transactions.get(payment.id, 0) for payment in payments)
        data = aggregate3([settling_call(payment) for payment in payments])

        def mark(tx_id: int) -> list[Write]:
            return books.sent(payments, tx_id, unix_now())

        try:
            ref = reference(payments, attempt)
            await self._sender.send(SETTLE, ref, MULTICALL3_ADDRESS, data, before_broadcast=mark)
        except (CallReverted, StoreConflict, GasCapExceeded) as error:
            cheaper = len(payments) > 1 and not isinstance(error, GasTooDear)  # singly
            if isinstance(error, GasCapExceeded) and not cheaper:
                raise
            _LOG.warning("%d payments could not be settled together: %s", len(payments), error)
            self._alone.update(payment.id for payment in payments)
            return
        for payment in payments:
            self._transactions[payment.id] = attempt + 1

    # sent -> confirmed, failed, or owed again

    async def _follow(self, tx_id: int | None, payments: Sequence[Owed]) -> None:
        # What a reorg put back is believed only from the chain as it is now.
        moved = [payment for payment in payments if payment.tx_hash is not None]
        await asyncio.gather(*(self._look_up(payment) for payment in moved))
        fresh = [payment for payment in payments if payment.tx_hash is None]
        try:
            if tx_id is None:
                raise SettlementUnknown("no transaction carries it")
            outcome = await self._sender.outcome(tx_id, FOLLOW_SECONDS)
        except SettlementUnknown:
            await asyncio.gather(*(self._look_up(payment) for payment in fresh))
            return
        if outcome.state in (TxState.MINED, TxState.FINAL):
            await self._take_events(outcome, fresh)
            await asyncio.gather(*(self._look_again(each, outcome) for each in moved))
        else:
            tried = outcome.state is TxState.REVERTED
            await asyncio.gather(*(self._judge(each, None, tried) for each in payments))

    async def _take_events(self, outcome: TxOutcome, payments: Sequence[Owed]) -> None:
        found = [(payment, find_own(payment, outcome.logs)) for payment in payments]
        await asyncio.gather(
            *(
                self._confirm(payment, place) if place else self._judge(payment, None)
                for payment, place in found
            )
        )

    async def _look_again(self, payment: Owed, outcome: TxOutcome) -> None:
        """What a reorg put back: did its transaction, where it stands now, leave it out?"""
        receipt = await self._rpc.receipt(outcome.tx_hash or "")
        if receipt is not None and find_own(payment, receipt.logs) is None:
            await self._judge(payment, None)

    async def _judge(self, payment: Owed, refusal: str | None, tried: bool = True) -> None:
        """Nothing of ours can move this payment any more: did anything, can anything?

        `tried`: it was in a mined transaction. Tried by itself in vain, it is failed; what
        was never broadcast is simply owed again.
        """
        used, chain_time = await self._nonce_state(payment)
        if used:
            await self._find(payment)
        elif chain_time >= payment.valid_before:
            await self._fail(payment, expired_code(payment.kind))
        elif refusal is not None:
            await self._fail(payment, refusal)
        elif tried and payment.id in self._alone:
            await self._fail(payment, failed_code(payment.kind))
        else:
            if tried:
                self._alone.add(payment.id)
            await self._store.commit(books.owed_again([payment], unix_now()))

    async def _look_up(self, payment: Owed) -> None:
        """Our transaction is not mined: somebody else's may have moved the money."""
        used, _ = await self._nonce_state(payment)
        if used:
            await self._find(payment)

    async def _nonce_state(self, payment: Owed) -> tuple[bool, int]:
        """Whether the nonce is used, and the time of the block that says so."""
        arguments = (bytes.fromhex(payment.payer[2:]), bytes.fromhex(payment.nonce[2:]))
        state = calldata("authorizationState", ("address", "bytes32"), *arguments)
        clock = calldata("getCurrentBlockTimestamp", ())
        answers = await self._rpc.multicall([(payment.token, state), (MULTICALL3_ADDRESS, clock)])
        if any(not succeeded or len(data) != 32 for succeeded, data in answers):
            raise RpcUnavailable("the token answered nonsense")
        used, chain_time = (int.from_bytes(data, "big") for _, data in answers)
        return bool(used), chain_time

    async def _find(self, payment: Owed) -> None:
        """Decide a payment whose nonce is used, by the event that used it.

        Nothing found says nothing (endpoints differ in what they have): it stays open.
        """
        log = await self._search(payment)
        if log is None:
            return
        if is_of_nonce(log, payment, AUTHORIZATION_CANCELED):
            await self._fail(payment, NONCE_USED)
            return
        receipt = await self._rpc.receipt(log.tx_hash)
        if receipt is None or log not in receipt.logs:
            # Another endpoint, or another block than a moment ago: no answer.
            return
        found = find_own(payment, receipt.logs)
        depth = await self._rpc.block_number() - receipt.block_number + 1
        if depth < self._network.confirmations:
            return
        await (self._confirm(payment, found) if found else self._fail(payment, NONCE_USED))

    async def _search(self, payment: Owed) -> Log | None:
        """The log of the use (or cancellation) of the payment's nonce, newest blocks first, so
        many at once as the endpoint takes."""
        events = [AUTHORIZATION_USED, AUTHORIZATION_CANCELED]
        topics = [events, address_topic(payment.payer), payment.nonce]
        last, span = await self._rpc.block_number(), LOG_BLOCKS
        while last >= 0:
            first = max(last - span + 1, 0)
            query = {"address": payment.token, "topics": topics}
            try:
                logs = await self._rpc.logs(
                    {**query, "fromBlock": hex(first), "toBlock": hex(last)}
                )
            except RpcRefused:
                if span == 1:
                    raise
                span //= 2
                continue
            if logs:
                return logs[0]
            block = await self._rpc.block(first)
            if block is None or block.timestamp < payment.created_at - CLOCK_SECONDS:
                return None
            last = first - 1
        return None

    # Results

    async def _confirm(self, payment: Owed, found: Found) -> None:
        if payment.kind == PaymentKind.DEPOSIT:
            await self._confirm_deposit(payment, found)
            return
        key = books.ledger_key(payment)
        turns = await next_turns(self._store.engine, [key])
        await self._store.commit(books.confirmed_exact(payment, found, turns[key], unix_now()))

    async def _confirm_deposit(self, payment: Owed, found: Found) -> None:
        channel_id = payment.channel_id or ""
        state = (await self._mirror.read([channel_id], found.block_number))[channel_id]
        try:
            await self._store.commit(books.confirmed_deposit(payment, found, state, unix_now()))
        except StoreConflict:
            [now] = await asyncio.to_thread(load, self._store.engine, [payment.id])
            if now.state != payment.state:
                return
            _LOG.error("deposit %s arrived, but its voucher does not fit", payment.id)
            await self._store.commit(books.deposited_in_vain(payment, state, unix_now()))
        await self._mirror.announce([channel_id])

    async def _fail(self, payment: Owed, code: str) -> None:
        _LOG.warning("payment %s failed: %s", payment.id, code)
        await self._store.commit(books.failed(payment, code, unix_now()))


def _by_transaction(sent: Sequence[Owed]) -> list[tuple[int | None, list[Owed]]]:
    ordered = sorted(sent, key=lambda row: row.tx_id or 0)
    return [(tx_id, list(rows)) for tx_id, rows in groupby(ordered, key=lambda row: row.tx_id)]
