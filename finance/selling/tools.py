"""What claiming and refunding both work with."""

from __future__ import annotations

from dataclasses import dataclass

from finance.chain.rpc import Rpc
from finance.chain.sender import Sender
from finance.networks import Network
from finance.selling.mirror import Mirror
from finance.selling.settlement import ChannelBook
from finance.store import Store
from finance.wallet.signer import Signer


@dataclass(frozen=True, slots=True)
class SellerTools:
    """A seller's books, chain and keys. `receiver` is the receiver authorizer's key."""

    store: Store
    sender: Sender
    rpc: Rpc
    receiver: Signer
    channels: ChannelBook
    mirror: Mirror
    network: Network
