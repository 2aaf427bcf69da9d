"""What the finance endpoints take and give. USDC in atoms, ETH as decimal text of wei."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query
from pydantic import BaseModel, Field, SecretStr

from finance.operations import ClosingStep, Token
from finance.withdrawal import Stage
from node.api.paging import Sent, Shown

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


class WithdrawalQuoteOut(BaseModel):
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


class WithdrawalOut(Shown):
    """One withdrawal; `amount` in atoms of its token as text."""

    id: str
    token: Token
    destination: str
    amount: str
    stage: Stage
    created_at: int
    by: str = Field(validation_alias="actor_name")
    tx_hash: str | None
    fee_wei: str | None
    error: str | None


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


class SoldOut(Shown):
    """A channel we are paid through; `leaves_at` 0: the buyer has not asked for its money."""

    channel_id: str
    payer: str
    state: str
    balance_atoms: int = Field(validation_alias="balance")
    charged_atoms: int = Field(validation_alias="charged")
    claimed_atoms: int = Field(validation_alias="claimed")
    unclaimed_atoms: int = Field(validation_alias="unclaimed")
    unspent_atoms: int = Field(validation_alias="unspent")
    leaves_at: int
    last_request_at: int


class ClosingOut(Shown):
    """How far the closing of a channel is."""

    step: ClosingStep
    note: str
    finalize_after: int
    started_at: int


class BoughtOut(Shown):
    """A channel we pay through; `stop_reason` is why nothing more is signed on it."""

    channel_id: str
    origin: str
    receiver: str
    state: str
    stop_reason: str
    balance_atoms: int = Field(validation_alias="balance")
    charged_atoms: int = Field(validation_alias="charged")
    unspent_atoms: int = Field(validation_alias="unspent")
    withdraw_delay_seconds: int = Field(validation_alias="withdraw_delay")
    closing: ClosingOut | None


class ClaimIn(Password):
    """Which channels; none named: all that owe something."""

    channel_ids: list[Annotated[str, Field(pattern=r"^0x[0-9a-f]{64}$")]] = Field(
        default_factory=list, max_length=1000
    )


class Accepted(BaseModel):
    """It has begun; how it ends shows where it is listed."""

    accepted: bool = True


class TransactionOut(Shown):
    """One transaction of this node."""

    id: int
    purpose: str
    stage: Stage
    tx_hash: str | None
    fee_wei: str | None
    error: str
    created_at: int
