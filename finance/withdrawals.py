"""Withdrawals: quoted, confirmed once, sent once, followed to their end.

The wish is stored (with whatever the caller wants beside it) before the sender is asked,
under an id made with the page that asked to confirm: a second click, a reload or a retry
finds the same withdrawal, and its transaction is made once per id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Row, func, select, text

from finance.balance import read_wallet
from finance.chain.answers import read_quantity
from finance.chain.endpoint import Question
from finance.chain.fees import gas_limit_up, read_fees
from finance.chain.rpc import Rpc
from finance.chain.sender import Sender
from finance.chain.transactions import gas_on_its_way, unix_now
from finance.chunks import CHUNK, in_chunks
from finance.errors import (
    CallReverted,
    FinanceError,
    RpcRefused,
    StoreConflict,
    WithdrawalRefused,
)
from finance.models import ChainTx, ChainTxAttempt, TxState
from finance.networks import Network
from finance.operations import Token, Withdrawal
from finance.store import Batch, Store, Write
from finance.withdrawal import (
    PURPOSES,
    STAGE_OF_TX,
    Available,
    Fee,
    Quote,
    Stage,
    decide,
    read_amount,
    read_destination,
    transaction_of,
)
from finance.withdrawal_ends import tell_again

_ROWS = Withdrawal.__table__  # type: ignore[attr-defined]
_TX = ChainTx.__table__  # type: ignore[attr-defined]
_ATTEMPT = ChainTxAttempt.__table__  # type: ignore[attr-defined]
_EVER = 2**62
# Longer than a simulation takes with every endpoint silent.
_SIGNING_SECONDS = 600
_ON_ITS_WAY = (TxState.SIGNED, TxState.BROADCAST)

# Guarded by what else is open: of two made at once from one balance, the second looks again. Asked
# once more when it is signed: two processes may have stored theirs without seeing the other's.
_OPEN = (
    "SELECT COUNT(*) FROM withdrawal w"
    " LEFT JOIN chain_tx t ON t.ref = w.id AND t.purpose IN ('withdraw_usdc', 'withdraw_eth')"
    " WHERE w.chain_id = :chain_id AND (t.id IS NULL OR t.sender = :sender)"
    " AND (t.state IN ('signed', 'broadcast')"
    " OR (w.error IS NULL AND (t.id IS NULL OR t.state = 'intended')))"
)
_INSERT = text(
    "INSERT INTO withdrawal (id, chain_id, token, destination, amount, actor_id, actor_name,"
    " created_at, error, told) SELECT :id, :chain_id, :token, :destination, :amount, :actor_id,"
    f" :actor_name, :now, NULL, :told WHERE :seen_open >= ({_OPEN})"
)
_STILL_WANTED = text(
    "UPDATE withdrawal SET error = NULL WHERE id = :id AND error IS NULL"
    f" AND :seen_open >= ({_OPEN} AND w.id <> :id)"
)
_AT_ONCE = "Another withdrawal is being made at this moment. Look at the balance and try again."
_FAIL = text("UPDATE withdrawal SET error = :why WHERE id = :wanted AND error IS NULL")
# Another process may be sending it: what it has begun is not given up, and what was given up is
# not signed.
_GIVE_UP = text(
    "UPDATE withdrawal SET error = :why WHERE id = :wanted AND error IS NULL AND NOT EXISTS ("
    "SELECT 1 FROM chain_tx WHERE ref = :wanted AND purpose IN ('withdraw_usdc', 'withdraw_eth')"
    " AND (state <> 'intended' OR updated_at > :begun))"
)


@dataclass(frozen=True, slots=True)
class WithdrawalView:
    """One withdrawal as it stands; `amount` in atoms of `token`, `fee_wei` once it is mined."""

    id: str
    chain_id: int
    token: Token
    destination: str
    amount: int
    stage: Stage
    created_at: int
    actor_name: str
    tx_hash: str | None = None
    fee_wei: int | None = None
    error: str | None = None

    @property
    def ended(self) -> bool:
        return self.stage in (Stage.MINED, Stage.FINAL, Stage.FAILED)


@dataclass(frozen=True, slots=True)
class Requester:
    """Who confirmed it."""

    id: str
    name: str


class Withdrawals:
    """One wallet's withdrawals."""

    def __init__(self, store: Store, sender: Sender, rpc: Rpc, network: Network) -> None:
        self._store, self._sender, self._rpc, self._network = store, sender, rpc, network
        self._own = store.engine, network.chain_id, sender.address
        # Two at once would each see the whole balance.
        self._turn = asyncio.Lock()
        sender.when_taken_back(self._taken_back)

    async def start(self) -> None:
        """Say of what a former run never signed that nothing was sent. After the sender."""
        await self._give_up(_EVER, 0, "The node stopped before it was signed. Nothing was sent.")

    async def give_up_stuck(self) -> None:
        """Say the same of what an outage of the database kept from being signed."""
        before = unix_now() - _SIGNING_SECONDS
        await self._give_up(before, before, "It could not be signed in time. Nothing was sent.")

    async def _give_up(self, asked: int, begun: int, why: str) -> None:
        """What was asked for, and what was begun, until these Unix seconds and not signed."""
        for lost in await asyncio.to_thread(_never_sent, self._store.engine, asked, begun):
            params = {"wanted": lost, "why": why, "begun": begun}
            await self._store.commit(Batch([Write(_GIVE_UP, params, rows=None)]))

    # Before it is confirmed

    async def available(self) -> Available:
        """Asks the chain; raises ChainError. What is on its way is counted first, so that
        it may be counted twice for a moment, but never not at all."""
        usdc_out, wei_out, _ = await asyncio.to_thread(_promised, *self._own)
        usdc, wei = await read_wallet(self._rpc, self._network, self._sender.address)
        return Available(int(usdc), int(wei), usdc_out, wei_out)

    async def quote(self, token: Token, destination: str, amount: str | None) -> Quote:
        """What would happen; `amount` None means all. Raises WithdrawalRefused, ChainError."""
        to = read_destination(destination, self._sender.address, self._network)
        atoms = None if amount is None else read_amount(token, amount)
        return await self._quote(token, to, atoms)

    async def _quote(self, token: Token, to: str, atoms: int | None) -> Quote:
        available = await self.available()
        if token is Token.USDC and (atoms or 1) > available.free_usdc:
            # Before the chain is asked what it would cost: it would only say no.
            decide(token, to, atoms, available, Fee(0, 0))
        fee = await self._fee(token, to, atoms or (available.free_usdc if token == "USDC" else 1))
        return decide(token, to, atoms, available, fee)

    async def _fee(self, token: Token, to: str, amount: int) -> Fee:
        # What gas is needed does not depend on the amount; a wei is always there to try with.
        target, data, value = transaction_of(
            token, to, 1 if token is Token.ETH else amount, self._network
        )
        call = {
            "from": self._sender.address,
            "to": target,
            "data": "0x" + data.hex(),
            "value": hex(value),
        }
        try:
            gas = await self._rpc.ask(Question("eth_estimateGas", (call,), read_quantity))
        except CallReverted as error:
            why = f"The receiver does not take it: {error}"
            raise WithdrawalRefused(why, "transfer_refused", "destination") from error
        except RpcRefused as error:
            why = f"The chain would refuse this: {error}"
            raise WithdrawalRefused(why, "gas_short", "token") from error
        fees = await read_fees(self._rpc)
        base = (fees.max_fee_wei - fees.max_priority_fee_wei) // 2
        return Fee(gas * (base + fees.max_priority_fee_wei), gas_limit_up(gas) * fees.max_fee_wei)

    # Confirmed

    async def send(
        self,
        withdrawal_id: str,
        token: Token,
        destination: str,
        amount: int,
        requester: Requester,
        also: Sequence[Write] = (),
    ) -> WithdrawalView:
        """Send it, once per id; `also` is stored with the wish. Does not wait for mining.

        An id that was used gives the withdrawal it stands for. Raises WithdrawalRefused
        (also for an id that stands for another one), ChainError; nothing was sent then.
        """
        work = self._send(withdrawal_id, token, destination, amount, requester, also)
        # A caller that gives up must not leave it half-way.
        return await asyncio.shield(asyncio.create_task(work))

    async def _send(
        self,
        withdrawal_id: str,
        token: Token,
        destination: str,
        amount: int,
        requester: Requester,
        also: Sequence[Write],
    ) -> WithdrawalView:
        async with self._turn:
            known = await asyncio.to_thread(find_withdrawal, self._store.engine, withdrawal_id)
            if known is not None:
                return self._same(known, token, destination, amount)
            seen = (await asyncio.to_thread(_promised, *self._own))[2]
            await self._quote(token, destination, amount)
            _, chain_id, own = self._own
            guard = {"id": withdrawal_id, "chain_id": chain_id, "sender": own, "seen_open": seen}
            row = {
                **guard,
                "token": token.value,
                "destination": destination,
                "amount": str(amount),
                "actor_id": requester.id,
                "actor_name": requester.name,
                "now": unix_now(),
                "told": False,
            }
            try:
                await self._store.commit(Batch([Write(_INSERT, row), *also]))
            except StoreConflict:
                return await self._made_elsewhere(withdrawal_id, token, destination, amount)
            await self._broadcast(Write(_STILL_WANTED, guard), token, destination, amount)
        view = await asyncio.to_thread(find_withdrawal, self._store.engine, withdrawal_id)
        assert view is not None
        return view

    async def _made_elsewhere(
        self, withdrawal_id: str, token: Token, destination: str, amount: int
    ) -> WithdrawalView:
        known = await asyncio.to_thread(find_withdrawal, self._store.engine, withdrawal_id)
        if known is None:
            raise WithdrawalRefused(_AT_ONCE, "withdrawal_conflict")
        return self._same(known, token, destination, amount)

    def _same(
        self, known: WithdrawalView, token: Token, destination: str, amount: int
    ) -> WithdrawalView:
        wanted = self._network.chain_id, token, destination, amount
        if (known.chain_id, known.token, known.destination, known.amount) != wanted:
            raise WithdrawalRefused(
                "This confirmation was used for another withdrawal. Start again from the form.",
                "withdrawal_conflict",
            )
        return known

    async def _broadcast(self, wanted: Write, token: Token, destination: str, amount: int) -> None:
        target, data, value = transaction_of(token, destination, amount, self._network)
        withdrawal_id = str(wanted.params["id"])
        try:
            await self._sender.send(
                PURPOSES[token], withdrawal_id, target, data, value, lambda _: [wanted]
            )
        except StoreConflict:
            await self._fail(withdrawal_id, _AT_ONCE)  # if no other process has given it up
            failed = await asyncio.to_thread(find_withdrawal, self._store.engine, withdrawal_id)
            raise WithdrawalRefused(str(failed and failed.error), "withdrawal_conflict") from None
        except FinanceError as error:
            await self._fail(withdrawal_id, str(error))
            raise

    async def _fail(self, withdrawal_id: str, why: str) -> None:
        failed = Write(_FAIL, {"wanted": withdrawal_id, "why": why[:500]}, rows=None)
        await self._store.commit(Batch([failed]))

    # Afterwards

    async def ended_untold(self) -> list[WithdrawalView]:
        """Withdrawals that came to an end nobody has been told of."""
        untold = _ROWS.c.told.is_(False)
        recent = await asyncio.to_thread(_read, self._store.engine, untold, 100, 0)
        return [view for view in recent if view.ended]

    async def _taken_back(self, tx_hash: str) -> None:
        await self._store.commit(Batch([tell_again(tx_hash)]))


