"""A node's two sides on ports, in front of an API of the benchmarks: as many keys and subscribers
as one likes, and calls that cost nothing beside calls that a quota and a rate limit watch."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Engine, insert

from catalog.listings import compile_listings
from catalog.models import Listing, ListingOrigin, RoutePrice
from finance.networks import NETWORKS
from finance.selling.checks import ChainChecks
from finance.wallet.signer import Keys, Signer
from finance.x402.text import parse_address
from node.accounts.audit import COMMAND
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from node.egress import EgressPolicy
from node.gateway.app import Gateway
from node.gateway.desk import Desk, framed
from node.gateway.forward import Answer
from node.gateway.headers import to_caller
from node.gateway.match import Match, Sale
from node.gateway.ports import Seller
from node.gateway.request import Call
from node.parts import Money, build_money
from node.plans.gate import SubscriberGate
from node.plans.offered import add_plan, choices
from node.plans.orders import subscribe
from node.plans.terms import first_stretch
from node.proxy.app import Proxy
from node.proxy.headers import find
from node.server import bind, make_server
from node.settings import Bind
from node.usage.models import ConsumerKey
from node.usage.quotas import Quotas
from node.usage.streams import Streams
from node.usage.tiers import Tier, UsageTiers, change_tiers

# Nothing here goes to the chain.
NETWORK = replace(NETWORKS["devnet"], rpc_urls=("http://127.0.0.1:9",))
A_MINUTE = 1_000_000
CUSTOMER = b"x-customer"


class Lane(msgspec.Struct, frozen=True):
    """One kind of call: to which port, what is asked for, and the header lines that take turns."""

    port: int
    path: str
    headers: tuple[str, ...]


async def open_world(
    stack: AsyncExitStack, upstream: str, keys: int, callers: int
) -> dict[str, Lane]:
    """A node with so many integrators and so many subscribers, of which `callers` call. Its
    lanes: at the proxy `internal` and `integrator`, at the gateway `unlimited` (a plan with
    neither quota nor rate) and `subscriber`; the two of one side differ by the gate alone.
    `booked` is a free call that is counted by customer and booked before its answer, `free` one
    as it is: booked behind its answer, many at once, and for nobody, which what is counted must
    not be (law 2)."""
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="farebox-bench-"))
    engine = open_engine(f"sqlite:///{Path(directory) / 'farebox.db'}")
    stack.callback(engine.dispose)
    upgrade(engine)
    _list(engine, upstream)
    internal = _add_keys(engine, callers, integrator=False)
    integrators = _add_keys(engine, keys, integrator=True)[:callers]
    subscribers = _add_subscribers(engine, keys)[:callers]
    unlimited = _add_subscribers(engine, callers, limited=False)
    proxy, gateway, booking = await _serve(stack, engine, upstream)
    bought, free, nothing = "/call/bought/free", "/v1/sold/free", _lines("Accept: ", ["*/*"])
    return {
        "internal": Lane(proxy, bought, _lines("Authorization: Bearer ", internal)),
        "integrator": Lane(proxy, bought, _lines("Authorization: Bearer ", integrators)),
        "free": Lane(gateway, free, nothing),
        "booked": Lane(
            booking, free, _lines("X-Customer: ", [f"sub:s{n}" for n in range(callers)])
        ),
        "unlimited": Lane(gateway, "/v1/sold/paid", _lines("Farebox-Key: ", unlimited)),
        "subscriber": Lane(gateway, "/v1/sold/paid", _lines("Farebox-Key: ", subscribers)),
    }


def _lines(name: str, values: Sequence[str]) -> tuple[str, ...]:
    return tuple(name + value for value in values)


class BookedFirst(Desk):
    """Gives free answers once they are in the books, as everything is given that is counted, and
    counts them by customer."""

    async def pass_on(
        self,
        call: Call,
        match: Match,
        answer: Answer,
        payer: str | None = None,
        scheme: str | None = None,
    ) -> None:
        assert match.route is not None
        headers = to_caller(answer.raw_headers, match.route.upstream, paid=True)
        customer = find(call.headers, CUSTOMER) or b""
        record = self.record(
            call, match, answer.status, len(answer.head), customer.decode(), "plan"
        )
        await self._book(record)
        await call.answer(answer.status, framed(call, answer, headers), answer.head)


async def _serve(stack: AsyncExitStack, engine: Engine, upstream: str) -> list[int]:
    """Both sides over one journal, as a node has them, and a gateway that books first; their
    ports."""
    keys = Keys(Signer.random(), Signer.random(), Signer.random(), secrets.token_bytes(32))
    money = build_money(NETWORK, keys, engine)
    stack.callback(money.journal.close)
    stack.push_async_callback(money.rpc.close)
    quotas, egress = Quotas(engine), EgressPolicy(["127.0.0.1"])
    streams = Streams(money.journal, quotas=quotas)
    gate = SubscriberGate(money.journal, quotas)
    proxy = Proxy(
        money.journal, keys, NETWORK, money.rpc, egress=egress, quotas=quotas, streams=streams
    )
    seller = _seller(money, keys, egress)
    gateway = Gateway(seller, streams=streams, subscribers=gate)
    booking = Gateway(seller, streams=streams)
    booking._desk = BookedFirst(seller, booking._forwarder, streams)
    for each in (gateway, booking):
        each.reload(compile_listings([_listing(upstream)], [_free_route()]))
    for part in (streams, proxy, gateway, booking):
        await part.start()
        stack.push_async_callback(part.stop)
    return [await _listen(stack, app) for app in (proxy, gateway, booking)]


def _seller(money: Money, keys: Keys, egress: EgressPolicy) -> Seller:
    sale = Sale(
        public_url="http://127.0.0.1",
        pay_to=keys.wallet.address_bytes,
        asset=parse_address(NETWORK.usdc),
        chain_id=NETWORK.chain_id,
        token_name=NETWORK.usdc_name,
        token_version=NETWORK.usdc_version,
        receiver_authorizer=keys.receiver.address_bytes,
    )
    return Seller(
        sale=sale,
        store=money.journal,
        channels=money.channels,
        checks=ChainChecks(money.rpc),
        settlement=money.settlement,
        refunds=money.refunds,
        egress=egress,
        unseal=keys.unseal,
        claim_soon=money.claims.claim_soon,
    )


async def _listen(stack: AsyncExitStack, app: Any) -> int:
    """Serve it as a node does; the port."""
    listener = stack.enter_context(bind(Bind("127.0.0.1", 0), ""))
    server = make_server(app, 1)
    serving = asyncio.create_task(server.serve(sockets=[listener]))

    async def stop() -> None:
        server.stop_accepting()
        await serving

    stack.push_async_callback(stop)
    while not server.started:
        await asyncio.sleep(0.01)
    port: int = listener.getsockname()[1]
    return port


def _listing(upstream: str) -> Listing:
    row = Listing(id="sold", slug="sold", name="Sold", base_url=upstream)
    row.origin, row.price_atoms = ListingOrigin.OWN, 1_000
    return row


def _free_route() -> RoutePrice:
    return RoutePrice(listing_id="sold", method="GET", path="/free", price_atoms=0)


def _list(engine: Engine, upstream: str) -> None:
    """What is bought for nothing, and what is sold; an integrator's month that never ends."""
    bought = Listing(id="bought", slug="bought", name="Bought", base_url=upstream)
    bought.origin = ListingOrigin.REMOTE
    with writer(engine).begin() as connection:
        for row in (bought, _listing(upstream)):
            values = {name: getattr(row, name) for name in Listing.model_fields}
            connection.execute(insert(Listing).values(values))
    change_tiers(engine, UsageTiers(calls=Tier.PRO, pro_calls=10**9), COMMAND, int(time.time()))


