"""What goes wrong on its own is noticed, and noticed to be over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy import Engine, insert

from finance.chain.rpc import Rpc
from finance.models import ChainTx, OnchainPayment, PaymentState, TxState
from node.accounts.audit import SYSTEM
from node.alerts.detect import (
    OPEN_SECONDS,
    RECENT_SECONDS,
    error_spikes,
    settlement_troubles,
)
from node.alerts.rules import Rule
from node.db.journal import Journal
from node.jobs import runner
from node.jobs.alerts import rpc_job, spike_job
from node.jobs.runner import Jobs
from node.preferences import change_preference
from node.usage.calls import CallRecord, new_call_id
from node.usage.models import Event, Side
from node.usage.set_aside import ShownCalls
from tests.alerts.world import NOON, World
from tests.conftest import book_calls


def call(at: float, status: int, side: Side = Side.SERVED) -> CallRecord:
    at_ms = int(at * 1000)
    return CallRecord(new_call_id(at_ms), side, at_ms, "lst_1", "GET", "/", status, 1000)


def test_six_errors_within_five_minutes_are_a_spike_and_five_are_not(engine: Engine) -> None:
    book_calls(engine, *(call(NOON - 10 * n, 500) for n in range(5)))
    assert error_spikes(engine, NOON) == {}
    book_calls(engine, call(NOON - 299, 502))
    assert set(error_spikes(engine, NOON)) == {"served"}
    assert error_spikes(engine, NOON)["served"].message == (
        "6 calls served here failed within 5 minutes."
    )
    assert error_spikes(engine, NOON + 2) == {}  # the oldest is older than five minutes


def test_errors_are_counted_by_side_and_successes_are_not(engine: Engine) -> None:
    book_calls(engine, *(call(NOON - n, 500, Side.SERVED) for n in range(4)))
    book_calls(engine, *(call(NOON - n, 404, Side.BOUGHT) for n in range(4)))
    book_calls(engine, *(call(NOON - n, 200, Side.BOUGHT) for n in range(40)))
    assert error_spikes(engine, NOON) == {}
    book_calls(engine, *(call(NOON - n, 504, Side.BOUGHT) for n in range(4)))
    assert set(error_spikes(engine, NOON)) == {"bought"}


def test_spike_over_the_turn_of_the_hour_is_seen(engine: Engine) -> None:
    hour = NOON // 3600 * 3600
    book_calls(engine, *(call(hour - 60 + 20 * n, 500) for n in range(6)))
    assert set(error_spikes(engine, hour + 100)) == {"served"}


async def test_spike_opens_one_incident_and_ends_when_it_is_quiet(world: World) -> None:
    run = spike_job(world.alerts, clock=world.clock)
    book_calls(world.engine, *(call(NOON, 500) for _ in range(6)))
    await run()
    await run()
    assert world.rows("SELECT state, count FROM notification") == [("new", 2)]
    world.now += 301
    await run()
    assert world.rows("SELECT state FROM notification") == [("resolved",)]
    book_calls(world.engine, *(call(world.now, 500) for _ in range(6)))
    await run()
    assert world.alerts.unread() == 1


def transaction(ref: str, state: TxState, at: int, **more: Any) -> dict[str, Any]:
    row = {"chain_id": 1, "sender": "0x", "purpose": "claim", "ref": ref, "to": "0x", "data": "0x"}
    return row | {"state": state.value, "created_at": at, "updated_at": at} | more


def payment(key: str, state: PaymentState, at: int, **more: Any) -> dict[str, Any]:
    texts = ("token", "payer", "pay_to", "signature", "fingerprint", "listing_id", "route")
    row: dict[str, Any] = dict.fromkeys(texts, "0x") | {"id": key, "nonce": key, "kind": "exact"}
    numbers = {"chain_id": 1, "valid_after": 0, "valid_before": 0}
    return row | numbers | {"state": state.value, "created_at": at, "updated_at": at} | more


def test_failed_and_stuck_money_is_found_and_then_over(engine: Engine) -> None:
    stuck = NOON - OPEN_SECONDS - 1
    with engine.begin() as connection:
        for row in (
            transaction("a", TxState.REVERTED, NOON - 5, error="InsufficientBalance"),
            transaction("b", TxState.BROADCAST, stuck),
            transaction("c", TxState.BROADCAST, NOON - 5),
            transaction("d", TxState.FINAL, stuck),
        ):
            connection.execute(insert(ChainTx), row)
        for row in (
            payment("p", PaymentState.FAILED, NOON - 5, error="insufficient_funds"),
            payment("q", PaymentState.OWED, stuck),
            payment("r", PaymentState.CONFIRMED, stuck),
        ):
            connection.execute(insert(OnchainPayment), row)
        why = {"type": "claim_impossible", "severity": "error", "message": "Channel 0x1 cannot."}
        connection.execute(insert(Event), why | {"at": NOON - 5})
    found = {key: report.message for key, report in settlement_troubles(engine, NOON).items()}
    assert found == {
        "failed:claim": "1 transaction (claim) failed within the hour: InsufficientBalance",
        "open:transactions": "1 transaction not mined for more than 10 minutes.",
        "failed:payments": "1 payment failed on the chain within the hour (insufficient_funds).",
        "open:payments": "1 payment owed to this node for more than 10 minutes.",
        "claims": "Channel 0x1 cannot.",
    }
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE chain_tx SET state = 'final' WHERE state = 'broadcast'")
        connection.exec_driver_sql("UPDATE onchain_payment SET state = 'confirmed'")
    later = NOON + RECENT_SECONDS
    assert settlement_troubles(engine, later) == {}


def test_what_a_former_network_has_left_open_is_no_trouble_here(engine: Engine) -> None:
    stuck = NOON - OPEN_SECONDS - 1
    with engine.begin() as connection:
        connection.execute(insert(ChainTx), transaction("a", TxState.BROADCAST, stuck))
        connection.execute(insert(ChainTx), transaction("b", TxState.REVERTED, NOON - 5))
        connection.execute(insert(OnchainPayment), payment("p", PaymentState.OWED, stuck))
        connection.execute(insert(OnchainPayment), payment("q", PaymentState.FAILED, NOON - 5))
    for chain_id, troubles in ((1, 4), (2, 0), (1, 4)):
        change_preference(engine, ShownCalls(chain_id=chain_id), SYSTEM, NOON)
        assert len(settlement_troubles(engine, NOON)) == troubles


@pytest.fixture
def journal(world: World) -> Iterator[Journal]:
    journal = Journal(world.engine)
    yield journal
    journal.close()


async def test_job_that_fails_is_told_until_it_succeeds(world: World, journal: Journal) -> None:
    healthy = asyncio.Event()

    async def job() -> None:
        if not healthy.is_set():
            raise ValueError("secret row: open sesame")

    jobs = Jobs(journal, world.alerts)
    await jobs.run("claim", job)
    await jobs.run("claim", job)
    [(subject, message)] = world.rows("SELECT subject, message FROM notification")
    assert subject == "claim"
    assert message == "Job claim failed (ValueError); the node's log says more."
    healthy.set()
    restarted = Jobs(journal, world.alerts)  # which does not remember that it failed
    await restarted.run("claim", job)
    assert world.rows("SELECT state FROM notification") == [("resolved",)]


async def test_a_job_that_failed_in_a_process_that_is_gone_is_well_again_in_another(
    world: World, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = False

    async def job() -> None:
        if broken:
            raise ValueError

    gone, going_on = (Jobs(journal, world.alerts) for _ in range(2))
    await going_on.run("claim", job)
    broken = True
    await gone.run("claim", job)
    assert world.rows("SELECT state FROM notification") == [("new",)]
    broken = False
    monkeypatch.setattr(runner, "WELL_SECONDS", 0.0)
    await going_on.run("claim", job)
    assert world.rows("SELECT state FROM notification") == [("resolved",)]


@pytest.mark.parametrize("zone", ["UTC+3", "CET-1CEST,M3.5.0,M10.5.0/3", "nowhere"])
async def test_jobs_run_whatever_zone_the_machine_is_in(
    world: World, journal: Journal, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    """POSIX knows zones that are none of IANA's."""
    monkeypatch.setenv("TZ", zone)
    monkeypatch.setattr("tzlocal.unix._cache_tz", None)
    ran = asyncio.Event()

    async def job() -> None:
        ran.set()

    jobs = Jobs(journal, world.alerts)
    jobs.every(60, "claim", job)
    jobs.start()
    await asyncio.wait_for(ran.wait(), 10)
    jobs.stop()


