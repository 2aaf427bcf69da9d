"""A node that has seen everything: for pages to be looked at with all that can stand in them.

Names as long as they may be, text that would run if it were not escaped, right-to-left and
emoji; thousands of calls; money in every stage. What operators do is done through the JSON
API; what only a chain, a stranger or time brings about stands as rows.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from sqlalchemy import Connection, insert, select, text, update
from sqlmodel import SQLModel, col

from backups.models import Backup, BackupState, CopyState
from catalog.models import ListingHealth
from finance.actions import Action
from finance.buying.models import SpendCounter
from finance.ledger import Account
from finance.models import BuyerChannel, ChainTx, LedgerEntry, SellerChannel
from finance.networks import NETWORKS
from finance.operations import Arrival, Closing, ClosingStep, Reconciliation, Token, Withdrawal
from node.accounts.access import Role
from node.accounts.models import User
from node.alerts.rules import Rule
from node.console.listing_forms import operation_key, operations_of
from node.db.engine import writer
from node.usage.events import event
from tests.browser.filled_customers import fill_customers
from tests.browser.filled_plans import fill_plans, plan_answer
from tests.browser.filled_streams import fill_streams
from tests.console_world import Console
from tests.publishing_world import KEY, SPEC, Weather
from tests.soak.generate_calls import Month, generate

NETWORK = NETWORKS["devnet"]
SCRIPT = "<script>alert('run')</script><img src=x onerror=alert(1)>"
LONG = "Ziemlichlangernameohnejedesleerzeichendazwischen" + "x" * 32
RIGHT_TO_LEFT = "Sky خدمة الطقس اليومية للمدن الكبرى"
EMOJI = "🌦️ Wetter 🏖️ für alle 🦀"
NAMES = (LONG, f"Weather {SCRIPT}", RIGHT_TO_LEFT, EMOJI)
TAGS = ["sky", "sea", *(f"tag-{number}-{'y' * 30}" for number in range(18))]
DESCRIPTION = (f"{SCRIPT} {RIGHT_TO_LEFT} {EMOJI} " + "without-a-break" * 40)[:500]
CALLS = 5_000
ETHER = 10**18
HOUR, DAY = 3_600, 86_400


class Bazaar:
    """A peer with fifty services, and one that answers nonsense at `/nonsense`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def page(self) -> dict[str, Any]:
        return {"x402Version": 2, "items": [self._resource(number) for number in range(50)]}

    def _resource(self, number: int) -> dict[str, Any]:
        offer = {
            "scheme": "batch-settlement" if number % 2 else "exact",
            "network": NETWORK.caip2,
            "asset": NETWORK.usdc,
            "amount": str(1_000 + number * 37),
            "payTo": "0x" + "5e" * 20,
        }
        return {
            "resource": f"https://service-{number:02d}.example/{'deep/' * (number % 9)}answer",
            "type": "http",
            "x402Version": 2,
            "accepts": [offer],
            "serviceName": NAMES[number % 9] if number % 9 < len(NAMES) else f"Service {number}",
            "description": "\u202e" + DESCRIPTION
            if number % 7 == 0
            else "A service of somebody else",
            "tags": TAGS[: number % 21],
        }


@contextmanager
def serve_bazaar() -> Iterator[Bazaar]:
    """On a port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = b"<html>" if "nonsense" in self.path else json.dumps(bazaar.page()).encode()
            self._answer(*(plan_answer("GET", self.path, NAMES) or (200, b"", found)))

        def do_POST(self) -> None:
            self._answer(*(plan_answer("POST", self.path, NAMES) or (404, b"", b"{}")))

        def _answer(self, status: int, offer: bytes, found: bytes) -> None:
            self.send_response(status)
            if offer:
                self.send_header("payment-required", offer.decode())
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(found)))
            self.end_headers()
            self.wfile.write(found)

        def log_message(self, *_: object) -> None:
            """Not on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    bazaar = Bazaar(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield bazaar
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def in_thread(work: Callable[[], Awaitable[Any]]) -> Any:
    """Playwright's own event loop runs in the test's thread."""

    async def run() -> Any:
        return await work()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(run())).result()


