"""What the gateway needs from others, by shape: app.py hands in the real parts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from finance.selling.channels import Channel, SellerChannels
from finance.selling.mirror import OnchainState
from finance.store import Store
from finance.x402.offers import Terms
from finance.x402.values import DepositPayment, ExactPayment, VoucherPayment
from node.egress import EgressPolicy
from node.gateway.match import Sale


class Settled(Protocol):
    """A payment that is on the chain."""

    @property
    def tx_hash(self) -> str: ...


class Settlement(Protocol):
    """Moves the money of payments whose answer is stored (finance.selling.settlement)."""

    async def settle(self, payment_id: str, timeout: float) -> Settled:
        """Raises SettlementFailed (not charged) or SettlementUnknown (still open)."""
        ...

    async def take_over(self, owners: Collection[int]) -> int:
        """Carry on what processes that are gone had owed; how many payments."""
        ...


class Checks(Protocol):
    """Asks the chain before a payment is believed (finance.selling.checks)."""

    async def check(
        self, payment: ExactPayment | DepositPayment | VoucherPayment, terms: Terms
    ) -> OnchainState | None:
        """Raises PaymentRefused or RpcUnavailable."""
        ...


class Refunded(Protocol):
    """A refund that is on the chain."""

    @property
    def tx_hash(self) -> str: ...
    @property
    def amount(self) -> int: ...


class Refunds(Protocol):
    """Gives unspent money of a channel back (finance.selling.refunds)."""

    async def refund(self, channel: Channel, amount: int | None) -> Refunded:
        """The channel is reserved. Raises SettlementFailed, SettlementUnknown, PaymentRefused."""
        ...

    async def finish_abandoned(self) -> None:
        """Finish what processes that are gone had begun."""
        ...


@dataclass(frozen=True, slots=True)
class Seller:
    """Everything the paid path uses.

    `ceiling_atoms`: most a channel may owe us unclaimed (law 8). `claim_soon` asks for a
    claim without waiting. `paused`, `closed` and `ready` are asked on each request: while it is
    paused nothing new is sold, while it is closed nobody is served what was paid before either.
    """

    sale: Sale
    store: Store
    channels: SellerChannels
    checks: Checks
    settlement: Settlement
    refunds: Refunds
    egress: EgressPolicy
    unseal: Callable[[str], bytes]
    claim_soon: Callable[[str], None]
    paused: Callable[[], bool] = lambda: False
    closed: Callable[[], bool] = lambda: False
    ready: Callable[[], bool] = lambda: True
    ceiling_atoms: int = 1_000_000
    max_body_bytes: int = 64 * 1024 * 1024
    spool_bytes: int = 64 * 1024 * 1024
