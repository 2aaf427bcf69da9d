"""Holding the books against the chain on request, with the result kept.

It runs in a thread with an event loop and a chain client of its own: comparing many
channels takes a while, in which paid calls must not wait.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from finance.chain.rpc import Rpc
from finance.errors import FinanceError
from finance.networks import Network
from finance.operations import Reconciliation
from finance.reconcile import Difference, OpenItem, Report, reconcile
from finance.store import Store
from node.accounts.audit import Actor, record
from node.db.engine import writer
from node.treasury.errors import NotPossible

MOST_KEPT = 1000  # differences of one run that are stored; more are only counted
STORE_AGAIN_SECONDS = 2.0  # the database may be away for a while
_ROWS = Reconciliation.__table__  # type: ignore[attr-defined]

_log = logging.getLogger(__name__)


class Unit(StrEnum):
    """What the two numbers of a difference count; texts count nothing."""

    USDC_ATOMS = "usdc_atoms"
    WEI = "wei"
    NONE = "none"


def unit_of(found: Difference) -> Unit:
    """Gas is wei, every other number atoms of USDC."""
    if not any(isinstance(each, int) for each in (found.books, found.chain)):
        return Unit.NONE
    return Unit.WEI if found.kind.startswith("gas_") else Unit.USDC_ATOMS


@dataclass(frozen=True, slots=True)
class Run:
    """One reconciliation; `finished_at` 0 while it runs, `error` why it could not be done."""

    id: int
    started_at: int
    finished_at: int
    actor_name: str
    block_number: int
    checked: int
    differences: tuple[Difference, ...]
    open_items: tuple[OpenItem, ...]
    error: str | None

    @property
    def balanced(self) -> bool:
        return bool(self.finished_at) and not self.differences and self.error is None


class Reconciler:
    """One at a time."""

    def __init__(self, store: Store, network: Network, wallet: str) -> None:
        self._store, self._network, self._wallet = store, network, wallet
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """What a former run did not finish never will."""
        await asyncio.to_thread(_give_up_unfinished, self._store.engine, int(time.time()))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def begin(self, actor: Actor, now: int) -> int:
        """Start one; its id. Raises NotPossible while another one runs."""
        async with self._turn:
            if self._task is not None and not self._task.done():
                raise NotPossible("A reconciliation is running already.", "reconciling")
            run_id = await asyncio.to_thread(_begin, self._store.engine, actor, now)
            self._task = asyncio.create_task(self._run(run_id))
        return run_id

    async def _run(self, run_id: int) -> None:
        values: dict[str, Any]
        try:
            report = await asyncio.to_thread(lambda: asyncio.run(self._compare()))
            values = _result(report)
        except FinanceError as error:
            values = {"error": f"It could not be done: {error}"}
        except Exception:
            _log.exception("reconciliation %s", run_id)
            values = {"error": "It broke off; the node's log says why."}
        values["finished_at"] = int(time.time())
        while True:
            if await asyncio.to_thread(self._stored, run_id, values):
                return
            await asyncio.sleep(STORE_AGAIN_SECONDS)

    def _stored(self, run_id: int, values: dict[str, Any]) -> bool:
        try:
            _finish(self._store.engine, run_id, values)
        except SQLAlchemyError as error:
            _log.warning("reconciliation %s cannot be stored now: %s", run_id, type(error).__name__)
            return False
        return True

    async def _compare(self) -> Report:
        async with Rpc(self._network.rpc_urls, self._network.chain_id) as rpc:
            return await reconcile(self._store, rpc, self._wallet, self._network)


def recent_runs(engine: Engine, count: int = 20) -> list[Run]:
    """The newest first (blocking)."""
    query = select(_ROWS).order_by(_ROWS.c.id.desc()).limit(count)
    with engine.connect() as connection:
        rows: Any = connection.execute(query)
        return [_run(row) for row in rows]


def read_run(engine: Engine, run_id: int) -> Run | None:
    """One of them (blocking)."""
    with engine.connect() as connection:
        row: Any = connection.execute(select(_ROWS).where(_ROWS.c.id == run_id)).first()
    return None if row is None else _run(row)


def _run(row: Any) -> Run:
    return Run(
        row.id,
        row.started_at,
        row.finished_at,
        row.actor_name,
        row.block_number,
        row.checked,
        tuple(Difference(**each) for each in json.loads(row.differences)),
        tuple(OpenItem(**each) for each in json.loads(row.open_items)),
        row.error,
    )


def _begin(engine: Engine, actor: Actor, now: int) -> int:
    with writer(engine).begin() as connection:
        row = {"started_at": now, "actor_name": actor.name}
        result = connection.execute(insert(_ROWS).values(**{**_EMPTY, **row}))
        run_id = int(result.inserted_primary_key[0])  # type: ignore[index]
        record(connection, actor, "books.reconcile", str(run_id), now)
    return run_id


_EMPTY: dict[str, Any] = {
    "finished_at": 0,
    "block_number": 0,
    "checked": 0,
    "differences": "[]",
    "open_items": "[]",
    "error": None,
}


def _finish(engine: Engine, run_id: int, values: dict[str, Any]) -> None:
    with writer(engine).begin() as connection:
        connection.execute(update(_ROWS).where(_ROWS.c.id == run_id).values(**values))


def _give_up_unfinished(engine: Engine, now: int) -> None:
    lost = {"finished_at": now, "error": "The node stopped before it was done."}
    with writer(engine).begin() as connection:
        connection.execute(update(_ROWS).where(_ROWS.c.finished_at == 0).values(**lost))


def _result(report: Report) -> dict[str, Any]:
    return {
        # A process that started meanwhile took it for one that had broken off.
        "error": None,
        "block_number": report.block_number,
        "checked": report.checked,
        "differences": json.dumps([asdict(each) for each in report.differences[:MOST_KEPT]]),
        "open_items": json.dumps([asdict(each) for each in report.open[:MOST_KEPT]]),
    }