def fill(console: Console, weather: Weather, bazaar: Bazaar) -> None:
    """Everything, into a console that has users and nothing else."""
    now = int(time.time())
    generate(console.engine, Month(CALLS, now))
    admin = Program(console)
    _sell(admin, weather)
    _draft(console, admin, weather)
    _buy_elsewhere(admin, bazaar)
    _people(admin, console, now)
    fill_plans(console, bazaar.url, NAMES)
    fill_customers(console, NAMES)
    _choices(admin)
    in_thread(lambda: _trouble(console))
    _backups(admin, console, now)
    with writer(console.engine).begin() as connection:
        _money(connection, console.parts.controls.facts.address.lower(), now)
        _log_lines(connection, now)
        fill_streams(connection, now)


class Program:
    """A client of the JSON API as an admin; what it asks for is done, or the test ends."""

    def __init__(self, console: Console) -> None:
        self.client: httpx.Client = console.api(Role.ADMIN)
        self.client.timeout = httpx.Timeout(60)

    def __call__(self, method: str, path: str, body: object = None) -> Any:
        answer = self.client.request(method, f"/api{path}", json=body)
        assert answer.status_code < 300, (method, path, answer.text)
        return answer.json() if answer.content else None


def _sell(admin: Program, weather: Weather) -> None:
    """One listing for every kind of name; the first is paused, the second in demo mode."""
    for number, name in enumerate(NAMES):
        listing = admin(
            "POST",
            "/listings",
            {
                "name": name,
                "base_url": weather.url,
                "price_atoms": 1_000,
                "routes": [{"method": "GET", "path": "/forecast/{city}", "price_atoms": 2_500}],
                "description": DESCRIPTION,
                "tags": TAGS,
                "health_path": "/stations" if number else "/away",
                "credential": {"kind": "header", "name": "X-Key", "value": KEY},
                "spec": json.dumps(_hostile_spec()),
                "mode": "demo" if number == 1 else "live",
            },
        )
        admin("POST", f"/listings/{listing['id']}/samples", [{"target": "/forecast/lisbon"}])
        admin("POST", f"/listings/{listing['id']}/health")
        admin("PUT", f"/listings/{listing['id']}/pause", {"paused": number == 0})


def _hostile_spec() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(SPEC))
    document["info"]["title"] = SCRIPT
    document["paths"]["/stations"]["get"]["summary"] = SCRIPT
    document["paths"]["/" + "long" * 30] = {
        "get": {"summary": LONG * 3, "responses": {"200": {"description": SCRIPT}}}
    }
    return document


def _draft(console: Console, admin: Program, weather: Weather) -> None:
    """One that can be published, one that cannot."""
    good: dict[str, Any] = {"name": "Draft " + EMOJI, "base_url": weather.url, "tags": TAGS}
    good["spec"] = json.dumps(_hostile_spec())
    good["credential"] = {"kind": "header", "name": "X-Key", "value": KEY}
    draft = admin("POST", "/listings/drafts", good)
    with console.client(Role.ADMIN) as client:
        client.timeout = httpx.Timeout(60)
        keys = [operation_key(*each) for each in operations_of(good["spec"])[:3]]
        asked: dict[str, Any] = {"operation": keys}
        asked |= {f"op-{key}-path-city": "lisbon" for key in keys}
        console.send(client, f"/listings/drafts/{draft['id']}/samples", **asked)
    broken = {"name": LONG[::-1], "base_url": "http://127.0.0.1:9", "spec": '{"openapi": "3.1.0"}'}
    admin("POST", "/listings/drafts", broken)


