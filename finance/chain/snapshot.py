"""The chain at one block, as plain values: what the books are held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS
from finance.chain.answers import Log, Receipt, read_logs
from finance.chain.endpoint import Question
from finance.chain.events import TRANSFER_TOPIC, SeenEvent, address_topic, decode_log
from finance.chain.rpc import Rpc, receipt_question
from finance.errors import RpcRefused, RpcUnavailable
from finance.networks import Network
from finance.x402.abi import calldata
from finance.x402.text import parse_address

_PER_CALL = 60
_SPAN = 2000


@dataclass(frozen=True, slots=True)
class ChannelFacts:
    """One channel in BatchSettlement; atoms."""

    balance: int
    total_claimed: int
    withdraw_amount: int
    withdraw_requested_at: int
    refund_nonce: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The chain after `block_number`; `transfers` are USDC into and out of the wallet."""

    block_number: int
    block_hash: str
    usdc: int
    receiver_claimed: int
    receiver_settled: int
    channels: dict[str, ChannelFacts]
    transfers: dict[tuple[str, int], SeenEvent]
    receipts: dict[str, Receipt | None]


async def take_snapshot(
    rpc: Rpc,
    network: Network,
    wallet: str,
    first_block: int,
    last_block: int,
    channel_ids: Sequence[str],
    tx_hashes: Sequence[str],
) -> Snapshot:
    """Read it all as of `last_block`, transfers from `first_block` on.

    Raises ChainError; RpcUnavailable also when the block changed while reading.
    """
    before = await rpc.block(last_block)
    money, channels = await _views(rpc, network, wallet, last_block, channel_ids)
    transfers = await _transfers(rpc, network, wallet, first_block, last_block)
    receipts = await _receipts(rpc, tx_hashes)
    after = await rpc.block(last_block)
    if before is None or before != after:
        raise RpcUnavailable("the chain moved while it was read")
    usdc, claimed, settled = money
    return Snapshot(
        last_block, before.block_hash, usdc, claimed, settled, channels, transfers, receipts
    )


async def _views(
    rpc: Rpc, network: Network, wallet: str, block: int, channel_ids: Sequence[str]
) -> tuple[tuple[int, int, int], dict[str, ChannelFacts]]:
    owner, token = parse_address(wallet), parse_address(network.usdc)
    calls = [
        (network.usdc, calldata("balanceOf", ("address",), owner)),
        (
            BATCH_SETTLEMENT_ADDRESS,
            calldata("receivers", ("address", "address"), owner, token),
        ),
    ]
    for channel_id in channel_ids:
        key = bytes.fromhex(channel_id[2:])
        for view in ("channels", "pendingWithdrawals", "refundNonce"):
            calls.append((BATCH_SETTLEMENT_ADDRESS, calldata(view, ("bytes32",), key)))
    results: list[tuple[bool, bytes]] = []
    for start in range(0, len(calls), _PER_CALL):
        results += await rpc.multicall(calls[start : start + _PER_CALL], block)
    try:
        return _read_views(results, channel_ids)
    except (DecodingError, ValueError) as error:
        raise RpcUnavailable("a view of the contracts answered nonsense") from error


def _read_views(
    results: Sequence[tuple[bool, bytes]], channel_ids: Sequence[str]
) -> tuple[tuple[int, int, int], dict[str, ChannelFacts]]:
    if not all(succeeded for succeeded, _ in results):
        raise ValueError("a view failed")
    data = [each for _, each in results]
    (usdc,) = decode(["uint256"], data[0])
    claimed, settled = decode(["uint128", "uint128"], data[1])
    channels = {}
    for index, channel_id in enumerate(channel_ids):
        state, pending, nonce = data[2 + 3 * index : 5 + 3 * index]
        balance, total = decode(["uint128", "uint128"], state)
        amount, since = decode(["uint128", "uint40"], pending)
        channels[channel_id] = ChannelFacts(
            balance, total, amount, since, decode(["uint256"], nonce)[0]
        )
    return (usdc, claimed, settled), channels


async def _transfers(
    rpc: Rpc, network: Network, wallet: str, first: int, last: int
) -> dict[tuple[str, int], SeenEvent]:
    topic = address_topic(wallet)
    found: dict[tuple[str, int], SeenEvent] = {}
    for topics in ([TRANSFER_TOPIC, topic], [TRANSFER_TOPIC, None, topic]):
        query = {"address": network.usdc, "topics": topics}
        for log in await _logs(rpc, query, first, last):
            event = decode_log(log)
            if event is not None and wallet.lower() in (event.args["from"], event.args["to"]):
                found[event.tx_hash, event.log_index] = event
    return found


async def _logs(rpc: Rpc, query: dict[str, Any], first: int, last: int) -> list[Log]:
    """All logs of a range, in pieces the endpoint takes."""
    logs: list[Log] = []
    span = _SPAN
    while first <= last:
        end = min(last, first + span - 1)
        piece = {**query, "fromBlock": hex(first), "toBlock": hex(end)}
        try:
            logs += await rpc.ask(Question("eth_getLogs", (piece,), read_logs))
        except RpcRefused:
            if span == 1:
                raise
            span = max(1, span // 2)
            continue
        first = end + 1
    return logs


async def _receipts(rpc: Rpc, tx_hashes: Sequence[str]) -> dict[str, Receipt | None]:
    found: dict[str, Receipt | None] = {}
    for start in range(0, len(tx_hashes), _PER_CALL):
        part = tx_hashes[start : start + _PER_CALL]
        answers = await rpc.ask_all([receipt_question(each) for each in part])
        for tx_hash, answer in zip(part, answers, strict=True):
            if isinstance(answer, RpcRefused):
                raise answer
            found[tx_hash] = answer
    return found
