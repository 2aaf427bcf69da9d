"""All channels to all sellers: found, opened, waited for, given back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from finance.buying.channels import Channel, SellerChannels, SellerId, channel_config
from finance.buying.deposits import Deposits
from finance.buying.policy import BuyingPolicy
from finance.buying.stored import load_channel
from finance.chain.events import SeenEvent
from finance.errors import ChannelBusy, RpcUnavailable, StoreUnavailable
from finance.models import ChannelState
from finance.networks import Network
from finance.store import Locks
from finance.wallet.signer import Keys
from finance.x402 import digest, text

_MONEY_BACK = frozenset(("WithdrawInitiated", "WithdrawFinalized", "Refunded"))


class ChannelPools:
    """One node's channels, by seller."""

    def __init__(
        self,
        keys: Keys,
        network: Network,
        deposits: Deposits,
        policy: BuyingPolicy,
        engine: Engine,
        locks: Locks | None = None,
    ) -> None:
        """`locks` where other processes buy with the same keys."""
        self.sellers: dict[SellerId, SellerChannels] = {}
        self._keys, self._network, self._policy = keys, network, policy
        self._deposits = deposits
        self._engine, self._locks = engine, locks

    async def stop(self) -> None:
        """Let other processes have our channels."""
        if self._locks is not None:
            await asyncio.to_thread(self._locks.close)

    async def hold(self, channel: Channel) -> bool:
        """Whether the channel is this process's from now on, or nobody's: it is closed. Raises
        StoreUnavailable."""
        return channel.state == ChannelState.CLOSED or await self._take(channel.id)

    async def hold_on(self) -> None:
        """Have all that is ours again, should the locks have ended with a connection; what another
        process has taken up since is no more ours."""
        if self._locks is None:
            return
        with suppress(SQLAlchemyError):  # lost, and asked for again now
            await asyncio.to_thread(self._locks.check)
        for pool in list(self.sellers.values()):
            for channel in list(pool.channels):
                held = await self.hold(channel) or self._locks.has(_number(channel.id))
                if not held and not channel.busy:
                    pool.channels.remove(channel)

    async def _take(self, channel_id: bytes) -> bool:
        if self._locks is None:
            return True
        try:
            return await asyncio.to_thread(self._locks.take, _number(channel_id))
        except SQLAlchemyError as error:
            raise StoreUnavailable("whose the channel is cannot be asked now") from error

    def pool(self, seller: SellerId) -> SellerChannels:
        """The channels to one seller, known or none yet."""
        if (found := self.sellers.get(seller)) is None:
            found = SellerChannels(seller, self._policy.max_channels_per_seller)
            self.sellers[seller] = found
        return found

    async def acquire(self, seller: SellerId, atoms: int, first: str | None = None) -> Channel:
        """A channel for one call for `atoms`: `first` if it can be used, or one that is free,
        soon free, or new; raise ChannelBusy, RpcUnavailable."""
        pool = self.pool(seller)
        while True:
            channel = await self.reserve(first, seller) if first else None
            if channel is None:
                channel = await self._next(pool, atoms)
            try:
                if channel.stale:
                    await self._deposits.sync(channel)
            except BaseException:
                self.release(channel)
                raise
            if channel.usable:
                return channel
            # Its money is being taken back: set aside.
            self.release(channel)

    async def _next(self, pool: SellerChannels, atoms: int) -> Channel:
        if (free := pool.take_free(atoms)) is not None:
            return free
        if pool.any_in_use:
            try:
                return await pool.wait(self._policy.patience_seconds)
            except ChannelBusy:
                if (free := pool.take_free(atoms)) is not None:
                    return free
        if pool.may_open:
            return await self._open(pool)
        return await pool.wait(self._policy.channel_wait_seconds)

    async def _open(self, pool: SellerChannels) -> Channel:
        """The next channel to a seller; if the chain knows it, with what is in it."""
        channel = await self._next_channel(pool)
        pool.channels.append(channel)
        try:
            await self._deposits.sync(channel)
        except RpcUnavailable:
            # A corrective 402 mends a base that is too low; nothing is lost by it.
            channel.stale = channel.stored and channel.stale
        except BaseException:
            self.release(channel)
            raise
        return channel

    async def _next_channel(self, pool: SellerChannels) -> Channel:
        """The channel with the lowest number that neither we nor another process has; as one that
        is gone has left it. Without other processes nothing awaits in here."""
        payer, authorizer = self._keys.wallet.address_bytes, self._keys.voucher.address_bytes
        index = -1
        while True:
            index += 1
            config = channel_config(pool.seller, index, payer, authorizer, self._network)
            channel_id = digest.channel_id(config, self._network.chain_id)
            known = any(each.id == channel_id for each in pool.channels)
            if known or not await self._take(channel_id):
                continue
            channel = await self._left(text.to_hex(channel_id))
            if channel is None:
                return Channel(channel_id, text.to_hex(channel_id), config, pool.seller, busy=True)
            if channel.usable:
                channel.busy = True
                return channel
            pool.channels.append(channel)

    async def _left(self, channel_id_hex: str) -> Channel | None:
        """The channel as another process had it; our own were loaded at the start."""
        if self._locks is None:
            return None
        return await asyncio.to_thread(
            load_channel, self._engine, self._keys, self._network, channel_id_hex
        )

    async def reserve(self, channel_id_hex: str, seller: SellerId | None = None) -> Channel | None:
        """One certain channel, to a certain `seller` if need be, once no other call has it, also
        if a process that is gone has left it; None if it is not known or must not be used. Raises
        ChannelBusy, StoreUnavailable."""
        channel = await self.take_up(channel_id_hex)
        if channel is None or not channel.usable or seller not in (None, channel.seller):
            return None
        if channel.busy:
            pool = self.pool(channel.seller)
            await pool.wait(self._policy.channel_wait_seconds, channel)
        channel.busy = True
        if channel.usable:
            return channel
        self.release(channel)
        return None

    def notice(self, events: Iterable[SeenEvent]) -> bool:
        """Whether money came, or will come, back out of some of these channels, perhaps by the
        payer's own hand: they are looked at before they are used again."""
        changed = {each.channel_id for each in events if each.name in _MONEY_BACK}
        channels = [each for pool in self.sellers.values() for each in pool.channels]
        stale = [each for each in channels if each.id_hex in changed]
        for channel in stale:
            channel.stale = True
        return bool(stale)

    def find(self, channel_id_hex: str | None) -> Channel | None:
        """One certain channel, whatever its state; None if it is not known."""
        channels = (each for pool in self.sellers.values() for each in pool.channels)
        return next((each for each in channels if each.id_hex == channel_id_hex), None)

    @property
    def shared(self) -> bool:
        """Whether other processes may have channels that we do not know."""
        return self._locks is not None

    async def take_up(self, channel_id_hex: str) -> Channel | None:
        """One certain channel, also if a process that is gone has left it; None if another one
        has it, or nobody knows it. Raises StoreUnavailable."""
        if (channel := self.find(channel_id_hex)) or await self._left(channel_id_hex) is None:
            return channel
        if not await self._take(bytes.fromhex(channel_id_hex[2:])):
            return None
        channel = await self._left(channel_id_hex)  # as it is now that nobody else has it
        assert channel is not None
        self.pool(channel.seller).channels.append(channel)
        return channel

    def release(self, channel: Channel) -> None:
        """Hand a channel to the next call."""
        self.pool(channel.seller).release(channel)

    def release_later(self, channel: Channel) -> None:
        """Hand a channel that is in use elsewhere to the next call once that may be over; until
        then calls go through others, or open one."""
        seconds = self._policy.elsewhere_seconds
        asyncio.get_running_loop().call_later(seconds, self.release, channel)


def _number(channel_id: bytes) -> int:
    """Another one than its seller takes, who may be this very node (finance.selling.turns)."""
    return int.from_bytes(channel_id[-8:], "big", signed=True)
