"""The official x402 clients, unchanged, buy from a seller run by `farebox up`.

After every test the seller claims, and the chain, the ledger, the calls and the rollups
must all have earned exactly what the test says, and reconciliation finds no difference.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from eth_account import Account
from x402.extensions.bazaar import (
    ListDiscoveryResourcesParams,
    extract_discovery_info,
    validate_discovery_extension,
    validate_discovery_extension_spec,
    with_bazaar,
)
from x402.extensions.payment_identifier import append_payment_identifier_to_extensions
from x402.http import FacilitatorConfig, HTTPFacilitatorClientSync
from x402.http.clients import PaymentError, x402_requests, x402HttpxClient
from x402.mechanisms.evm.batch_settlement.client import (
    FileChannelStorageOptions,
    FileClientChannelStorage,
    InMemoryClientChannelStorage,
    RefundOptions,
)
from x402.schemas import PaymentPayload

from tests.interop.conftest import Outcome
from tests.interop.official_buyer import (
    FUNDS,
    NETWORK,
    NOBODY,
    batch_scheme,
    client,
    exact_scheme,
    header_of,
    new_account,
    new_contract_signer,
    offer_of,
    plain,
    receipt_of,
    statuses,
    sync_client,
    with_rpc,
)
from tests.interop.seller_node import DEPOSIT, PRICE, SellerNode


@pytest_asyncio.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A client that knows nothing of payments."""
    async with httpx.AsyncClient(timeout=30) as http:
        yield http


def buyer(*schemes: Any) -> x402HttpxClient:
    return x402HttpxClient(client(*schemes), timeout=30)


def channel_of(storage: InMemoryClientChannelStorage) -> str:
    """The one channel a client keeps."""
    (channel_id,) = storage._channels
    return channel_id


# exact


async def test_exact_buys_with_httpx(node: SellerNode, outcome: Outcome) -> None:
    account = new_account(node)
    outcome.earned, outcome.served = 3 * PRICE, 2
    async with buyer(exact_scheme(plain(account))) as http:
        got = await http.get(node.url("echo/hello"), params={"times": 2})
        posted = await http.post(node.url("echo/hello"), json={"text": "hi"})
    assert statuses([got, posted]) == [200, 200]
    assert got.json()["query"] == "times=2"
    assert posted.json()["size"] == len(posted.request.content)
    receipt = receipt_of(got)
    assert receipt.success
    assert receipt.payer == account.address
    assert int(receipt.amount or 0) == PRICE
    assert node.chain.rpc("eth_getTransactionReceipt", receipt.transaction)["status"] == "0x1"
    assert node.usdc(account.address) == FUNDS - 3 * PRICE


def test_exact_buys_with_requests(node: SellerNode, outcome: Outcome) -> None:
    account = new_account(node)
    outcome.earned, outcome.served = 4 * PRICE, 3
    with x402_requests(sync_client(exact_scheme(plain(account)))) as http:
        answers = [http.get(node.url(f"echo/{number}"), timeout=30) for number in range(2)]
        answers.append(http.post(node.url("echo/x"), json={"text": "hi"}, timeout=30))
    assert statuses(answers) == [200] * 3
    assert [receipt_of(each).success for each in answers] == [True] * 3
    assert node.usdc(account.address) == FUNDS - 4 * PRICE


async def test_twenty_exact_buyers_at_once(node: SellerNode, outcome: Outcome) -> None:
    accounts = [new_account(node, PRICE) for _ in range(20)]
    outcome.earned, outcome.served = 20 * PRICE, 20

    async def buy(index: int) -> httpx.Response:
        async with buyer(exact_scheme(plain(accounts[index]))) as http:
            return await http.get(node.url(f"echo/{index}"))

    answers = await asyncio.gather(*(buy(index) for index in range(20)))
    assert statuses(answers) == [200] * 20
    assert [node.usdc(account.address) for account in accounts] == [0] * 20


