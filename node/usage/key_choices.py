"""What an operator chooses for a consumer key, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import Connection, select
from sqlmodel import col

from catalog.characters import is_readable
from catalog.models import Listing
from node.accounts.errors import AccountInvalid
from node.accounts.users import clean_email

MAX_NAME: Final = 60
MOST_PER_MINUTE: Final = 1_000_000
MOST_SCOPES: Final = 200


@dataclass(frozen=True, slots=True)
class KeyChoices:
    """`name`: the app it is for. `scopes`: ids of the listings it may call, none for all.
    `per_minute`: calls in any 60 seconds, None for no end. `integrator`: third party."""

    name: str
    owner_email: str = ""
    integrator: bool = False
    scopes: tuple[str, ...] = ()
    per_minute: int | None = None

    def checked(self, connection: Connection) -> KeyChoices:
        """The same, tidied. Raises AccountInvalid."""
        name = self.name.strip()
        if not 1 <= len(name) <= MAX_NAME or not is_readable(name):
            sentence = f"Name the app it is for, in at most {MAX_NAME} characters."
            raise AccountInvalid("name", sentence)
        if self.per_minute is not None and not 1 <= self.per_minute <= MOST_PER_MINUTE:
            sentence = f"Choose 1 to {MOST_PER_MINUTE:,} calls a minute, or none for no limit."
            raise AccountInvalid("per_minute", sentence)
        email = clean_email(self.owner_email, "owner_email")
        scopes = _known_listings(connection, self.scopes)
        return KeyChoices(name, email, self.integrator, scopes, self.per_minute)

    def columns(self) -> dict[str, Any]:
        """As `consumer_key` keeps them."""
        return asdict(self) | {"scopes": "\n".join(self.scopes)}

    def told(self) -> dict[str, Any]:
        """As the audit trail has them."""
        return asdict(self) | {"scopes": list(self.scopes)}


def read_scopes(stored: str) -> tuple[str, ...]:
    """Ids of listings from their column."""
    return tuple(stored.split("\n")) if stored else ()


def _known_listings(connection: Connection, scopes: Sequence[str]) -> tuple[str, ...]:
    wanted = sorted(set(scopes))
    if len(wanted) > MOST_SCOPES:
        raise AccountInvalid("scopes", f"Choose at most {MOST_SCOPES} listings, or none for all.")
    known = set(
        connection.scalars(select(col(Listing.id)).where(col(Listing.id).in_(wanted)))
        if wanted
        else ()
    )
    if missing := [each for each in wanted if each not in known]:
        raise AccountInvalid("scopes", f"There is no listing {missing[0]} in the catalog.")
    return tuple(wanted)
