"""What is believed of RPC endpoints, and what is asked elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from finance.chain.rpc import Rpc
from finance.errors import CallReverted, RpcRefused, RpcUnavailable
from tests.chain_fixtures import DevchainProcess
from tests.recovery.faulty_rpc import Fault, FaultyRpc
from tests.recovery.sender_world import transfer

_DEAD = "http://127.0.0.1:1"


@pytest.fixture
async def proxy(chain: DevchainProcess) -> AsyncIterator[FaultyRpc]:
    async with FaultyRpc(chain.rpc_url) as server:
        yield server


@pytest.mark.parametrize("fault", list(Fault))
async def test_the_next_endpoint_answers_when_one_fails(
    chain: DevchainProcess, proxy: FaultyRpc, fault: Fault
) -> None:
    proxy.faults["*"] = fault
    async with Rpc([proxy.url, chain.rpc_url], chain.chain_id, 3) as rpc:
        assert await rpc.chain_id() == chain.chain_id
        asked = len(proxy.seen)
        assert await rpc.block_number() >= 0
        # The failed one rests: the second question does not wait for it.
        assert len(proxy.seen) == asked > 0


@pytest.mark.parametrize("status", [401, 402, 403, 404, 429, 502, 503, 504])
async def test_the_next_endpoint_answers_when_one_serves_us_no_longer(
    chain: DevchainProcess, proxy: FaultyRpc, status: int
) -> None:
    """Its key has expired, its quota is used up, or nothing is behind it: it says so in JSON-RPC,
    to every question."""
    async with Rpc([proxy.url, chain.rpc_url], chain.chain_id) as rpc:
        await rpc.block_number()
        proxy.status = status
        assert await rpc.block_number() >= 0
        height, chain_id = await rpc.batch([("eth_blockNumber", ()), ("eth_chainId", ())])
        assert int(height, 16) >= 0 and int(chain_id, 16) == chain.chain_id
    async with Rpc([proxy.url], chain.chain_id) as rpc:
        with pytest.raises(RpcUnavailable):
            await rpc.block_number()


@pytest.mark.parametrize("code", [-32601, -32004, -32002])
async def test_the_next_endpoint_answers_what_one_does_not_offer(
    chain: DevchainProcess, proxy: FaultyRpc, code: int
) -> None:
    """A method that it does not have, or did not get done: else nothing would ever be booked."""
    proxy.code, proxy.refusals = code, {"eth_getLogs": ["not here"] * 9}
    query = {"address": chain.usdc, "fromBlock": "0x0", "toBlock": "0x0"}
    async with Rpc([proxy.url, chain.rpc_url], chain.chain_id) as rpc:
        assert await rpc.logs(query) == ()
    async with Rpc([proxy.url], chain.chain_id) as rpc:
        with pytest.raises(RpcRefused, match="not here"):
            await rpc.logs(query)


async def test_no_endpoint_means_unknown_not_no(proxy: FaultyRpc, chain: DevchainProcess) -> None:
    proxy.faults["*"] = Fault.HANG
    async with Rpc([_DEAD, proxy.url], chain.chain_id, 0.3) as rpc:
        with pytest.raises(RpcUnavailable):
            await rpc.receipt("0x" + "11" * 32)


async def test_an_endpoint_of_another_chain_is_never_asked_anything_else(
    chain: DevchainProcess, proxy: FaultyRpc
) -> None:
    proxy.answers["eth_chainId"] = lambda call, result: "0x1"
    async with Rpc([proxy.url, chain.rpc_url], chain.chain_id) as rpc:
        await rpc.balance(chain.addresses[0])
    assert set(proxy.seen) == {"eth_chainId"}
    async with Rpc([proxy.url], chain.chain_id) as rpc:
        with pytest.raises(RpcUnavailable, match="serves chain 1"):
            await rpc.balance(chain.addresses[0])


@pytest.mark.parametrize("nonsense", [None, 7, "7", "0x", "0xzz", [], {"a": 1}, "0x" + "f" * 80])
async def test_an_answer_that_cannot_be_one_counts_as_none(
    chain: DevchainProcess, proxy: FaultyRpc, nonsense: Any
) -> None:
    proxy.answers["eth_getBalance"] = lambda call, result: nonsense
    async with Rpc([proxy.url], chain.chain_id) as rpc:
        with pytest.raises(RpcUnavailable):
            await rpc.balance(chain.addresses[0])
    async with Rpc([proxy.url, chain.rpc_url], chain.chain_id) as rpc:
        assert await rpc.balance(chain.addresses[0]) > 0


async def test_a_refusing_contract_says_why(chain: DevchainProcess) -> None:
    async with Rpc([chain.rpc_url], chain.chain_id) as rpc:
        with pytest.raises(CallReverted, match="transfer amount exceeds balance"):
            await rpc.eth_call(
                chain.usdc, transfer(chain.addresses[1], 10**15), sender=chain.addresses[0]
            )


async def test_a_batch_keeps_the_order_and_each_ones_refusal(chain: DevchainProcess) -> None:
    async with Rpc([chain.rpc_url], chain.chain_id) as rpc:
        answers = await rpc.batch([("eth_chainId", ()), ("eth_nothing", ()), ("eth_chainId", ())])
    assert answers[0] == answers[2] == hex(chain.chain_id)
    assert isinstance(answers[1], RpcRefused)


async def test_many_reads_of_one_block_are_one_request(
    chain: DevchainProcess, proxy: FaultyRpc
) -> None:
    data = bytes.fromhex("70a08231") + bytes(12) + bytes.fromhex(chain.addresses[0][2:])
    async with Rpc([proxy.url], chain.chain_id) as rpc:
        results = await rpc.multicall([(chain.usdc, data), (chain.usdc, b"none")])
    assert results[0] == (True, (10**12).to_bytes(32, "big"))
    assert not results[1][0]
    assert proxy.seen == ["eth_chainId", "eth_call"]


async def test_access_keys_in_addresses_never_reach_an_error(chain: DevchainProcess) -> None:
    async with Rpc([f"{_DEAD}/v2/SECRET?key=SECRET"], chain.chain_id) as rpc:
        with pytest.raises(RpcUnavailable) as caught:
            await rpc.block_number()
    assert "SECRET" not in str(caught.value)


async def test_a_broadcast_tells_certain_refusals_from_doubt(
    chain: DevchainProcess, proxy: FaultyRpc
) -> None:
    async with Rpc([_DEAD], chain.chain_id) as rpc:
        assert not (await rpc.broadcast(b"\x02")).uncertain
    proxy.faults["eth_sendRawTransaction"] = Fault.HTML
    async with Rpc([proxy.url], chain.chain_id) as rpc:
        assert (await rpc.broadcast(b"\x02")).uncertain
    async with Rpc([chain.rpc_url], chain.chain_id) as rpc:
        result = await rpc.broadcast(b"\x02")
        assert (result.accepted, result.uncertain, len(result.refusals)) == (False, False, 1)