async def test_one_client_buys_twenty_things_at_once(node: SellerNode, outcome: Outcome) -> None:
    account = new_account(node)
    outcome.earned, outcome.served = 20 * PRICE, 20
    async with buyer(exact_scheme(plain(account))) as http:
        gets = (http.get(node.url(f"echo/{number}")) for number in range(20))
        answers = await asyncio.gather(*gets)
    assert statuses(answers) == [200] * 20
    assert len({receipt_of(answer).transaction for answer in answers}) < 20
    assert node.usdc(account.address) == FUNDS - 20 * PRICE


# batch-settlement


async def test_channel_is_opened_used_and_topped_up(node: SellerNode, outcome: Outcome) -> None:
    account, storage = new_account(node), InMemoryClientChannelStorage()
    outcome.earned, outcome.served = 22 * PRICE, 22
    async with buyer(batch_scheme(plain(account), storage=storage)) as http:
        answers = [await http.get(node.url(f"echo/{number}")) for number in range(22)]
    assert statuses(answers) == [200] * 22
    assert [answer.json()["path"] for answer in answers] == [
        f"/base/echo/{number}" for number in range(22)
    ]
    receipts = [receipt_of(answer) for answer in answers]
    deposits = [index for index, receipt in enumerate(receipts) if receipt.transaction]
    assert deposits == [0, 10, 20]
    charged = [receipt.extra["channelState"]["chargedCumulativeAmount"] for receipt in receipts]
    assert [int(each) for each in charged] == [PRICE * number for number in range(1, 23)]
    assert node.usdc(account.address) == FUNDS - 3 * DEPOSIT
    node.claim()
    assert node.channel(channel_of(storage)) == (3 * DEPOSIT, 22 * PRICE)


def test_channel_is_used_with_requests(node: SellerNode, outcome: Outcome) -> None:
    account = new_account(node)
    outcome.earned, outcome.served = 12 * PRICE, 12
    with x402_requests(sync_client(batch_scheme(plain(account)))) as http:
        answers = [http.get(node.url(f"echo/{number}"), timeout=30) for number in range(12)]
    assert statuses(answers) == [200] * 12
    assert node.usdc(account.address) == FUNDS - 2 * DEPOSIT


async def test_one_channel_buys_at_two_prices(node: SellerNode, outcome: Outcome) -> None:
    account = new_account(node)
    outcome.earned, outcome.served = 4 * (1 + 2) * PRICE, 8
    async with buyer(batch_scheme(plain(account))) as http:
        for _ in range(4):
            assert (await http.get(node.url("echo/a"))).status_code == 200
            assert (await http.post(node.url("echo/a"), json={"text": "b"})).status_code == 200
    # The second deposit is made for ten calls like the one that needed it.
    assert node.usdc(account.address) == FUNDS - DEPOSIT - 2 * DEPOSIT


async def test_small_deposits_are_taken_where_large_ones_are_suggested(
    node: SellerNode, outcome: Outcome
) -> None:
    account = new_account(node)
    outcome.earned, outcome.served = 3 * PRICE, 3
    scheme = batch_scheme(plain(account), deposit_strategy=lambda ask: ask.minimum_deposit_amount)
    async with buyer(scheme) as http:
        answers = [await http.get(node.url("echo/a")) for _ in range(3)]
    assert statuses(answers) == [200] * 3
    assert node.usdc(account.address) == FUNDS - 3 * PRICE


async def test_the_channel_is_preferred(node: SellerNode, outcome: Outcome) -> None:
    signer = plain(new_account(node))
    outcome.earned, outcome.served = PRICE, 1
    async with buyer(exact_scheme(signer), batch_scheme(signer)) as http:
        answer = await http.get(node.url("echo/a"))
    assert receipt_of(answer).extra["chargedAmount"] == str(PRICE)


async def test_vouchers_are_signed_by_another_key(node: SellerNode, outcome: Outcome) -> None:
    account, voucher_key = new_account(node), plain(Account.create())
    outcome.earned, outcome.served = 3 * PRICE, 3
    async with buyer(batch_scheme(plain(account), voucher_signer=voucher_key)) as http:
        answers = [await http.get(node.url("echo/a")) for _ in range(3)]
    assert statuses(answers) == [200] * 3
    assert node.usdc(account.address) == FUNDS - DEPOSIT


