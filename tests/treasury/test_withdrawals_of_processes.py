"""Withdrawals of several processes on one PostgreSQL, from one wallet."""

from __future__ import annotations

import asyncio
from pathlib import Path

from finance.errors import WithdrawalRefused
from finance.operations import Token
from tests.chain_fixtures import DevchainProcess
from tests.treasury.test_withdrawals import mined, receiver
from tests.treasury.wallet_world import ETHER, WalletWorld

_SLOW = (
    "CREATE FUNCTION slow() RETURNS trigger AS"
    " 'BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END' LANGUAGE plpgsql",
    "CREATE TRIGGER slow AFTER INSERT ON withdrawal EXECUTE FUNCTION slow()",
)


async def test_two_at_one_moment_never_take_more_than_there_is(
    chain: DevchainProcess, tmp_path: Path, postgres_url: str
) -> None:
    """The second could never be mined, and would hold back all that comes after it."""
    to = receiver()
    async with WalletWorld(chain, tmp_path, database_url=postgres_url) as one:
        with one.engine.begin() as connection:
            for statement in _SLOW:
                connection.exec_driver_sql(statement)
        async with WalletWorld(chain, tmp_path, one.wallet, database_url=postgres_url) as other:
            chain.rpc("evm_setAutomine", False)
            try:
                made = await asyncio.gather(
                    one.withdraw(Token.ETH, 6 * ETHER, to),
                    other.withdraw(Token.ETH, 6 * ETHER, to),
                    return_exceptions=True,
                )
            finally:
                chain.rpc("evm_setAutomine", True)
                chain.rpc("evm_mine")
            refused = [each for each in made if isinstance(each, WithdrawalRefused)]
            assert refused, made
            for each in made:
                if not isinstance(each, BaseException):
                    await mined(one, each)  # else its money counts as being on its way
            await mined(one, await one.withdraw(Token.ETH, ETHER, to))
            assert one.eth_of(to) == ETHER * (1 + 6 * (2 - len(refused)))
