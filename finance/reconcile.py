"""The books against the chain, atom by atom (law 9).

`compare` is a pure function over the two; `reconcile` brings both to one block first.
What is still on its way is listed as open: it is not a difference, and not settled.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Row

from finance.books import Books, Place, read_books
from finance.chain.addresses import ERC3009_COLLECTOR_ADDRESS
from finance.chain.events import BATCH_SETTLEMENT_HEX, SeenEvent
from finance.chain.rpc import Rpc
from finance.chain.snapshot import ChannelFacts, Snapshot, take_snapshot
from finance.chain.watcher import Watcher
from finance.models import ChannelState, PaymentKind, PaymentState, PurchaseState, TxState
from finance.networks import Network
from finance.store import Store
from finance.x402.digest import recover_address, voucher_digest
from finance.x402.text import to_hex

_TRIES = 3
_PAUSE_SECONDS = 0.5
_CHANNEL_MOVES = (ChannelState.OPENING, ChannelState.REFUNDING, ChannelState.WITHDRAWING)
_ON_ITS_WAY = (TxState.SIGNED, TxState.BROADCAST)
_NOBODY = "0x" + "00" * 20
_CHANNEL_CONTRACTS = (BATCH_SETTLEMENT_HEX, ERC3009_COLLECTOR_ADDRESS.lower())


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing the books and the chain do not agree on, both values exact."""

    kind: str
    subject: str
    books: int | str
    chain: int | str