async def test_calls_that_overlap_are_charged_when_served(
    node: SellerNode, outcome: Outcome
) -> None:
    """The package signs the same cumulative amount for all of them; one a time is served."""
    account = new_account(node)
    async with buyer(batch_scheme(with_rpc(account, node))) as http:
        answers = [await http.get(node.url("echo/first"))]
        gets = (http.get(node.url(f"echo/{number}")) for number in range(6))
        answers += await asyncio.gather(*gets)
        answers.append(await http.get(node.url("echo/last")))
    served = statuses(answers).count(200)
    assert served >= 3
    assert set(statuses(answers)) <= {200, 402}
    assert answers[-1].status_code == 200
    outcome.earned, outcome.served = served * PRICE, served


# Restarts


async def test_client_that_lost_its_state_goes_on(node: SellerNode, outcome: Outcome) -> None:
    account = new_account(node)
    outcome.earned, outcome.served = 13 * PRICE, 13
    for _ in range(3):
        # What it has spent stands nowhere but in the seller's corrective 402.
        async with buyer(batch_scheme(with_rpc(account, node))) as http:
            for number in range(4):
                answer = await http.get(node.url(f"echo/{number}"))
                assert answer.status_code == 200, answer.text
    assert node.usdc(account.address) == FUNDS - 2 * DEPOSIT
    node.claim()
    async with buyer(batch_scheme(with_rpc(account, node))) as http:
        assert (await http.get(node.url("echo/after"))).status_code == 200
    assert node.usdc(account.address) == FUNDS - 2 * DEPOSIT


async def test_client_that_lost_its_state_and_sees_no_chain_loses_nothing(
    node: SellerNode, outcome: Outcome
) -> None:
    account = new_account(node)
    outcome.earned, outcome.served = 2 * PRICE, 2
    async with buyer(batch_scheme(plain(account))) as http:
        for number in range(2):
            assert (await http.get(node.url(f"echo/{number}"))).status_code == 200
    async with buyer(batch_scheme(plain(account))) as http:
        refused = await http.get(node.url("echo/again"))
    required = offer_of(refused)
    assert required.error == "invalid_batch_settlement_evm_cumulative_amount_mismatch"
    state = required.accepts[0].extra
    assert state["channelState"]["chargedCumulativeAmount"] == str(2 * PRICE)
    assert state["voucherState"]["signedMaxClaimable"] == str(2 * PRICE)
    assert node.usdc(account.address) == FUNDS - DEPOSIT


async def test_client_that_kept_its_state_goes_on(
    node: SellerNode, outcome: Outcome, tmp_path: Path
) -> None:
    account = new_account(node)
    outcome.earned, outcome.served = 12 * PRICE, 12
    for _ in range(3):
        storage = FileClientChannelStorage(FileChannelStorageOptions(directory=str(tmp_path)))
        async with buyer(batch_scheme(plain(account), storage=storage)) as http:
            for number in range(4):
                assert (await http.get(node.url(f"echo/{number}"))).status_code == 200
    assert node.usdc(account.address) == FUNDS - 2 * DEPOSIT


# Refunds


async def test_full_refund_gives_back_what_was_not_spent(
    node: SellerNode, outcome: Outcome
) -> None:
    account = new_account(node)
    scheme = batch_scheme(with_rpc(account, node))
    outcome.earned, outcome.served = 3 * PRICE, 3
    async with buyer(scheme) as http:
        for number in range(2):
            assert (await http.get(node.url(f"echo/{number}"))).status_code == 200
        refund = await asyncio.to_thread(scheme.refund, node.url("echo/0"))
        assert refund.success
        assert int(refund.amount or 0) == DEPOSIT - 2 * PRICE
        assert node.usdc(account.address) == FUNDS - 2 * PRICE
        # The emptied channel is opened again by the next purchase.
        assert (await http.get(node.url("echo/more"))).status_code == 200
    assert node.usdc(account.address) == FUNDS - 2 * PRICE - DEPOSIT