def find_withdrawal(engine: Engine, withdrawal_id: str) -> WithdrawalView | None:
    """One withdrawal; None if there is none of this id (blocking)."""
    found = _read(engine, _ROWS.c.id == withdrawal_id, 1, 0)
    return found[0] if found else None


def recent_withdrawals(
    engine: Engine, chain_id: int, count: int, skip: int = 0
) -> list[WithdrawalView]:
    """Of a network, the newest first (blocking)."""
    return _read(engine, _ROWS.c.chain_id == chain_id, count, skip)


def export_withdrawals(engine: Engine, chain_id: int) -> Iterator[WithdrawalView]:
    """All of them, the newest first."""

    def read(last: WithdrawalView | None) -> list[WithdrawalView]:
        at, wanted = _ROWS.c.created_at, _ROWS.c.chain_id == chain_id
        if last is not None:
            wanted &= (at < last.created_at) | ((at == last.created_at) & (_ROWS.c.id > last.id))
        return _read(engine, wanted, CHUNK, 0)

    return in_chunks(read)


def count_withdrawals(engine: Engine, chain_id: int) -> int:
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).where(_ROWS.c.chain_id == chain_id)) or 0


def _joined() -> Any:
    """Withdrawals with their transaction, if there is one already."""
    same = (_TX.c.ref == _ROWS.c.id) & _TX.c.purpose.in_(sorted(PURPOSES.values()))
    return _ROWS.outerjoin(_TX, same)


