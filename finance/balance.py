"""What a node has: in its wallet, in channels it bought through, not claimed yet."""

from __future__ import annotations

from sqlalchemy import Engine, func, select
from sqlmodel import col

from finance.chain.answers import read_atoms, read_quantity
from finance.chain.endpoint import Question
from finance.chain.rpc import Rpc, block_tag
from finance.errors import RpcRefused
from finance.models import BuyerChannel, ChannelState, SellerChannel
from finance.money import Usdc, Wei
from finance.networks import Network
from finance.x402.abi import calldata
from finance.x402.text import parse_address


async def read_wallet(
    rpc: Rpc, network: Network, wallet: str, block: int | str = "latest"
) -> tuple[Usdc, Wei]:
    """USDC and ETH of an address, from one endpoint in one request."""
    data = calldata("balanceOf", ("address",), parse_address(wallet))
    call = {"to": network.usdc, "data": "0x" + data.hex()}
    tag = block_tag(block)
    answers = await rpc.ask_all(
        [
            Question("eth_call", (call, tag), read_atoms),
            Question("eth_getBalance", (wallet, tag), read_quantity),
        ]
    )
    for answer in answers:
        if isinstance(answer, RpcRefused):
            raise answer
    return Usdc(answers[0]), Wei(answers[1])


def money_in_books(engine: Engine, chain_id: int) -> tuple[int, int]:
    """Atoms deposited with sellers and not charged, and charged to our buyers and not claimed
    on-chain yet; asks no chain (blocking)."""
    left = func.sum(col(BuyerChannel.balance_atoms) - col(BuyerChannel.charged_atoms))
    bought = select(left).where(
        col(BuyerChannel.chain_id) == chain_id,
        col(BuyerChannel.balance_atoms) > col(BuyerChannel.charged_atoms),
        col(BuyerChannel.state) != ChannelState.CLOSED,
    )
    owed = func.sum(
        col(SellerChannel.charged_atoms)
        - col(SellerChannel.streaming_atoms)
        - col(SellerChannel.total_claimed_atoms)
    )
    sold = select(owed).where(
        col(SellerChannel.chain_id) == chain_id,
        col(SellerChannel.charged_atoms) > col(SellerChannel.total_claimed_atoms),
    )
    with engine.connect() as connection:
        return (
            int(connection.execute(bought).scalar() or 0),
            int(connection.execute(sold).scalar() or 0),
        )