async def test_partial_refund_leaves_the_rest_to_spend(node: SellerNode, outcome: Outcome) -> None:
    account, storage = new_account(node), InMemoryClientChannelStorage()
    scheme = batch_scheme(plain(account), storage=storage)
    outcome.earned, outcome.served = 11 * PRICE, 11
    async with buyer(scheme) as http:
        assert (await http.get(node.url("echo/0"))).status_code == 200
        options = RefundOptions(amount=str(2 * PRICE))
        refund = await asyncio.to_thread(scheme.refund, node.url("echo/0"), options)
        assert refund.success
        assert int(refund.amount or 0) == 2 * PRICE
        assert node.usdc(account.address) == FUNDS - DEPOSIT + 2 * PRICE
        answers = [await http.get(node.url(f"echo/{number}")) for number in range(10)]
    assert statuses(answers) == [200] * 10
    deposits = [bool(receipt_of(answer).transaction) for answer in answers]
    assert deposits == [False] * 7 + [True, False, False]
    assert node.usdc(account.address) == FUNDS - DEPOSIT + 2 * PRICE - DEPOSIT
    node.claim()
    assert node.channel(channel_of(storage)) == (2 * DEPOSIT - 2 * PRICE, 11 * PRICE)


async def test_refund_of_a_spent_channel_is_refused(node: SellerNode, outcome: Outcome) -> None:
    account = new_account(node)
    outcome.earned, outcome.served = 10 * PRICE, 10
    async with buyer(batch_scheme(plain(account))) as http:
        for number in range(10):
            assert (await http.get(node.url(f"echo/{number}"))).status_code == 200
    node.claim()
    stranger = batch_scheme(with_rpc(account, node))
    with pytest.raises(RuntimeError, match="no remaining balance"):
        await asyncio.to_thread(stranger.refund, node.url("echo/0"))
    assert node.usdc(account.address) == FUNDS - DEPOSIT


async def test_refund_of_more_than_is_left_is_refused(node: SellerNode, outcome: Outcome) -> None:
    account = new_account(node)
    scheme = batch_scheme(plain(account))
    outcome.earned, outcome.served = PRICE, 1
    async with buyer(scheme) as http:
        assert (await http.get(node.url("echo/0"))).status_code == 200
    options = RefundOptions(amount=str(FUNDS))
    with pytest.raises(RuntimeError, match="invalid_batch_settlement_evm_refund_no_balance"):
        await asyncio.to_thread(scheme.refund, node.url("echo/0"), options)
    assert node.usdc(account.address) == FUNDS - DEPOSIT


async def test_smart_wallet_gets_its_refund(node: SellerNode, outcome: Outcome) -> None:
    signer = new_contract_signer(node)
    scheme = batch_scheme(signer, payer_authorizer=NOBODY)
    outcome.earned, outcome.served = 2 * PRICE, 2
    async with buyer(scheme) as http:
        for number in range(2):
            assert (await http.get(node.url(f"echo/{number}"))).status_code == 200
    refund = await asyncio.to_thread(scheme.refund, node.url("echo/0"))
    assert refund.success
    assert node.usdc(signer.address) == FUNDS - 2 * PRICE


async def test_client_that_lost_its_state_gets_its_refund(
    node: SellerNode, outcome: Outcome
) -> None:
    account = new_account(node)
    outcome.earned, outcome.served = 2 * PRICE, 2
    async with buyer(batch_scheme(plain(account))) as http:
        for number in range(2):
            assert (await http.get(node.url(f"echo/{number}"))).status_code == 200
    reborn = batch_scheme(with_rpc(account, node))
    refund = await asyncio.to_thread(reborn.refund, node.url("echo/0"))
    assert refund.success
    assert node.usdc(account.address) == FUNDS - 2 * PRICE


# Smart wallets


async def test_smart_wallet_buys_with_exact(node: SellerNode, outcome: Outcome) -> None:
    signer = new_contract_signer(node)
    outcome.earned, outcome.served = 2 * PRICE, 2
    async with buyer(exact_scheme(signer)) as http:
        answers = [await http.get(node.url(f"echo/{number}")) for number in range(2)]
    assert statuses(answers) == [200] * 2
    assert node.usdc(signer.address) == FUNDS - 2 * PRICE


