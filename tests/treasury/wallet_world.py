"""A node's wallet on a real chain: what it holds, sends and receives."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from sqlalchemy import text

from finance.chain.fees import GasCaps
from finance.chain.rpc import Rpc
from finance.chain.sender import Sender
from finance.chain.watcher import Watcher
from finance.networks import NETWORKS
from finance.operations import Token
from finance.reconcile import reconcile
from finance.wallet.signer import Signer
from finance.withdrawals import Requester, Withdrawals, WithdrawalView
from node.db.engine import open_engine
from node.db.journal import Journal
from node.db.migrations import upgrade
from tests.chain_fixtures import ChainProcess
from tests.recovery.market_world import transfer
from tests.recovery.seller_world import usdc_of

NETWORK = NETWORKS["devnet"]
SOMEBODY = "0x" + "ab" * 20
ANN = Requester("u1", "Ann")
ETHER = 10**18


class WalletWorld:
    """One wallet with 10 ETH and 5 USDC that came by transfer; restart it with a new one
    over the same folder and `wallet`."""

    def __init__(
        self,
        chain: ChainProcess,
        folder: Path,
        wallet: Signer | None = None,
        rpc_url: str | None = None,
        atoms: int = 5_000_000,
        database_url: str = "",
    ) -> None:
        self.chain, self.folder = chain, folder
        self.fresh = wallet is None
        self.wallet = wallet or Signer.random()
        self.rpc_url = rpc_url or chain.rpc_url
        self.atoms = atoms
        self.database_url = database_url or f"sqlite:///{folder / 'farebox.db'}"

    async def __aenter__(self) -> Self:
        if self.fresh:
            self.set_eth(10 * ETHER)
        self.engine = open_engine(self.database_url)
        upgrade(self.engine)
        self.store = Journal(self.engine)
        self.rpc = Rpc([self.rpc_url], NETWORK.chain_id)
        caps = GasCaps.default(NETWORK)
        self.sender = Sender(self.rpc, self.wallet, NETWORK, self.store, caps)
        self.withdrawals = Withdrawals(self.store, self.sender, self.rpc, NETWORK)
        self.watcher = Watcher(self.rpc, self.store, NETWORK, self.wallet.address, self._ignore)
        await self.sender.start()
        await self.withdrawals.start()
        if self.fresh:
            await self.watcher.catch_up()
            self.receive_usdc(self.atoms)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.sender.stop()
        await self.rpc.close()
        self.store.close()
        self.engine.dispose()

    async def _ignore(self, event: object) -> None:
        """The watcher books by itself; it only has a handler so that it keeps its place."""

    def receive_usdc(self, atoms: int) -> None:
        transfer(self.chain, Signer.from_hex(self.chain.keys[9]), self.wallet.address, atoms)

    def set_eth(self, wei: int) -> None:
        self.chain.rpc("anvil_setBalance", self.wallet.address, hex(wei))

    def eth_of(self, address: str) -> int:
        return int(self.chain.rpc("eth_getBalance", address, "latest"), 16)

    def usdc_of(self, address: str) -> int:
        return usdc_of(self.chain, address)

    async def withdraw(
        self, token: Token, amount: int, to: str = SOMEBODY, id_: str | None = None
    ) -> WithdrawalView:
        return await self.withdrawals.send(id_ or secrets.token_hex(8), token, to, amount, ANN)

    def rows(self, query: str) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(text(query)))

    async def until(self, holds: Callable[[], Any], seconds: float = 15) -> Any:
        """The first true value of `holds()`."""
        async with asyncio.timeout(seconds):
            while not (value := holds()):
                await asyncio.sleep(0.05)
        return value

    async def assert_books_equal_chain(self) -> None:
        report = await reconcile(self.store, self.rpc, self.wallet.address, NETWORK, self.watcher)
        assert report.balanced, report.differences