def _buy_elsewhere(admin: Program, bazaar: Bazaar) -> None:
    """Peers that are well, broken, gone and switched off; stars."""
    urls = {
        EMOJI: bazaar.url,
        SCRIPT: f"{bazaar.url}/nonsense",
        LONG: "http://127.0.0.1:9",
        "Off": "http://127.0.0.1:9/off",
    }
    for name, url in urls.items():
        peer = admin("POST", "/peers", {"url": url, "name": name[:80]})
        if name == "Off":
            admin("PATCH", f"/peers/{peer['id']}", {"enabled": False})
        else:
            admin.client.post(f"/api/peers/{peer['id']}/sync")
    for listing in admin("GET", "/catalog")["items"][:5]:
        admin("PUT", f"/catalog/{listing['id']}/star")


def _people(admin: Program, console: Console, now: int) -> None:
    """Users in every state, programs' tokens and consumer secrets."""
    long_mail = "a" * 60 + "@" + "b" * 60 + ".example"
    locked = admin("POST", "/users", {"name": "L" * 40, "email": long_mail, "role": "consumer"})
    gone = admin("POST", "/users", {"name": "gone", "role": "viewer"})
    admin("POST", f"/users/{gone.get('user', gone)['id']}/disable")
    with writer(console.engine).begin() as connection:
        locks = {"locked_until": now + HOUR, "failed_attempts": 9}
        chosen = col(User.id) == locked.get("user", locked)["id"]
        connection.execute(update(User).where(chosen).values(locks))
    for name in NAMES:
        admin("POST", "/tokens", {"name": name[:60], "role": "viewer", "days": 30})
        key = admin("POST", "/keys", {"name": name[:60]})
    admin("POST", f"/keys/{key['id']}/rotate", {"grace_seconds": HOUR})
    admin("DELETE", f"/keys/{admin('POST', '/keys', {'name': 'old app'})['id']}")


def _choices(admin: Program) -> None:
    """Settings that were changed, a mail and a webhook that do not arrive."""
    mail = {"host": "127.0.0.1", "port": 9, "security": "none", "sender": "node@example.org"}
    admin("PUT", "/email", {**mail, "recipients": [f"{'o' * 60}@example.org", "ops@example.org"]})
    admin("PUT", "/webhook", {"url": "http://127.0.0.1:9/" + "hook" * 20})
    admin.client.post("/api/email/test")
    admin.client.post("/api/webhook/test")
    limits = {"scope": "listing", "limit_atoms": 3_000_000}
    for listing in admin("GET", "/catalog?page=2")["items"][:3]:
        admin("PUT", "/finance/limits", {**limits, "subject": listing["id"]})
    low = {"low_usdc_atoms": 5_000_000, "low_gas_wei": str(10**15), "margin_percent": 25}
    admin("PUT", "/finance/thresholds", {**low, "auto_pause": True})


async def _trouble(console: Console) -> None:
    """Incidents that are new, acknowledged and over, mailed and posted without luck."""
    alerts, courier = console.parts.controls.alerts, console.parts.controls.courier
    for rule in Rule:
        await alerts.raise_(rule, "x", f"{rule.value}: {SCRIPT} {LONG}", "/finance")
    for number in range(40):
        subject = f"peer {number}"
        await alerts.raise_(Rule.PEER_UNREACHABLE, subject, f"Peer {number} is gone.", "/")
        if number % 3:
            await alerts.resolve(Rule.PEER_UNREACHABLE, subject)
    while await courier.deliver_due():
        pass


def _backups(admin: Program, console: Console, now: int) -> None:
    """One real one, and what may become of others."""
    admin("PUT", "/backups/password", {"password": "a password for backups only"})
    made = admin("POST", "/backups")
    deadline = time.monotonic() + 60
    while admin("GET", f"/backups/{made['id']}")["state"] == "running":
        assert time.monotonic() < deadline, "no backup within a minute"
        time.sleep(0.1)
    with console.engine.connect() as connection:
        recipient = connection.execute(text("SELECT recipient FROM backup")).scalar_one()
    rows = [
        Backup(
            id=f"old-{number}",
            name=f"farebox-{number}-{'n' * 60}.farebox",
            folder="/var/lib/farebox/" + "backups/" * 12,
            reason="scheduled",
            state=list(BackupState)[1 + number % (len(BackupState) - 1)],
            recipient=recipient,
            started_at=now - (number + 1) * DAY,
            finished_at=now - (number + 1) * DAY + 3,
            took_ms=3_000,
            size_bytes=10**number,
            error=f"No space left on {SCRIPT}" if number % 2 else "",
            remark="Two channels stayed open." if number % 3 else "",
            test_error=LONG if number == 4 else "",
            tested_at=now - DAY if number == 4 else None,
            mail_state=CopyState.FAILED if number == 2 else CopyState.NONE,
            mail_error="The mail server does not answer." if number == 2 else "",
        )
        for number in range(8)
    ]
    with writer(console.engine).begin() as connection:
        _insert(connection, rows)


