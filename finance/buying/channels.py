"""Our channels to sellers: one call at a time on each, as many as calls overlap.

A channel's salt follows from wallet, seller and a running number, so that a node that
lost its database finds its channels on the chain again. Reservation is in memory: where
several processes buy, each has channels of its own (finance.buying.pools), and guards in
the UPDATEs refuse a second one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from finance.buying.limits import Reservation
from finance.buying.signing import SignedDeposit, voucher_head
from finance.buying.terms import Terms
from finance.errors import ChannelBusy
from finance.models import BuyerChannel, ChannelState
from finance.networks import Network
from finance.x402 import digest, text
from finance.x402.values import ChannelConfig

# A deposit must still be mined by the seller after it has travelled.
TRAVEL_SECONDS = 20

Waiting = deque["asyncio.Future[Channel]"]


class SellerId(NamedTuple):
    """Whom a channel pays, and through which server; channels with equal ids are alike."""

    origin: str
    receiver: bytes
    receiver_authorizer: bytes
    withdraw_delay: int


@dataclass(slots=True)
class OpenVoucher:
    """A voucher that left and may have been charged; `reservation` is None if it stays counted,
    `refused`: its seller has said that it was not."""

    call_id: str
    cumulative: int
    amount_atoms: int
    reservation: Reservation | None
    refused: bool = False


@dataclass(slots=True, eq=False)
class Channel:
    """One channel in memory; amounts are atoms, as in the table.

    `balance` is what the channel holds as far as we know, `verified` whether the chain said
    so and the ledger says the same. `stale`: ask the chain before signing again. `unresolved`
    vouchers all start from `charged`; the seller's next proof settles them.
    """

    id: bytes
    id_hex: str
    config: ChannelConfig
    seller: SellerId
    state: str = ChannelState.OPENING
    balance: int = 0
    charged: int = 0
    signed: int = 0
    signature: bytes = b""
    total_claimed: int = 0
    verified: bool = False
    stored: bool = False
    stale: bool = False
    busy: bool = False
    deposit: SignedDeposit | None = None
    deposit_reservation: Reservation | None = None
    unresolved: list[OpenVoucher] = field(default_factory=list)
    awaited: Waiting = field(default_factory=deque)  # by calls that need no other one
    head: bytes = b""

    def __post_init__(self) -> None:
        self.head = voucher_head(self.config, self.id)

    def lacks(self, atoms: int) -> int:
        """What a call for `atoms` needs beyond what is in the channel; not above 0: nothing."""
        return self.charged + atoms - self.balance

    def waits(self, atoms: int, now: float) -> bool:
        """Whether a call for `atoms` has to wait: the deposit that is out for it covers it no
        more, and the chain may take that one still."""
        if self.deposit is None or (lacks := self.lacks(atoms)) <= 0:
            return False
        late = self.deposit.valid_before <= now + TRAVEL_SECONDS
        return late or self.deposit.amount_atoms < lacks

    @property
    def usable(self) -> bool:
        """Whether calls may be paid through it; others are set aside, or ended."""
        return self.state in (ChannelState.OPENING, ChannelState.OPEN)


def seller_of(terms: Terms, origin: str) -> SellerId:
    """The seller behind batch-settlement terms."""
    return SellerId(origin, terms.pay_to, terms.receiver_authorizer, terms.withdraw_delay_seconds)


def channel_config(
    seller: SellerId, index: int, payer: bytes, payer_authorizer: bytes, network: Network
) -> ChannelConfig:
    """The config of our `index`-th channel to a seller; same input, same channel."""
    token = text.parse_address(network.usdc)
    seed = (
        b"farebox channel",
        payer,
        payer_authorizer,
        seller.receiver,
        seller.receiver_authorizer,
        token,
        seller.withdraw_delay.to_bytes(8, "big"),
        index.to_bytes(8, "big"),
        seller.origin.encode(),
    )
    return ChannelConfig(
        payer,
        payer_authorizer,
        seller.receiver,
        seller.receiver_authorizer,
        token,
        seller.withdraw_delay,
        digest.keccak(b"".join(seed)),
    )


def channel_of_row(row: BuyerChannel) -> Channel:
    """The memory form of a stored channel."""
    config = ChannelConfig(
        text.parse_address(row.payer),
        text.parse_address(row.payer_authorizer),
        text.parse_address(row.receiver),
        text.parse_address(row.receiver_authorizer),
        text.parse_address(row.token),
        row.withdraw_delay,
        text.parse_bytes32(row.salt),
    )
    seller = SellerId(
        row.origin, config.receiver, config.receiver_authorizer, config.withdraw_delay
    )
    opening = row.state == ChannelState.OPENING
    # How a withdrawal goes on while we are down, only the chain knows.
    unsure = opening or row.state == ChannelState.WITHDRAWING
    return Channel(
        text.parse_bytes32(row.channel_id),
        row.channel_id,
        config,
        seller,
        row.state,
        row.balance_atoms,
        row.charged_atoms,
        row.signed_atoms,
        text.parse_hex(row.signature),
        row.total_claimed_atoms,
        verified=not opening,
        stored=True,
        stale=unsure,
    )


class SellerChannels:
    """The channels to one seller: who is free, who waits."""

    def __init__(self, seller: SellerId, most: int) -> None:
        self.seller = seller
        self.channels: list[Channel] = []
        self._most = most
        self._waiting: Waiting = deque()

    def take_free(self, atoms: int) -> Channel | None:
        """A channel that is free for a call for `atoms`, made busy; the one with most room
        first. No await in here."""
        now = time.time()
        usable = (each for each in self.channels if each.usable and not each.busy)
        free = [each for each in usable if not each.waits(atoms, now)]
        if not free:
            return None
        best = max(free, key=lambda each: _room(each, atoms))
        best.busy = True
        return best

    @property
    def may_open(self) -> bool:
        """Whether another channel may be opened (stopped ones do not count)."""
        return sum(each.usable for each in self.channels) < self._most

    @property
    def any_in_use(self) -> bool:
        return any(each.usable and each.busy for each in self.channels)

    async def wait(self, seconds: float, channel: Channel | None = None) -> Channel:
        """The next channel that comes free, or this `channel` once it does, which may not be
        usable any more; raise ChannelBusy after `seconds`."""
        future: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        (self._waiting if channel is None else channel.awaited).append(future)
        try:
            # Not wait_for: on Python 3.11 it swallows a cancellation that meets a release.
            async with asyncio.timeout(seconds):
                return await self._handed(future)
        except TimeoutError:
            which = "All channels to this seller are" if channel is None else "Its channel is"
            raise ChannelBusy(f"{which} in use.") from None

    async def _handed(self, future: asyncio.Future[Channel]) -> Channel:
        try:
            return await future
        except asyncio.CancelledError:
            # Handed to us in the moment we gave up: pass it on.
            if future.done() and not future.cancelled():
                self.release(future.result())
            raise

    def release(self, channel: Channel) -> None:
        """Give a channel back, straight to whoever needs this one, or waits longest for any."""
        for queue in (channel.awaited, self._waiting):
            while queue and (channel.usable or queue is channel.awaited):
                future = queue.popleft()
                if not future.done():
                    future.set_result(channel)
                    return
        channel.busy = False


def _room(channel: Channel, atoms: int) -> tuple[bool, bool, bool, int]:
    """Stale ones last (they need the chain), those that need no deposit before the others,
    unsettled ones first (what they need is signed already), then the fullest: top-ups come as
    late as they can."""
    room = channel.balance - channel.charged
    return not channel.stale, room >= atoms, bool(channel.unresolved), room