async def test_smart_wallet_signs_its_own_vouchers(node: SellerNode, outcome: Outcome) -> None:
    signer = new_contract_signer(node)
    outcome.earned, outcome.served = 12 * PRICE, 12
    async with buyer(batch_scheme(signer, payer_authorizer=NOBODY)) as http:
        answers = [await http.get(node.url(f"echo/{number}")) for number in range(12)]
    assert statuses(answers) == [200] * 12
    assert node.usdc(signer.address) == FUNDS - 2 * DEPOSIT


async def test_smart_wallet_gives_its_vouchers_to_a_key(node: SellerNode, outcome: Outcome) -> None:
    signer = new_contract_signer(node)
    outcome.earned, outcome.served = 3 * PRICE, 3
    async with buyer(batch_scheme(signer, voucher_signer=plain(Account.create()))) as http:
        answers = [await http.get(node.url(f"echo/{number}")) for number in range(3)]
    assert statuses(answers) == [200] * 3
    assert node.usdc(signer.address) == FUNDS - DEPOSIT


async def test_smart_wallet_is_not_paid_for_by_a_stranger(
    node: SellerNode, outcome: Outcome
) -> None:
    signer, storage = new_contract_signer(node), InMemoryClientChannelStorage()
    outcome.earned, outcome.served = PRICE, 1
    async with buyer(batch_scheme(signer, payer_authorizer=NOBODY, storage=storage)) as http:
        assert (await http.get(node.url("echo/a"))).status_code == 200
    signer._account = Account.create()
    async with buyer(batch_scheme(signer, payer_authorizer=NOBODY, storage=storage)) as http:
        forged = await http.get(node.url("echo/b"))
    assert offer_of(forged).error == "invalid_batch_settlement_evm_voucher_signature"
    async with buyer(exact_scheme(signer)) as http:
        forged = await http.get(node.url("echo/b"))
    assert offer_of(forged).error == "invalid_exact_evm_payload_signature"
    assert node.usdc(signer.address) == FUNDS - DEPOSIT


# What is not delivered, and what is large


@pytest.mark.parametrize("scheme", [exact_scheme, batch_scheme])
async def test_failed_calls_cost_nothing(node: SellerNode, outcome: Outcome, scheme: Any) -> None:
    account = new_account(node)
    outcome.earned, outcome.served = 2 * PRICE, 6
    async with buyer(scheme(plain(account))) as http:
        answers = [
            await http.get(node.url(path))
            for path in ("status/500", "status/404", "echo/a", "redirect", "status/503", "echo/b")
        ]
    assert statuses(answers) == [500, 404, 200, 302, 503, 200]
    spent = DEPOSIT if scheme is batch_scheme else 2 * PRICE
    assert node.usdc(account.address) == FUNDS - spent


@pytest.mark.parametrize("scheme", [exact_scheme, batch_scheme])
async def test_large_answers_arrive_whole(node: SellerNode, outcome: Outcome, scheme: Any) -> None:
    outcome.earned, outcome.served = 3 * PRICE, 3
    async with buyer(scheme(plain(new_account(node)))) as http:
        answers = [await http.get(node.url(f"stream/{count}/10000")) for count in (1, 300, 2)]
    assert statuses(answers) == [200] * 3
    assert [len(answer.content) for answer in answers] == [10_000, 3_000_000, 20_000]


# Refusals


async def test_payer_without_enough_money_is_told_so(node: SellerNode, outcome: Outcome) -> None:
    account = new_account(node, PRICE - 1)
    async with buyer(exact_scheme(plain(account))) as http:
        refused = await http.get(node.url("echo/a"))
    assert offer_of(refused).error == "invalid_exact_evm_insufficient_balance"
    async with buyer(batch_scheme(plain(account))) as http:
        refused = await http.get(node.url("echo/a"))
    assert offer_of(refused).error == "invalid_batch_settlement_evm_insufficient_balance"
    assert node.usdc(account.address) == PRICE - 1


