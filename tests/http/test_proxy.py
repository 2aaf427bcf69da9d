"""What a buyer's app gets from the proxy, and what its operator never loses."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace

from finance.x402.values import Payment, Receipt
from tests.chain_fixtures import DevchainProcess
from tests.http.proxy_world import NETWORK, SECRET, BuyerNode, buying, left_open, served
from tests.http.scripted_seller import Behave, ScriptedSeller, charge, charges_and_hangs, honest

PRICE = 1000


@pytest.fixture
def node(tmp_path: Path, chain: DevchainProcess) -> Iterator[BuyerNode]:
    node = BuyerNode(tmp_path, chain)
    yield node
    node.check_books()


async def test_a_call_without_the_secret_is_401_and_asks_for_a_bearer(node: BuyerNode) -> None:
    async with node.running() as proxy:
        answer = await proxy.client.get(f"{proxy.base}/call/x/y")
        missing = await proxy.call("x/y")
    assert (answer.status_code, missing.status_code) == (401, 404)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert missing.json()["code"] == "no_such_listing"


async def test_the_secret_and_cookies_never_reach_a_seller_and_its_cookies_not_us(
    node: BuyerNode,
) -> None:
    seller = ScriptedSeller("exact")
    async with buying(node, seller) as proxy:
        headers = {"cookie": "session=1", "farebox-x": "1", "x-own": "kept"}
        answer = await proxy.call("x/y", headers=headers)
    assert answer.status_code == 200
    for _, _, seen in seller.requests:
        assert seen[b"x-own"] == b"kept"
        assert not {b"authorization", b"cookie", b"farebox-x"} & set(seen)
    assert "set-cookie" not in answer.headers
    assert "payment-response" in answer.headers


async def test_an_address_of_any_script_is_called(node: BuyerNode) -> None:
    seller = ScriptedSeller("exact")
    async with served(seller) as base:
        node.list("x", f"{base}/straße")
        async with node.running() as proxy:
            answers = [await proxy.call("x"), await proxy.call("x/y")]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert {path for _, path, _ in seller.requests} == {"/straße", "/straße/y"}


async def test_headers_of_one_line_end_here_however_many_list_them(node: BuyerNode) -> None:
    seller = ScriptedSeller("exact")
    listed = [("connection", "x-one"), ("connection", "keep-alive, x-two")]
    headers = httpx.Headers([*listed, ("x-one", "1"), ("x-two", "2"), ("x-own", "kept")])
    headers["authorization"] = f"Bearer {SECRET}"
    async with buying(node, seller) as proxy:
        answer = await proxy.client.get(f"{proxy.base}/call/x/y", headers=headers)
    assert answer.status_code == 200
    for _, _, seen in seller.requests:
        assert seen[b"x-own"] == b"kept" and not {b"x-one", b"x-two"} & set(seen)


@pytest.mark.parametrize("scope", ["call", "listing", "key", "day"])
async def test_nothing_is_signed_above_a_limit_and_the_402_says_which(
    node: BuyerNode, scope: str
) -> None:
    seller = ScriptedSeller("exact")
    allowed = 0 if scope == "call" else 2
    node.limit(scope, PRICE - 1 if scope == "call" else 2 * PRICE + 999)
    async with served(seller) as base:
        node.list("x", base)
        async with node.running() as proxy:
            answers = await asyncio.gather(*(proxy.call("x/y") for _ in range(8)))
        # The counters are on disk: a restart forgets nothing.
        async with node.running() as proxy:
            answers.append(await proxy.call("x/y"))
    refused = [answer for answer in answers if answer.status_code == 402]
    assert len(refused) == 9 - allowed
    assert len(seller.seen) == allowed
    assert "payment-required" not in refused[0].headers
    assert refused[0].json()["code"] == f"limit_exceeded_{scope}"
    assert refused[0].json()["asked_atoms"] == PRICE


async def test_a_deposit_is_never_larger_than_its_limit(node: BuyerNode) -> None:
    seller = ScriptedSeller()
    node.limit("deposit", PRICE - 1)
    async with buying(node, seller) as proxy:
        answer = await proxy.call("x/y")
    assert answer.json()["code"] == "limit_exceeded_deposit"
    assert seller.seen == []


async def test_known_terms_cost_one_round_trip(node: BuyerNode) -> None:
    seller = ScriptedSeller("exact")
    async with buying(node, seller) as proxy:
        for _ in range(4):
            assert (await proxy.call("x/y")).status_code == 200
    assert len(seller.requests) == 5


async def test_a_raised_price_is_paid_within_limits_and_never_above(node: BuyerNode) -> None:
    seller = ScriptedSeller()
    node.limit("call", 2000)
    async with buying(node, seller) as proxy:
        assert (await proxy.call("x/y")).headers["farebox-cost"] == "0.001"
        seller.price = 2000
        assert (await proxy.call("x/y")).headers["farebox-cost"] == "0.002"
        seller.price = 2001
        assert (await proxy.call("x/y")).json()["code"] == "limit_exceeded_call"
    assert sum(row.charged_atoms for row in node.channels) == 3000


@pytest.mark.parametrize("scheme", ["exact", "batch-settlement"])
async def test_a_seller_that_could_not_move_the_money_is_quoted(
    node: BuyerNode, scheme: str
) -> None:
    """It offers nothing anew then, as the official middlewares do."""
    seller = ScriptedSeller(scheme)
    seller.offers_anew = False

    async def cannot_settle(_: ScriptedSeller, __: Payment) -> tuple[int, Receipt | None]:
        return 402, Receipt(False, "", NETWORK.caip2, error_reason="transaction_failed")

    async with buying(node, seller) as proxy:
        seller.behave = cannot_settle
        refused = await proxy.call("x/y")
        seller.behave = honest
        assert (await proxy.call("x/y")).status_code == 200
    assert (refused.status_code, refused.json()["code"]) == (402, "payment_refused")
    assert refused.json()["reason"] == "transaction_failed"
    assert len(seller.requests) == 3  # the terms are known still


async def test_an_error_answer_costs_nothing_and_the_same_voucher_goes_again(
    node: BuyerNode,
) -> None:
    seller = ScriptedSeller()

    async def fails(_: ScriptedSeller, __: Payment) -> tuple[int, Receipt | None]:
        return 500, None

    async with buying(node, seller) as proxy:
        seller.behave = fails
        failed = await proxy.call("x/y")
        seller.behave = honest
        served_after = await proxy.call("x/y")
    assert (failed.status_code, failed.headers["farebox-cost"]) == (500, "0")
    assert served_after.status_code == 200
    assert len(set(seller.seen)) == 1 or seller.charged.popitem()[1] == PRICE
    assert node.counted("day") == PRICE
    assert sorted(row.state for row in node.purchases) == ["failed", "paid"]


async def test_a_seller_whose_receipt_does_not_add_up_is_paid_no_more(node: BuyerNode) -> None:
    seller = ScriptedSeller()

    async def lies(this: ScriptedSeller, payment: Payment) -> tuple[int, Receipt | None]:
        return 200, charge(this, payment, atoms=PRICE + 1)

    async with buying(node, seller) as proxy:
        seller.behave = lies
        await proxy.call("x/y")
        await proxy.call("x/y")
    assert [row.state for row in node.channels] == ["stopped", "stopped"]
    assert [row.signed_atoms for row in node.channels] == [PRICE, PRICE]
    assert {event.type for event in node.events} == {"channel_stopped"}


NUL = "x\0y"  # which PostgreSQL has in no text


async def _says_nonsense(seller: ScriptedSeller, payment: Payment) -> tuple[int, Receipt | None]:
    return 200, replace(charge(seller, payment), transaction=NUL)


async def _refuses_with_nonsense(
    seller: ScriptedSeller, payment: Payment
) -> tuple[int, Receipt | None]:
    return 402, Receipt(False, "", NETWORK.caip2, error_reason=NUL)


async def _fails_with_nonsense(
    seller: ScriptedSeller, payment: Payment
) -> tuple[int, Receipt | None]:
    seller.error = NUL
    return 402, None


@pytest.mark.parametrize(
    ("behave", "status", "state", "channel"),
    [
        (_says_nonsense, 200, "unknown", "stopped"),
        (_refuses_with_nonsense, 402, "refused", "opening"),
        (_fails_with_nonsense, 402, "refused", "opening"),
    ],
)
async def test_what_no_database_can_write_is_booked_all_the_same(
    tmp_path: Path,
    chain: DevchainProcess,
    database_url: str,
    behave: Behave,
    status: int,
    state: str,
    channel: str,
) -> None:
    node, seller = BuyerNode(tmp_path, chain, url=database_url), ScriptedSeller()
    async with buying(node, seller) as proxy:
        assert (await proxy.call("x/y")).status_code == 200
        seller.behave = behave
        assert (await proxy.call("x/z")).status_code == status
    assert [row.state for row in node.purchases] == ["paid", state]
    assert [row.state for row in node.channels] == [channel]
    node.check_books()


async def test_a_charge_whose_answer_was_lost_is_booked_once_and_not_paid_twice(
    node: BuyerNode,
) -> None:
    seller = ScriptedSeller()
    async with served(seller) as base:
        node.list("x", base)
        async with node.running(answer_seconds=2.0) as proxy:
            seller.behave = charges_and_hangs
            lost = await proxy.call("x/y")
            seller.hang.set()
            seller.behave = honest
        # Also after a restart: the corrective 402 shows our own voucher.
        async with node.running() as proxy:
            answer = await proxy.call("x/y")
    assert (lost.status_code, answer.status_code) == (504, 200)
    assert lost.json()["code"] == "seller_timeout"
    (channel,) = node.channels
    assert channel.charged_atoms == 2 * PRICE == sum(seller.charged.values())
    assert sorted(row.state for row in node.purchases) == ["paid", "paid", "refused"]


async def test_an_idempotency_key_buys_once_also_after_a_restart(node: BuyerNode) -> None:
    seller = ScriptedSeller("exact")
    async with served(seller) as base:
        node.list("x", base)
        async with node.running() as proxy:
            at_once = await asyncio.gather(*(proxy.call("x/y", key="k") for _ in range(5)))
        async with node.running() as proxy:
            again = await proxy.call("x/y", key="k")
            other = await proxy.call("x/z", key="k")
    codes = sorted(answer.status_code for answer in at_once)
    assert codes[0] == 200
    assert set(codes[1:]) <= {200, 409}
    assert again.status_code == 200
    assert again.json() == {"served": True}
    assert again.headers["farebox-replayed"] == "true"
    assert other.status_code == 409
    assert other.json()["code"] == "idempotency_key_reused"
    assert len(seller.seen) == 1


async def test_a_retry_with_the_same_key_sends_the_same_signature(node: BuyerNode) -> None:
    seller = ScriptedSeller("exact")

    async with served(seller) as base:
        node.list("x", base)
        async with node.running(answer_seconds=2.0) as proxy:
            await left_open(proxy, seller, "x/y", "k")
        async with node.running() as proxy:
            assert (await proxy.call("x/y", key="k")).status_code == 200
    assert len(seller.seen) == 2
    assert len(set(seller.seen)) == 1
    assert node.counted("day") == PRICE


async def test_a_seller_that_cannot_be_reached_costs_nothing(node: BuyerNode) -> None:
    seller = ScriptedSeller("exact")
    async with node.running() as proxy:
        async with served(seller) as base:
            node.list("x", base)
            await proxy.proxy.reload()
            assert (await proxy.call("x/y")).status_code == 200
        await asyncio.sleep(0.1)
        answer = await proxy.call("x/y")
    assert answer.status_code in (502, 504)
    if answer.json()["code"] == "seller_unreachable":
        assert node.counted("day") == PRICE


async def test_an_answer_has_one_date(tmp_path: Path, chain: DevchainProcess) -> None:
    """Ours; two contradict each other wherever age is reckoned."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller("exact")
    async with buying(node, seller) as proxy:
        answer = await proxy.call("x/y")
    assert answer.status_code == 200
    assert len(answer.headers.get_list("date")) == 1