def _read(engine: Engine, where: Any, count: int, skip: int) -> list[WithdrawalView]:
    newest = (
        select(_ATTEMPT.c.tx_hash)
        .where(_ATTEMPT.c.tx_id == _TX.c.id)
        .order_by(_ATTEMPT.c.max_fee_wei.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = (
        select(
            _ROWS,
            _TX.c.state,
            func.coalesce(_TX.c.tx_hash, newest).label("hash"),
            _TX.c.fee_wei,
            _TX.c.error.label("tx_error"),
        )
        .select_from(_joined())
        .where(where)
        .order_by(_ROWS.c.created_at.desc(), _ROWS.c.id)
        .limit(count)
        .offset(skip)
    )
    with engine.connect() as connection:
        rows: Any = connection.execute(query)
        return [_view(row) for row in rows]


def _view(row: Row[Any]) -> WithdrawalView:
    stage, error = Stage.REQUESTED if row.state is None else STAGE_OF_TX[TxState(row.state)], None
    if row.error is not None and stage in (Stage.REQUESTED, Stage.FAILED):
        stage, error = Stage.FAILED, row.error
    elif stage is Stage.FAILED:
        error = row.tx_error or "The chain refused it; only the gas was spent."
    return WithdrawalView(
        id=row.id,
        chain_id=row.chain_id,
        token=Token(row.token),
        destination=row.destination,
        amount=int(row.amount),
        stage=stage,
        created_at=row.created_at,
        actor_name=row.actor_name,
        tx_hash=row.hash,
        fee_wei=row.fee_wei,
        error=error,
    )


def _never_sent(engine: Engine, asked: int, begun: int) -> list[str]:
    unbegun = _TX.c.id.is_(None) & (_ROWS.c.created_at <= asked)
    unsigned = (_TX.c.state == TxState.INTENDED) & (_TX.c.updated_at <= begun)
    query = select(_ROWS.c.id).select_from(_joined())
    with engine.connect() as connection:
        return list(connection.scalars(query.where(_ROWS.c.error.is_(None), unbegun | unsigned)))


def _promised(engine: Engine, chain_id: int, sender: str) -> tuple[int, int, int]:
    """(atoms, wei, number): what this wallet's withdrawals not mined yet and all its gas take."""
    unsigned = _TX.c.id.is_(None) | (_TX.c.state == TxState.INTENDED)
    open_ = (
        select(_ROWS.c.token, _ROWS.c.amount)
        .select_from(_joined())
        .where(_ROWS.c.chain_id == chain_id, _TX.c.id.is_(None) | (_TX.c.sender == sender))
        .where(_TX.c.state.in_(_ON_ITS_WAY) | (_ROWS.c.error.is_(None) & unsigned))
    )
    with engine.connect() as connection:
        rows = connection.execute(open_).all()
    gas = gas_on_its_way(engine, chain_id, sender)
    usdc = sum(int(row.amount) for row in rows if row.token == Token.USDC)
    wei = sum(int(row.amount) for row in rows if row.token == Token.ETH)
    return usdc, wei + gas, len(rows)