@pytest.mark.parametrize(
    ("scheme", "error"),
    [
        (exact_scheme, "invalid_exact_evm_payload_authorization_valid_before"),
        (batch_scheme, "invalid_batch_settlement_evm_payload_authorization_valid_before"),
    ],
)
async def test_expired_authorization_is_refused(
    node: SellerNode, outcome: Outcome, http: httpx.AsyncClient, scheme: Any, error: str
) -> None:
    account = new_account(node)
    made = scheme(plain(account))
    required = offer_of(await http.get(node.url("echo/a")))
    (terms,) = (each for each in required.accepts if each.scheme == made.scheme)
    late = terms.model_copy(update={"max_timeout_seconds": -60})
    payload = PaymentPayload(payload=made.create_payment_payload(late), accepted=terms)
    refused = await http.get(node.url("echo/a"), headers=header_of(payload))
    assert offer_of(refused).error == error
    assert node.usdc(account.address) == FUNDS


async def test_payment_for_another_chain_is_refused(
    node: SellerNode, outcome: Outcome, http: httpx.AsyncClient
) -> None:
    account = new_account(node)
    required = offer_of(await http.get(node.url("echo/a")))
    for made, error in (
        (exact_scheme(plain(account)), "network_mismatch"),
        (batch_scheme(plain(account)), "invalid_batch_settlement_evm_network_mismatch"),
    ):
        (terms,) = (each for each in required.accepts if each.scheme == made.scheme)
        other = terms.model_copy(update={"network": "eip155:8453"})
        payload = PaymentPayload(payload=made.create_payment_payload(other), accepted=other)
        refused = await http.get(node.url("echo/a"), headers=header_of(payload))
        assert offer_of(refused).error == error
        # Signed for the other chain, but said to be for ours.
        payload = PaymentPayload(payload=made.create_payment_payload(other), accepted=terms)
        refused = await http.get(node.url("echo/a"), headers=header_of(payload))
        assert refused.status_code == 402
    assert node.usdc(account.address) == FUNDS


async def test_client_of_another_chain_does_not_pay(node: SellerNode, outcome: Outcome) -> None:
    scheme = exact_scheme(plain(new_account(node)))
    async with x402HttpxClient(client(scheme, network="eip155:8453")) as http:
        with pytest.raises(PaymentError):
            await http.get(node.url("echo/a"))


# Extensions


def identified(
    made: Any, required: Any, scheme: str, payment_id: str, check: bool = True
) -> PaymentPayload:
    """A payment with an identifier, made as the package's documentation shows."""
    (terms,) = (each for each in required.accepts if each.scheme == scheme)
    extensions = dict(required.extensions)
    append_payment_identifier_to_extensions(extensions, payment_id if check else "x" * 16)
    extensions["payment-identifier"]["info"]["id"] = payment_id
    return PaymentPayload(
        payload=made.create_payment_payload(terms),
        accepted=terms,
        resource=required.resource,
        extensions=extensions,
    )


@pytest.mark.parametrize("scheme", [exact_scheme, batch_scheme])
async def test_same_identifier_and_payment_is_the_same_purchase(
    node: SellerNode, outcome: Outcome, http: httpx.AsyncClient, scheme: Any
) -> None:
    account = new_account(node)
    made, name = scheme(plain(account)), f"purchase-{time.time_ns()}"
    outcome.earned, outcome.served = PRICE, 1
    required = offer_of(await http.get(node.url("echo/a")))
    headers = header_of(identified(made, required, made.scheme, name))
    answers = [await http.get(node.url("echo/a"), headers=headers) for _ in range(3)]
    answers += await asyncio.gather(*(http.get(node.url("echo/a"), headers=headers),) * 2)
    assert set(statuses(answers[:3])) == {200}
    # Those that meet each other may be told to come again.
    assert set(statuses(answers[3:])) <= {200, 409}
    bodies = {answer.content for answer in answers if answer.status_code == 200}
    receipts = {answer.headers["PAYMENT-RESPONSE"] for answer in answers[:3]}
    assert (len(bodies), len(receipts)) == (1, 1)
    other = header_of(identified(scheme(plain(account)), required, made.scheme, name))
    if other == headers:  # the package signs the same voucher for the same amount
        pytest.fail("the second payment was to be another one")
    conflict = await http.get(node.url("echo/a"), headers=other)
    assert conflict.status_code == 409
    assert conflict.json()["code"] == "payment_identifier_conflict"
    elsewhere = await http.get(node.url("echo/b"), headers=headers)
    assert elsewhere.status_code == 409