@dataclass(frozen=True, slots=True)
class OpenItem:
    """Something whose end is not known yet; `amount` in atoms (0 where none applies)."""

    kind: str
    subject: str
    state: str
    amount: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What a reconciliation found, as of one block; `checked` counts what was compared."""

    block_number: int
    block_hash: str
    differences: tuple[Difference, ...]
    open: tuple[OpenItem, ...]
    checked: int

    @property
    def balanced(self) -> bool:
        return not self.differences


async def reconcile(
    store: Store,
    rpc: Rpc,
    wallet: str,
    network: Network,
    watcher: Watcher | None = None,
    refresh: Callable[[], Awaitable[object]] | None = None,
) -> Report:
    """Bring the books up to the chain's head, then compare. Raises ChainError.

    `watcher` is the running node's (another process leaves it out), `refresh` brings
    mirrors of channels up to date. While money moves, a look may fall between the chain
    and its booking: differences are reported only if they are still there a moment later.
    """
    watcher = watcher or Watcher(rpc, store, network, wallet)
    report = await _look(store.engine, rpc, wallet.lower(), network, watcher, refresh)
    for _ in range(_TRIES - 1):
        if report.balanced:
            break
        await asyncio.sleep(_PAUSE_SECONDS)
        report = await _look(store.engine, rpc, wallet.lower(), network, watcher, refresh)
    return report


async def _look(
    engine: Engine,
    rpc: Rpc,
    wallet: str,
    network: Network,
    watcher: Watcher,
    refresh: Callable[[], Awaitable[object]] | None,
) -> Report:
    block = await watcher.catch_up()
    if refresh is not None:
        await refresh()
    books = await asyncio.to_thread(read_books, engine, network.chain_id, wallet, block)
    channels = [row.channel_id for row in (*books.sold, *books.bought)]
    hashes = [row.tx_hash for row in books.transactions if row.tx_hash is not None]
    first = watcher.first_block + 1
    chain = await take_snapshot(rpc, network, wallet, first, block, channels, hashes)
    return compare(books, chain, wallet, network.chain_id)


def compare(books: Books, chain: Snapshot, wallet: str, chain_id: int) -> Report:
    """Hold the books against a snapshot. Pure."""
    pairs = [
        *_wallet(books, chain, wallet),
        *_settled(books, chain, wallet),
        *_transactions(books, chain),
        *_exact_sold(books, chain),
        *_exact_bought(books, chain, wallet),
        *_receiver(books, chain, wallet),
    ]
    moving = _moving_channels(books)
    for row in books.sold:
        facts = chain.channels[row.channel_id]
        pairs += _sold(books, row, facts, chain_id, moving)
    for row in books.bought:
        pairs += _bought(books, row, chain.channels[row.channel_id], moving)
    different = tuple(each for each in pairs if each.books != each.chain)
    return Report(chain.block_number, chain.block_hash, different, tuple(_open(books)), len(pairs))


def _wallet(books: Books, chain: Snapshot, wallet: str) -> Iterator[Difference]:
    """Each transfer is one row, and they add up to the balance."""
    yield Difference("wallet_usdc", wallet, books.opening + sum(books.moved.values()), chain.usdc)
    for place in sorted({*books.moved, *chain.transfers}):
        event = chain.transfers.get(place)
        subject = f"{place[0]}:{place[1]}"
        yield Difference("transfer", subject, books.moved.get(place, 0), _signed(event, wallet))


def _signed(event: SeenEvent | None, wallet: str) -> int:
    """Atoms a transfer brought (negative: took); 0 for none."""
    if event is None:
        return 0
    value: int = event.args["value"]
    return int(value * ((event.args["to"] == wallet) - (event.args["from"] == wallet)))


def _settled(books: Books, chain: Snapshot, wallet: str) -> Iterator[Difference]:
    """Each sweep of claimed money arrived: a transfer of the same amount beside its event."""
    for sweep in books.settled:
        arrived = [
            event.args["value"]
            for event in chain.transfers.values()
            if event.tx_hash == sweep.tx_hash
            and event.args["from"] == BATCH_SETTLEMENT_HEX
            and event.args["to"] == wallet
        ]
        amount = sweep.amount if sweep.amount in arrived else sum(arrived)
        yield Difference("settled", f"{sweep.tx_hash}:{sweep.log_index}", sweep.amount, amount)


def _transactions(books: Books, chain: Snapshot) -> Iterator[Difference]:
    """Gas: the ledger, the row and the receipt say the same, in wei."""
    for row in books.transactions:
        if row.state in _ON_ITS_WAY:
            continue
        receipt = chain.receipts.get(row.tx_hash)
        on_chain = "no receipt" if receipt is None else receipt.fee_wei
        yield Difference("gas_wei", row.tx_hash, row.fee_wei, on_chain)
        yield Difference("gas_ledger_wei", row.tx_hash, -books.gas.get(row.tx_hash, 0), row.fee_wei)


def _exact_sold(books: Books, chain: Snapshot) -> Iterator[Difference]:
    """Each confirmed payment is a transfer of its own."""
    confirmed = [
        row
        for row in books.payments
        if row.state == PaymentState.CONFIRMED and row.kind == PaymentKind.EXACT
    ]
    total = sum(row.value_atoms for row in confirmed)
    yield Difference("exact_ledger", "exact payments", books.exact, total)
    seen: set[Place] = set()
    for row in confirmed:
        place = (row.tx_hash, row.log_index)
        if place in books.later or place in books.replaced:
            continue
        event = None if place in seen else chain.transfers.get(place)
        seen.add(place)
        expected = _transfer_text(row.payer, row.pay_to, row.value_atoms)
        found = "no transfer of its own" if event is None else _text_of(event)
        yield Difference("exact_payment", row.id, expected, found)


def _transfer_text(payer: str, receiver: str, atoms: int) -> str:
    return f"{atoms} from {payer} to {receiver}"


def _text_of(event: SeenEvent) -> str:
    args = event.args
    return _transfer_text(args["from"], args["to"], args["value"])


def _exact_bought(books: Books, chain: Snapshot, wallet: str) -> Iterator[Difference]:
    """What was paid without a channel left the wallet in the transactions sellers named."""
    paid = [
        row for row in books.purchases if row.state == PurchaseState.PAID and row.channel_id is None
    ]
    total = sum(row.charged_atoms for row in paid)
    yield Difference("exact_spent", "exact purchases", -books.spent_exact, total)
    by_tx: dict[str, int] = defaultdict(int)
    for row in paid:
        if row.tx_hash is not None:
            by_tx[row.tx_hash] += row.charged_atoms
    unseen = {tx_hash for tx_hash, _ in books.later | books.replaced}
    for tx_hash in sorted(by_tx.keys() - unseen):
        left = sum(
            event.args["value"]
            for event in chain.transfers.values()
            if event.tx_hash == tx_hash
            and event.args["from"] == wallet
            and event.args["to"] not in _CHANNEL_CONTRACTS
        )
        yield Difference("exact_purchases", tx_hash, by_tx[tx_hash], left)


def _receiver(books: Books, chain: Snapshot, wallet: str) -> Iterator[Difference]:
    """All that was ever claimed for the wallet came from channels in the books, or from those
    of which a stranger had made himself the authorizer: nobody else can claim from them."""
    ours = [row for row in books.sold if row.receiver == wallet]
    known = sum(chain.channels[each.channel_id].total_claimed for each in ours)
    authorizers = {row.receiver_authorizer for row in ours}
    for (receiver, authorizer), atoms in books.strangers.items():
        if receiver == wallet and authorizer not in authorizers:
            known += atoms
    yield Difference("receiver_claimed", wallet, known, chain.receiver_claimed)


def _sold(
    books: Books, row: Row[Any], facts: ChannelFacts, chain_id: int, moving: set[str]
) -> Iterator[Difference]:
    """A channel we are paid through: mirror, charges, claims, and the voucher that backs them."""
    key, charged, signed = row.channel_id, row.charged_atoms, row.signed_atoms
    yield Difference("seller_total_claimed", key, row.total_claimed_atoms, facts.total_claimed)
    yield Difference("seller_withdrawal", key, row.withdraw_amount_atoms, facts.withdraw_amount)
    yield Difference("seller_charged_ledger", key, books.charged.get(key, 0), charged)
    yield Difference("seller_claimed_ledger", key, books.claimed.get(key, 0), facts.total_claimed)
    yield _at_most("seller_charged_above_signed", key, charged, signed)
    yield _at_most("seller_claimed_above_charged", key, facts.total_claimed, charged)
    if key not in moving:
        yield Difference("seller_balance", key, row.balance_atoms, facts.balance)
        yield _at_most("seller_charged_above_balance", key, charged, facts.balance)
    if row.voucher_signature != "0x" or signed != facts.total_claimed:
        signature = bytes.fromhex(row.voucher_signature[2:])
        yield from _voucher("seller_voucher", row, signature, chain_id)


def _voucher(kind: str, row: Row[Any], signature: bytes, chain_id: int) -> Iterator[Difference]:
    """The voucher is signed by the channel's key; contracts (EIP-1271) are not asked here."""
    if not row.signed_atoms or row.payer_authorizer == _NOBODY:
        return
    digest = voucher_digest(bytes.fromhex(row.channel_id[2:]), row.signed_atoms, chain_id)
    signer = recover_address(digest, signature)
    found = "no valid signature" if signer is None else to_hex(signer)
    yield Difference(kind, row.channel_id, found, row.payer_authorizer)


