"""Domain errors as the private listener answers them: one table for pages and the JSON API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy.exc import DataError

from backups.errors import (
    BackupBusy,
    BackupError,
    BackupUnknown,
    ChoiceInvalid,
    PasswordWrong,
)
from catalog.errors import (
    AddressInvalid,
    CatalogError,
    DraftIncomplete,
    ListingExists,
    ListingInvalid,
    ListingUnknown,
    PeerExists,
    PeerInvalid,
    PeerUnknown,
    SampleInvalid,
    UpstreamFailed,
)
from finance.errors import (
    AmountInvalid,
    ChainError,
    ChannelBusy,
    ChannelNotClosable,
    FinanceError,
    LimitExceeded,
    RpcUnavailable,
    StoreConflict,
    StoreUnavailable,
    WalletError,
    WithdrawalRefused,
)
from node.accounts.errors import (
    AccountInvalid,
    AccountsError,
    AccountUnknown,
    Forbidden,
    SignInRefused,
    SignInRequired,
)
from node.alerts.errors import (
    AlertsError,
    AlertsInvalid,
    DeliveryUnknown,
    NotConfigured,
    NotificationUnknown,
)
from node.errors import NodeError
from node.market.network import HostsInvalid
from node.plans.buying.errors import SubscriptionInvalid, SubscriptionUnknown
from node.plans.errors import (
    OrderRefused,
    PlanInvalid,
    PlanTaken,
    PlanUnknown,
    RequestClosed,
)
from node.treasury.errors import (
    NotPossible,
    TreasuryError,
    TreasuryInvalid,
    TreasuryUnknown,
)

DOMAIN_ERRORS: Final = (
    AccountsError,
    AlertsError,
    BackupError,
    CatalogError,
    FinanceError,
    NodeError,
    TreasuryError,
)
# What no database takes: a text with NUL (PostgreSQL), or half a surrogate pair (SQLite); a
# number beyond 64 bits (SQLite).
UNSTORABLE: Final = (UnicodeEncodeError, DataError, OverflowError)

# The most particular class first. What is not here is a 500: a case nobody thought of.
_STATUS: Final[tuple[tuple[type[Exception], int], ...]] = (
    (SignInRequired, 401),
    (PlanInvalid, 422),
    (PlanTaken, 409),
    (PlanUnknown, 404),
    (RequestClosed, 409),
    (OrderRefused, 409),
    (TreasuryInvalid, 422),
    (TreasuryUnknown, 404),
    (NotPossible, 409),
    (WithdrawalRefused, 422),
    (ChannelNotClosable, 409),
    (ChannelBusy, 409),
    (StoreConflict, 409),
    (StoreUnavailable, 503),
    (WalletError, 409),
    (SignInRefused, 403),
    (Forbidden, 403),
    (AccountUnknown, 404),
    (NotificationUnknown, 404),
    (DeliveryUnknown, 404),
    (AlertsInvalid, 422),
    (NotConfigured, 409),
    (BackupUnknown, 404),
    (ChoiceInvalid, 422),
    (PasswordWrong, 422),
    (BackupBusy, 409),
    (BackupError, 409),
    (AccountInvalid, 422),
    (ListingUnknown, 404),
    (ListingExists, 409),
    (ListingInvalid, 422),
    (SampleInvalid, 422),
    (AddressInvalid, 422),
    (HostsInvalid, 422),
    (PeerInvalid, 422),
    (PeerExists, 409),
    (PeerUnknown, 404),
    (UpstreamFailed, 409),
    (DraftIncomplete, 409),
    (AmountInvalid, 422),
    (LimitExceeded, 409),
    (ChainError, 503),
    (SubscriptionUnknown, 404),
    (SubscriptionInvalid, 422),
    (NodeError, 409),
)


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it is told: HTTP status, stable code, sentence, and the field at fault."""

    status: int
    code: str
    detail: str
    field: str | None = None


def explain(error: Exception) -> Failure:
    """What to answer for one of DOMAIN_ERRORS or UNSTORABLE."""
    if isinstance(error, UNSTORABLE):
        sentence = "A text has characters that cannot be stored, or a number is too large."
        return Failure(422, "not_storable", sentence)
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    code = getattr(error, "code", "internal_error")
    return Failure(status, code, told(error), getattr(error, "field", None))


def told(error: Exception) -> str:
    """An error of a domain as a sentence that says what to do."""
    if isinstance(error, RpcUnavailable):
        return (
            "The chain does not answer at the moment, so this could not be done. Try again;"
            f" Settings > Network shows how its addresses answer. ({error})"
        )
    return str(error)
