"""What the finance endpoints take and give. USDC in atoms, ETH as decimal text of wei."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query
from pydantic import BaseModel, Field, SecretStr

from finance.buying.closing_rows import ClosingRow
from finance.channel_views import BoughtChannel, SoldChannel
from finance.operations import ClosingStep, Token
from finance.transaction_views import TransactionView
from finance.withdrawal import Stage
from finance.withdrawals import WithdrawalView
from node.api.paging import Sent

MOST_ATOMS = 2**63 - 1
ChannelId = Annotated[str, Path(pattern=r"^0x[0-9a-f]{64}$")]
RowId = Annotated[int, Path(ge=1, le=MOST_ATOMS)]
Seconds = Annotated[int | None, Query(ge=0, le=10**11, description="Unix seconds")]
Atoms = Annotated[int, Field(ge=0, le=MOST_ATOMS)]
WeiText = Annotated[str, Field(pattern=r"^[0-9]{1,30}$", description="wei, decimal")]
AmountText = Annotated[str, Field(max_length=80, pattern=r"^[0-9]{1,60}(\.[0-9]{1,18})?$")]
WITHDRAWAL_ID = r"^[0-9a-zA-Z_-]{16,64}$"


class Password(Sent):
    """What moves money asks for the password of the token's user."""

    password: SecretStr = Field(max_length=1024)


class WalletOut(BaseModel):
    """The wallet; balances are None until the chain has answered. `payment_uri` is EIP-681."""

    address: str
    network: str
    chain_id: int
    payment_uri: str
    usdc_atoms: int | None
    eth_wei: str | None
    looked_at: int
    in_channels_atoms: int
    unclaimed_atoms: int


class ServingOut(BaseModel):
    """Whether paid calls are refused. Times are 0 when it is not so; `waived`: resumed by
    hand although a balance is low."""

    paused: bool
    auto_paused_at: int
    hand_paused_at: int
    low_usdc: bool
    low_gas: bool
    waived: bool


class QuoteIn(Sent):
    """`amount` in whole tokens, like `12.5`; without it, all there is."""

    token: Token
    destination: str = Field(max_length=64)
    amount: AmountText | None = None


class QuoteOut(BaseModel):
    """What would happen; amounts in atoms of the token as text."""

    token: Token
    destination: str
    amount: str
    left: str
    expected_fee_wei: str
    worst_fee_wei: str


class WithdrawalIn(Password):
    """`id` is made by the caller, once per withdrawal: sent again, it finds the first."""

    id: str = Field(pattern=WITHDRAWAL_ID)
    token: Token
    destination: str = Field(max_length=64)
    amount: AmountText


class WithdrawalOut(BaseModel):
    """One withdrawal; `amount` in atoms of its token as text."""

    id: str
    token: Token
    destination: str
    amount: str
    stage: Stage
    created_at: int
    by: str
    tx_hash: str | None
    fee_wei: str | None
    error: str | None

    @classmethod
    def of(cls, view: WithdrawalView) -> WithdrawalOut:
        return cls(
            id=view.id,
            token=view.token,
            destination=view.destination,
            amount=str(view.amount),
            stage=view.stage,
            created_at=view.created_at,
            by=view.actor_name,
            tx_hash=view.tx_hash,
            fee_wei=None if view.fee_wei is None else str(view.fee_wei),
            error=view.error,
        )


class ThresholdsShape(Sent):
    """0 is off; a balance that was low is enough again `margin_percent` above."""

    low_usdc_atoms: Atoms
    low_gas_wei: WeiText
    margin_percent: int = Field(ge=0, le=1000)
    auto_pause: bool


class ClaimPolicyShape(Sent):
    """When vouchers are claimed."""

    interval_seconds: int = Field(ge=0, le=10**9)
    at_risk_atoms: Atoms
    dust_atoms: Atoms
    gas_price_wei: int = Field(ge=0, le=MOST_ATOMS)
    longest_seconds: int = Field(ge=0, le=10**9)


class GasOut(BaseModel):
    """Gas of the selling side since a time; None when nothing was earned."""

    since: int
    gas_wei: str
    earned_atoms: int
    wei_per_usdc: str | None


class SoldOut(BaseModel):
    """A channel we are paid through; `leaves_at` 0: the buyer has not asked for its money."""

    channel_id: str
    payer: str
    state: str
    balance_atoms: int
    charged_atoms: int
    claimed_atoms: int
    unclaimed_atoms: int
    unspent_atoms: int
    leaves_at: int
    last_request_at: int

    @classmethod
    def of(cls, found: SoldChannel) -> SoldOut:
        return cls(
            channel_id=found.channel_id,
            payer=found.payer,
            state=found.state,
            balance_atoms=found.balance,
            charged_atoms=found.charged,
            claimed_atoms=found.claimed,
            unclaimed_atoms=found.unclaimed,
            unspent_atoms=found.unspent,
            leaves_at=found.leaves_at,
            last_request_at=found.last_request_at,
        )


class ClosingOut(BaseModel):
    """How far the closing of a channel is."""

    step: ClosingStep
    note: str
    finalize_after: int
    started_at: int

    @classmethod
    def of(cls, row: ClosingRow) -> ClosingOut:
        return cls(
            step=row.step,
            note=row.note,
            finalize_after=row.finalize_after,
            started_at=row.started_at,
        )


class BoughtOut(BaseModel):
    """A channel we pay through; `stop_reason` is why nothing more is signed on it."""

    channel_id: str
    origin: str
    receiver: str
    state: str
    stop_reason: str
    balance_atoms: int
    charged_atoms: int
    unspent_atoms: int
    withdraw_delay_seconds: int
    closing: ClosingOut | None

    @classmethod
    def of(cls, found: BoughtChannel) -> BoughtOut:
        return cls(
            channel_id=found.channel_id,
            origin=found.origin,
            receiver=found.receiver,
            state=found.state,
            stop_reason=found.stop_reason,
            balance_atoms=found.balance,
            charged_atoms=found.charged,
            unspent_atoms=found.unspent,
            withdraw_delay_seconds=found.withdraw_delay,
            closing=ClosingOut.of(found.closing) if found.closing else None,
        )


class ClaimIn(Password):
    """Which channels; none named: all that owe something."""

    channel_ids: list[Annotated[str, Field(pattern=r"^0x[0-9a-f]{64}$")]] = Field(
        default_factory=list, max_length=1000
    )


class Accepted(BaseModel):
    """It has begun; how it ends shows where it is listed."""

    accepted: bool = True


class TransactionOut(BaseModel):
    """One transaction of this node."""

    id: int
    purpose: str
    stage: Stage
    tx_hash: str | None
    fee_wei: str | None
    error: str
    created_at: int

    @classmethod
    def of(cls, view: TransactionView) -> TransactionOut:
        return cls(
            id=view.id,
            purpose=view.purpose,
            stage=view.stage,
            tx_hash=view.tx_hash,
            fee_wei=None if view.fee_wei is None else str(view.fee_wei),
            error=view.error,
            created_at=view.created_at,
        )