async def test_same_identifier_and_voucher_is_the_same_purchase(
    node: SellerNode, outcome: Outcome, http: httpx.AsyncClient
) -> None:
    account, storage = new_account(node), InMemoryClientChannelStorage()
    scheme = batch_scheme(plain(account), storage=storage)
    outcome.earned, outcome.served = 2 * PRICE, 2
    async with buyer(scheme) as paying:
        assert (await paying.get(node.url("echo/open"))).status_code == 200
    required, name = offer_of(await http.get(node.url("echo/a"))), f"voucher-{time.time_ns()}"
    headers = header_of(identified(scheme, required, "batch-settlement", name))
    first, second = [await http.get(node.url("echo/a"), headers=headers) for _ in range(2)]
    assert statuses([first, second]) == [200, 200]
    assert first.headers["PAYMENT-RESPONSE"] == second.headers["PAYMENT-RESPONSE"]
    assert first.headers["farebox-call-id"] == second.headers["farebox-call-id"]
    context = storage.get(channel_of(storage))
    assert context is not None
    context.charged_cumulative_amount = str(2 * PRICE)
    storage.set(channel_of(storage), context)
    other = header_of(identified(scheme, required, "batch-settlement", name))
    conflict = await http.get(node.url("echo/a"), headers=other)
    assert conflict.status_code == 409


async def test_identifier_that_is_too_short_is_refused(
    node: SellerNode, outcome: Outcome, http: httpx.AsyncClient
) -> None:
    made = exact_scheme(plain(new_account(node)))
    required = offer_of(await http.get(node.url("echo/a")))
    payload = identified(made, required, "exact", "short", check=False)
    refused = await http.get(node.url("echo/a"), headers=header_of(payload))
    assert offer_of(refused).error == "invalid_payment_identifier"


async def test_how_to_call_is_declared_as_the_package_wants_it(
    node: SellerNode, outcome: Outcome, http: httpx.AsyncClient
) -> None:
    for method in ("GET", "POST"):
        required = offer_of(await http.request(method, node.url("echo/a")))
        bazaar = required.extensions["bazaar"]
        for validate in (validate_discovery_extension, validate_discovery_extension_spec):
            checked = validate(bazaar)
            assert checked.valid, checked.errors
        terms = required.accepts[0]
        payload = PaymentPayload(
            payload={}, accepted=terms, resource=required.resource, extensions=required.extensions
        )
        found = extract_discovery_info(payload, terms)
        assert found is not None
        assert found.method == method
        assert found.resource_url.startswith(f"{node.gateway_url}/v1/")


def test_catalog_is_read_by_the_package(node: SellerNode, outcome: Outcome) -> None:
    with with_bazaar(HTTPFacilitatorClientSync(FacilitatorConfig(url=node.gateway_url))) as shop:
        everything = shop.extensions.bazaar.list_resources()
        exact = ListDiscoveryResourcesParams(
            type="http", scheme="exact", network=NETWORK, extensions="bazaar", limit=1
        )
        page = shop.extensions.bazaar.list_resources(exact)
        elsewhere = ListDiscoveryResourcesParams(network="eip155:8453")
        none = shop.extensions.bazaar.list_resources(elsewhere)
    assert everything.x402_version == 2
    assert everything.pagination.total == len(everything.items) > 0
    assert (len(page.items), page.pagination.limit) == (1, 1)
    assert none.items == []
    for item in everything.items:
        assert item.service_name == "Echo API"
        assert item.tags == ["echo"]
        assert [entry["scheme"] for entry in item.accepts or []] == ["batch-settlement", "exact"]
        if "bazaar" in (item.extensions or {}):
            assert validate_discovery_extension((item.extensions or {})["bazaar"]).valid


# Runs last: the shop after all of the above.


def test_books_equal_the_chain_after_all_of_it(node: SellerNode, outcome: Outcome) -> None:
    found = node.farebox("reconcile")
    assert found["balanced"]
    assert found["open"] == []
    assert node.usdc() == node.number("SELECT SUM(amount) FROM ledger_entry WHERE account='wallet'")