async def test_a_node_that_stops_says_nothing_of_the_jobs_it_ends(
    world: World, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """As Ctrl-C does while an endpoint keeps silent: it is no fault of theirs."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def job() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    jobs = Jobs(journal, world.alerts)
    jobs.every(60, "claim", job)
    jobs.start()
    await begun.wait()
    jobs.stop()
    await ended.wait()
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0.01)
    assert [each.getMessage() for each in caplog.records if each.levelname == "ERROR"] == []


async def test_silent_chain_is_told_once_it_lasted_and_ends_with_its_first_answer(
    world: World,
) -> None:
    chain = Chain()
    async with Rpc([await chain.start()], CHAIN_ID, timeout_seconds=1.0) as rpc:
        patient = rpc_job(world.alerts, rpc, patience_seconds=60)
        await patient()
        chain.silent = True
        await patient()
        assert world.rows("SELECT 1 FROM notification") == []
        at_once = rpc_job(world.alerts, rpc, patience_seconds=0)
        await at_once()
        await at_once()
        assert world.rows("SELECT rule, state, count FROM notification") == [
            ("rpc_unreachable", "new", 2)
        ]
        chain.silent = False
        await at_once()
        assert world.rows("SELECT state FROM notification") == [("resolved",)]
        await chain.stop()


async def test_a_chain_that_refuses_to_say_its_height_is_told_like_a_silent_one(
    world: World,
) -> None:
    """As providers do whose quota is used up."""
    chain = Chain()
    async with Rpc([await chain.start()], CHAIN_ID, timeout_seconds=5.0) as rpc:
        job = rpc_job(world.alerts, rpc, patience_seconds=0)
        await job()
        chain.refusing = True
        await job()
        assert world.rows("SELECT rule, state FROM notification") == [("rpc_unreachable", "new")]
        chain.refusing = False
        await job()
        assert world.rows("SELECT state FROM notification") == [("resolved",)]
        await chain.stop()


CHAIN_ID = 31337


class Chain:
    """An RPC endpoint that knows its chain and its height; silent, it answers 503, refusing,
    an error to every question."""

    silent = refusing = False

    async def start(self) -> str:
        app = web.Application()
        app.router.add_post("/", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        if self.silent:
            raise web.HTTPServiceUnavailable
        asked = await request.json()
        answers = [self._result(each) for each in (asked if isinstance(asked, list) else [asked])]
        return web.json_response(answers if isinstance(asked, list) else answers[0])

    def _result(self, question: dict[str, Any]) -> dict[str, Any]:
        known = {"eth_chainId": hex(CHAIN_ID), "eth_blockNumber": "0x10"}
        if self.refusing:
            error = {"code": -32000, "message": "no calls are left today"}
            return {"jsonrpc": "2.0", "id": question["id"], "error": error}
        return {"jsonrpc": "2.0", "id": question["id"], "result": known[question["method"]]}


async def test_reports_do_not_break_what_they_watch_when_the_database_is_away(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with world.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE notification")
    await world.alerts.raise_(Rule.LOW_GAS, "", "open sesame", "/finance")
    assert "cannot be stored now" in caplog.text
    assert "sesame" not in caplog.text