def _add_keys(engine: Engine, count: int, *, integrator: bool) -> list[str]:
    made = [secrets.token_hex(16) for _ in range(count)]
    rows = [
        {
            "id": f"{'gated' if integrator else 'internal'}-{number}",
            "name": "app",
            "secret_hash": _hash(secret),
            "integrator": integrator,
            "per_minute": A_MINUTE if integrator else None,
        }
        for number, secret in enumerate(made)
    ]
    with writer(engine).begin() as connection:
        connection.execute(insert(ConsumerKey), rows)
    return made


def _add_subscribers(engine: Engine, count: int, *, limited: bool = True) -> list[str]:
    """With a plan that costs nothing: how it was paid for makes no difference to its calls."""
    # Not just now: what is new is looked at again each second for two minutes.
    now, made = int(time.time()) - 600, [secrets.token_hex(16) for _ in range(count)]
    kind, calls, a_minute = ("free", 10**9, A_MINUTE) if limited else ("unlimited", None, None)
    chosen = choices(kind, "", 0, calls, None, a_minute, "stop", 3)
    plan = add_plan(engine, "sold", chosen, now, COMMAND)
    stretch = first_stretch(plan.deal, now)
    rows: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
    for number, secret in enumerate(made):
        payer = "0x" + hashlib.sha256(f"{kind} {number}".encode()).hexdigest()[:40]
        for write in subscribe(
            f"{kind}-{number}", plan, stretch, payer, _hash(secret), "", "", None, now
        ):
            rows[write.statement].append(dict(write.params))
    with writer(engine).begin() as connection:
        for statement, params in rows.items():
            connection.execute(statement, params)
    return made


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
