"""What the finance endpoints give of the books, the wallet's file and the limits."""

from __future__ import annotations

from pydantic import BaseModel, Field, SecretStr

from finance.actions import Action
from finance.operations import Token
from finance.reconcile import Difference
from node.api.finance_shapes import Atoms, Password
from node.api.paging import Sent, Shown
from node.treasury.reconciling import Run, Unit, unit_of


class MovementOut(Shown):
    """One movement; `amount` signed, in atoms of its token as text."""

    at: int
    action: Action
    token: Token
    amount: str
    tx_hash: str | None
    purpose: str
    other: str
    channel_id: str | None


class HistoryOut(BaseModel):
    """Some lines, newest first; `older` goes into `after` for the next ones. With a `text`
    a page may have few lines, or none, and still go on: null is the end."""

    items: list[MovementOut]
    older: str | None


class DifferenceOut(BaseModel):
    """One thing books and chain do not agree on, both values as text in `unit`."""

    kind: str
    subject: str
    books: str
    chain: str
    unit: Unit

    @classmethod
    def of(cls, found: Difference) -> DifferenceOut:
        return cls(
            kind=found.kind,
            subject=found.subject,
            books=str(found.books),
            chain=str(found.chain),
            unit=unit_of(found),
        )


class OpenOut(Shown):
    """One thing on its way."""

    kind: str
    subject: str
    state: str
    amount_atoms: int = Field(validation_alias="amount")


class RunOut(BaseModel):
    """One reconciliation; `finished_at` 0 while it runs."""

    id: int
    started_at: int
    finished_at: int
    by: str
    balanced: bool
    block_number: int
    checked: int
    differences: list[DifferenceOut]
    open: list[OpenOut]
    error: str | None

    @classmethod
    def of(cls, run: Run) -> RunOut:
        return cls(
            id=run.id,
            started_at=run.started_at,
            finished_at=run.finished_at,
            by=run.actor_name,
            balanced=run.balanced,
            block_number=run.block_number,
            checked=run.checked,
            differences=[DifferenceOut.of(each) for each in run.differences],
            open=[OpenOut.of(each) for each in run.open_items],
            error=run.error,
        )


class Started(BaseModel):
    """What was started, by id."""

    id: int


class ExportIn(Password):
    """`passphrase` is the one the node is started with; the keystore stays under it."""

    passphrase: SecretStr = Field(max_length=1024)


class KeystoreOut(BaseModel):
    """Keystore v3 JSON, encrypted."""

    keystore: str


class ImportIn(Password):
    """Keystore v3 JSON with its passphrase, and the node's own."""

    keystore: str = Field(max_length=100_000)
    its_passphrase: SecretStr = Field(max_length=1024)
    passphrase: SecretStr = Field(max_length=1024)


class ImportOut(BaseModel):
    """The wallet that the node uses from its next start on."""

    address: str


class LimitOut(BaseModel):
    """One limit; `subject` `*` is all; `used_atoms` is today's where something is counted."""

    scope: str
    subject: str
    name: str
    limit_atoms: int
    used_atoms: int | None
    default: bool


class LimitsOut(BaseModel):
    """All limits; days are UTC. Deposits count on their own against the day's limit."""

    day: str
    deposited_atoms: int
    limits: list[LimitOut]


class LimitIn(Sent):
    """`limit_atoms` None takes the limit away: the default, or the general one, holds."""

    scope: str = Field(max_length=20)
    subject: str = Field(default="*", max_length=200, pattern=r"^[^\x00]*$")
    limit_atoms: Atoms | None