def _insert(connection: Connection, rows: list[Any]) -> None:
    model: type[SQLModel] = type(rows[0])
    skipped = {"id"} if rows[0].model_dump().get("id", 0) is None else set()
    connection.execute(insert(model), [row.model_dump(exclude=skipped) for row in rows])


def _hex(number: int, size: int = 32) -> str:
    return "0x" + number.to_bytes(2, "big").hex() * (size // 2)


def _money(connection: Connection, wallet: str, now: int) -> None:
    """Channels in every state on both sides, transactions, withdrawals, arrivals, checks."""
    states = ("opening", "open", "withdrawing", "stopped", "refunding", "closed")
    _insert(connection, [_sold(number, states[number % 6], now) for number in range(40)])
    _insert(connection, [_bought(number, states[number % 6], now) for number in range(40)])
    _insert(
        connection,
        [
            Closing(
                channel_id=_hex(0x2000 + number),
                step=step,
                before="open",
                unspent_atoms=900_000,
                finalize_after=now + DAY,
                note="The seller does not answer: " + SCRIPT,
                started_at=now - HOUR,
                updated_at=now,
            )
            for number, step in enumerate(ClosingStep)
        ],
    )
    _withdrawals(connection, wallet, now)
    _insert(connection, [_arrival(number, now) for number in range(60)])
    _insert(connection, [_gas(number, now) for number in range(60)])
    _insert(connection, [_check(number, now) for number in reversed(range(4))])
    day = time.strftime("%Y-%m-%d", time.gmtime(now))
    spent = [SpendCounter(scope="day", subject="*", window=day, spent_atoms=19_500_000)]
    _insert(connection, spent)


def _channel(number: int, state: str) -> dict[str, Any]:
    return {
        "channel_id": _hex(number),
        "chain_id": NETWORK.chain_id,
        "payer": _hex(number + 1, 20),
        "payer_authorizer": _hex(number + 1, 20),
        "receiver": _hex(number + 2, 20),
        "receiver_authorizer": _hex(number + 2, 20),
        "token": NETWORK.usdc,
        "withdraw_delay": 4 * DAY,
        "salt": _hex(number),
        "state": state,
        "balance_atoms": 1_000_000 * (number % 7 + 1),
        "charged_atoms": 12_345 * (number % 50),
        "signed_atoms": 12_345 * (number % 50) + 1_000,
        "withdraw_requested_at": 0,
    }


def _sold(number: int, state: str, now: int) -> SellerChannel:
    asked = now - HOUR if state == "withdrawing" else 0
    fields = _channel(0x1000 + number, state) | {"withdraw_requested_at": asked}
    return SellerChannel(**fields, total_claimed_atoms=0, synced_at=now, last_request_at=now - 60)


def _bought(number: int, state: str, now: int) -> BuyerChannel:
    origin = f"https://{'very-long-host-' * (number % 4)}seller.example:8402"
    why = f"The seller {SCRIPT}" if state == "stopped" else None
    fields = _channel(0x2000 + number, state)
    return BuyerChannel(**fields, origin=origin, stop_reason=why, updated_at=now - number * 60)


_TX_STATES = ("intended", "signed", "broadcast", "mined", "final", "reverted", "rejected")


def _withdrawals(connection: Connection, wallet: str, now: int) -> None:
    """One in every stage, by its transaction's; one that never was sent; enough for pages."""
    for number in range(45):
        sent, state = number % 8 != 7, _TX_STATES[number % 7]
        token = Token.ETH if number % 3 == 0 else Token.USDC
        wish = Withdrawal(
            id=f"withdrawal-{number}",
            chain_id=NETWORK.chain_id,
            token=token,
            destination=_hex(number, 20),
            amount=str((number + 1) * (ETHER // 1000 if token is Token.ETH else 1_234_567)),
            actor_id="u",
            actor_name=NAMES[number % len(NAMES)],
            created_at=now - number * 7 * HOUR,
            error=None if sent else "The node stopped before it was signed. Nothing was sent.",
        )
        _insert(connection, [wish])
        if sent:
            _insert(connection, [_transaction(wish, state, wallet, number)])


def _transaction(wish: Withdrawal, state: str, wallet: str, number: int) -> ChainTx:
    mined = state in ("mined", "final", "reverted")
    return ChainTx(
        chain_id=NETWORK.chain_id,
        sender=wallet,
        purpose=f"withdraw_{wish.token.lower()}",
        ref=wish.id,
        to=wish.destination,
        value_wei=wish.amount if wish.token == Token.ETH else "0",
        data="0x",
        state=state,
        nonce=None if state in ("intended", "rejected") else number,
        block_number=100 + number if mined else None,
        block_hash=_hex(7) if mined else None,
        tx_hash=_hex(0x3000 + number) if mined else None,
        gas_used=51_000 if mined else None,
        fee_wei=51_000 * 10**8 if mined else None,
        error=f"execution reverted: {SCRIPT}" if state in ("reverted", "rejected") else None,
        created_at=wish.created_at,
        updated_at=wish.created_at + 30,
    )


def _arrival(number: int, now: int) -> Arrival:
    return Arrival(
        key=f"eth:{number}",
        chain_id=NETWORK.chain_id,
        token=Token.ETH if number % 2 else Token.USDC,
        amount=str(ETHER // 7 if number % 2 else 250_000_001),
        source="" if number % 2 else _hex(number, 20),
        tx_hash=None if number % 2 else _hex(number),
        block_number=number,
        at=now - number * 5 * HOUR,
    )


def _gas(number: int, now: int) -> LedgerEntry:
    return LedgerEntry(
        key=f"line:{number}",
        account=Account.GAS if number % 2 else Account.WALLET,
        action=None if number % 2 else Action.PURCHASE if number % 4 else Action.RECEIVED,
        amount=-51_000 * 10**8 if number % 2 else (-1) ** (number // 2) * 7_654_321,
        tx_hash=_hex(0x4000 + number),
        log_index=0,
        at=now - number * 3 * HOUR,
    )


def _check(number: int, now: int) -> Reconciliation:
    """Newest first: different, balanced, failed, running."""
    differences = [
        {"kind": "channel_balance", "subject": _hex(each), "books": 1_000_000, "chain": 999_999}
        for each in range(60)
    ]
    pending = [{"kind": "transaction", "subject": _hex(9), "state": "broadcast", "amount": 7}]
    return Reconciliation(
        started_at=now - number * DAY,
        finished_at=0 if number == 3 else now - number * DAY + 2,
        actor_name=EMOJI,
        block_number=1_000 + number,
        checked=12_345,
        differences=json.dumps(differences if number == 0 else []),
        open_items=json.dumps(pending if number < 2 else []),
        error=f"The chain does not answer: {SCRIPT}" if number == 2 else None,
    )


def _log_lines(connection: Connection, now: int) -> None:
    """Events of each severity; a listing that is down."""
    for number in reversed(range(120)):
        severity = ("info", "warning", "error")[number % 3]
        line = event("catalog_synced", severity, f"{SCRIPT} {LONG} {number}", now - number * 900)  # type: ignore[arg-type]
        line.make(connection)
    down = {"up": False, "failures": 4, "status": 0, "note": f"No answer {SCRIPT}", "since": now}
    one = select(col(ListingHealth.listing_id)).limit(1).scalar_subquery()
    chosen = col(ListingHealth.listing_id) == one
    connection.execute(update(ListingHealth).where(chosen).values(down))