def _bought(
    books: Books, row: Row[Any], facts: ChannelFacts, moving: set[str]
) -> Iterator[Difference]:
    """A channel we pay through: deposits, charges, and that nobody claims more than we signed."""
    key, charged, signed = row.channel_id, row.charged_atoms, row.signed_atoms
    yield Difference("buyer_spent_ledger", key, -books.spent.get(key, 0), charged)
    yield _at_most("buyer_charged_above_signed", key, charged, signed)
    yield _at_most("buyer_claimed_above_signed", key, facts.total_claimed, signed)
    if key not in moving:
        yield Difference("buyer_balance", key, row.balance_atoms, facts.balance)
        yield Difference("buyer_deposits", key, books.deposited.get(key, 0), facts.balance)


def _at_most(kind: str, subject: str, value: int, limit: int) -> Difference:
    """Equal sides as long as `value` is not above `limit`."""
    return Difference(kind, subject, max(value, limit), limit)


def _moving_channels(books: Books) -> set[str]:
    """Channels with a deposit, refund or withdrawal on its way: their balance will change."""
    moving = {row.channel_id for row in (*books.sold, *books.bought) if row.state in _CHANNEL_MOVES}
    moving |= {row.channel_id for row in books.payments if row.state != PaymentState.CONFIRMED}
    return moving | {
        row.channel_id
        for row in books.purchases
        if row.deposit_atoms and row.state != PurchaseState.PAID
    }


def _open(books: Books) -> Iterator[OpenItem]:
    """What is on its way, or may be."""
    for row in books.transactions:
        if row.state in _ON_ITS_WAY:
            yield OpenItem("transaction", f"{row.purpose}:{row.ref}", row.state)
    for row in books.payments:
        if row.state != PaymentState.CONFIRMED:
            yield OpenItem("payment", row.id, row.state, row.charge_atoms)
    for row in books.purchases:
        if row.state != PurchaseState.PAID:
            yield OpenItem("purchase", row.call_id, row.state, row.amount_atoms)
    for row in books.sold:
        if row.streaming_atoms:
            yield OpenItem("stream", row.channel_id, "streaming", row.streaming_atoms)
    for row in (*books.sold, *books.bought):
        if row.state in _CHANNEL_MOVES:
            yield OpenItem("channel", row.channel_id, row.state, row.balance_atoms)
