"""The tables of what an operator does with money, and of what is noticed about it.

As in finance.models: hex is lower-case text with `0x`, times are Unix seconds.
"""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, Index, Text
from sqlmodel import Field, SQLModel

from finance.columns import ROW_ID


class Token(StrEnum):
    """What the wallet holds."""

    USDC = "USDC"
    ETH = "ETH"


class Withdrawal(SQLModel, table=True):
    """One confirmed wish to send money away; its transaction is the `chain_tx` whose `ref`
    is this id. Stored before anything is signed, so that a second click finds it."""

    __tablename__ = "withdrawal"
    __table_args__ = (Index("ix_withdrawal_created", "created_at"),)

    id: str = Field(primary_key=True, description="made with the page that asks to confirm")
    chain_id: int
    token: str
    destination: str
    amount: str = Field(description="atoms or wei as decimal text")
    actor_id: str
    actor_name: str
    created_at: int = Field(sa_type=BigInteger)
    error: str | None = Field(
        default=None, sa_type=Text, description="why nothing was sent, when there is no chain_tx"
    )
    told: bool = Field(default=False, description="its end is in the event log")


class Arrival(SQLModel, table=True):
    """Money somebody sent to the wallet, noticed once; ETH of which a reorg took back is a row
    of its own, with a negative amount."""

    __tablename__ = "arrival"
    __table_args__ = (Index("ix_arrival_at", "at"),)

    key: str = Field(primary_key=True, description="transfer:<tx>:<log>, eth:<chain>:<block>")
    chain_id: int
    token: str
    amount: str = Field(description="atoms or wei as decimal text")
    source: str = Field(default="", description="who sent it; empty for ETH, which leaves no event")
    tx_hash: str | None = None
    block_number: int = Field(sa_type=BigInteger)
    at: int = Field(sa_type=BigInteger)


class EthSighting(SQLModel, table=True):
    """The wallet's ETH as of the last block looked at: what comes on top of it has arrived."""

    __tablename__ = "eth_sighting"

    wallet: str = Field(primary_key=True)
    chain_id: int = Field(primary_key=True)
    block_number: int = Field(sa_type=BigInteger)
    balance_wei: str = Field(description="uint256 as decimal text")
    nonce: int = Field(sa_type=BigInteger, description="transactions sent by then")


class ClosingStep(StrEnum):
    """How a channel we paid through is closed.

    asking -> closed                the seller refunded what was left
    asking -> leaving -> waiting    the seller is gone: withdrawal through the contract
    waiting -> closed               the delay is over, the money is back
    any -> failed                   it may be asked for again
    """

    ASKING = "asking"
    LEAVING = "leaving"
    WAITING = "waiting"
    CLOSED = "closed"
    FAILED = "failed"


class Closing(SQLModel, table=True):
    """The closing of one channel; no voucher is signed on it meanwhile."""

    __tablename__ = "closing"
    __table_args__ = (CheckConstraint("attempt >= 1"),)

    channel_id: str = Field(primary_key=True)
    attempt: int = Field(default=1, description="grows each time it is asked for")
    step: str = Field(default=ClosingStep.ASKING)
    before: str = Field(description="state of the channel before, given back when it fails")
    unspent_atoms: int = Field(sa_type=BigInteger, description="in the channel when it began")
    finalize_after: int = Field(
        default=0, sa_type=BigInteger, description="chain time from which the money can be had"
    )
    note: str = Field(default="", sa_type=Text, description="why it took this way, or failed")
    started_at: int = Field(sa_type=BigInteger)
    updated_at: int = Field(sa_type=BigInteger)


class Reconciliation(SQLModel, table=True):
    """The result of holding the books against the chain once."""

    __tablename__ = "reconciliation"

    id: int | None = Field(default=None, primary_key=True, sa_type=ROW_ID)
    started_at: int = Field(sa_type=BigInteger)
    finished_at: int = Field(default=0, sa_type=BigInteger, description="0 while it runs")
    actor_name: str
    block_number: int = Field(default=0, sa_type=BigInteger)
    checked: int = Field(default=0, sa_type=BigInteger, description="pairs compared")
    differences: str = Field(default="[]", sa_type=Text, description="JSON list of Difference")
    open_items: str = Field(default="[]", sa_type=Text, description="JSON list of OpenItem")
    error: str | None = Field(default=None, sa_type=Text, description="why it could not be done")
