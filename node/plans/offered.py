"""The plans a seller offers: made, changed, retired, each in the audit trail (blocking)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, insert, select, update
from sqlmodel import col

from catalog.characters import is_readable
from catalog.errors import ListingUnknown
from catalog.models import Listing, ListingOrigin
from node.accounts.audit import Actor, record
from node.db.engine import writer
from node.db.locks import number_in_turn
from node.plans.errors import PlanInvalid, PlanTaken, PlanUnknown
from node.plans.models import Plan
from node.plans.subscribers import Offered, offered
from node.plans.terms import LONGEST_GRACE_DAYS, Beyond, Deal, terms_of

MOST_PLANS: Final = 20  # offered of one listing
NAME_CHARACTERS: Final = 60
TEXT_CHARACTERS: Final = 500
MOST_OF_A_METER: Final = 10**12
MOST_PER_MINUTE: Final = 1_000_000
MOST_ATOMS: Final = 10**12
_CHANGED: Final = (
    "The plan was changed after this page was made. What you typed still stands here: compare it"
    " with the plan, then save again."
)


@dataclass(frozen=True, slots=True)
class PlanChoices:
    """What a seller fills in."""

    name: str
    description: str
    deal: Deal

    def check(self) -> None:
        """Raises PlanInvalid."""
        deal = self.deal
        if not 1 <= len(self.name) <= NAME_CHARACTERS or not is_readable(self.name):
            raise PlanInvalid("name", f"Give it a name of at most {NAME_CHARACTERS} characters.")
        if len(self.description) > TEXT_CHARACTERS or not is_readable(self.description, "\r\n\t"):
            raise PlanInvalid("description", f"At most {TEXT_CHARACTERS} readable characters.")
        if not 0 <= deal.price_atoms <= MOST_ATOMS:
            sentence = "Choose a price of at most a million USDC a month, 0 for a free plan."
            raise PlanInvalid("price", sentence)
        _check_amount("calls", deal.calls, MOST_OF_A_METER)
        _check_amount("stream_seconds", deal.stream_seconds, MOST_OF_A_METER)
        _check_amount("per_minute", deal.per_minute, MOST_PER_MINUTE)
        if not 0 <= deal.grace_days <= LONGEST_GRACE_DAYS:
            raise PlanInvalid("grace_days", f"Choose 0 to {LONGEST_GRACE_DAYS} days.")

    def columns(self) -> dict[str, Any]:
        """As the table has them."""
        return {"name": self.name, "description": self.description} | terms_of(self.deal)


def choices(
    name: str,
    description: str,
    price_atoms: int,
    calls: int | None,
    stream_seconds: int | None,
    per_minute: int | None,
    beyond: str,
    grace_days: int,
) -> PlanChoices:
    """From what was filled in, checked. Raises PlanInvalid."""
    try:
        chosen = Beyond(beyond)
    except ValueError:
        raise PlanInvalid("beyond", "Choose what happens beyond the quota: pay or stop.") from None
    deal = Deal(price_atoms, calls, stream_seconds, per_minute, chosen, grace_days)
    made = PlanChoices(" ".join(name.split()), description.strip(), deal)
    made.check()
    return made


def add_plan(
    engine: Engine, listing_id: str, chosen: PlanChoices, now: int, actor: Actor
) -> Offered:
    """Offer a new plan. Raises ListingUnknown, PlanTaken, PlanInvalid."""
    with writer(engine).begin() as connection:
        _check_listing(connection, listing_id)
        _check_name(connection, listing_id, chosen.name, "")
        live = select(func.count()).where(
            col(Plan.listing_id) == listing_id, col(Plan.retired_at).is_(None)
        )
        if (connection.scalar(live) or 0) >= MOST_PLANS:
            raise PlanInvalid("name", f"A listing offers at most {MOST_PLANS} plans; retire one.")
        row = chosen.columns() | {
            "id": secrets.token_hex(6),
            "listing_id": listing_id,
            "created_at": now,
            "changed_at": _next_change(connection, now),
            "retired_at": None,
        }
        connection.execute(insert(Plan).values(row))
        subject = f"plan {row['id']}"
        record(connection, actor, "plan.add", subject, now, after=chosen.columns())
        return _read(connection, row["id"])


def change_plan(
    engine: Engine,
    plan_id: str,
    chosen: PlanChoices,
    now: int,
    actor: Actor,
    seen: int | None = None,
) -> Offered:
    """Change it for whoever pays from now on; what is paid stays as it was sold. `seen`: its
    `changed_at` on the page this comes from, if any. Raises PlanUnknown, PlanTaken,
    PlanInvalid."""
    with writer(engine).begin() as connection:
        number_in_turn(connection)
        before = _read(connection, plan_id)
        if seen not in (None, before.changed_at):
            raise PlanInvalid("", _CHANGED)
        if before.retired_at is not None:
            raise PlanUnknown("This plan is retired; add another.")
        if before.deal.free != chosen.deal.free:
            sentence = "A free plan stays free, and one that costs stays so; add another plan."
            raise PlanInvalid("price", sentence)
        _check_name(connection, before.listing_id, chosen.name, plan_id)
        values = chosen.columns() | {"changed_at": _next_change(connection, now)}
        connection.execute(update(Plan).where(col(Plan.id) == plan_id).values(values))
        was = PlanChoices(before.name, before.description, before.deal).columns()
        subject = f"plan {plan_id}"
        record(connection, actor, "plan.change", subject, now, was, chosen.columns())
        return _read(connection, plan_id)


def retire_plan(engine: Engine, plan_id: str, now: int, actor: Actor) -> None:
    """Offer it no more; who has it keeps and renews it. Raises PlanUnknown."""
    with writer(engine).begin() as connection:
        before = _read(connection, plan_id)
        if before.retired_at is not None:
            raise PlanUnknown("This plan is retired already.")
        values = {"retired_at": now, "changed_at": _next_change(connection, now)}
        connection.execute(update(Plan).where(col(Plan.id) == plan_id).values(values))
        subject = f"plan {plan_id}"
        record(connection, actor, "plan.retire", subject, now, before={"name": before.name})


def _check_amount(field: str, amount: int | None, most: int) -> None:
    if amount is not None and not 1 <= amount <= most:
        raise PlanInvalid(field, f"Choose 1 to {most:,}, or nothing for no end.")


def _check_listing(connection: Connection, listing_id: str) -> None:
    own = select(col(Listing.id)).where(
        col(Listing.id) == listing_id, col(Listing.origin) == ListingOrigin.OWN
    )
    if connection.scalar(own) is None:
        raise ListingUnknown("There is no such listing.")


def _check_name(connection: Connection, listing_id: str, name: str, but: str) -> None:
    others = select(col(Plan.name)).where(
        col(Plan.listing_id) == listing_id, col(Plan.retired_at).is_(None), col(Plan.id) != but
    )
    # SQLite knows no other capitals than A to Z.
    if name.casefold() in {each.casefold() for each in connection.scalars(others)}:
        raise PlanTaken("The listing has a plan of this name already.")


def _next_change(connection: Connection, now: int) -> int:
    """Grows with every change, so that a running node sees each."""
    number_in_turn(connection)
    return max(now, (connection.scalar(select(func.max(col(Plan.changed_at)))) or 0) + 1)


def _read(connection: Connection, plan_id: str) -> Offered:
    table = Plan.__table__  # type: ignore[attr-defined]
    row = connection.execute(select(table).where(table.c.id == plan_id)).one_or_none()
    if row is None:
        raise PlanUnknown("There is no such plan.")
    return offered(row)
