"""Orders as they are written down, before anything leaves the node (blocking)."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, Row, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col

from finance.money import MAX_ATOMS, Usdc
from node.accounts.audit import Actor, record
from node.db.engine import writer
from node.plans.buying.errors import NotPossibleNow, SubscriptionInvalid
from node.plans.buying.models import (
    BoughtOrder,
    BoughtState,
    OrderKind,
    OrderState,
)
from node.plans.buying.offers import Offer
from node.plans.buying.ports import Vault
from node.plans.buying.read import plan_in, standing_of
from node.plans.buying.rows import (
    FIRST,
    add_order,
    add_subscription,
    change_row,
    listing_stands,
    new_id,
    note,
    order_of_slot,
    read_live,
    read_row,
    refuse_while_ordering,
)
from node.plans.buying.shapes import Plan, plan_of, plan_text
from node.plans.buying.states import renewal_slot, renewed_month
from node.plans.buying.sync import PATH
from node.plans.free import free_message
from node.plans.terms import Beyond

SECRET_PREFIX: Final = "fbs_"
MOST_NAME: Final = 200
_RENEWABLE: Final = (BoughtState.ACTIVE, BoughtState.GRACE, BoughtState.LAPSED)


@dataclass(frozen=True, slots=True)
class Agreed:
    """What somebody agreed to. `now_atoms`: for the rest of this month; `month_atoms`: the most
    that a renewal may cost. `name` and `email` are told to the seller, for its invoices."""

    now_atoms: int
    month_atoms: int
    renews: bool = True
    beyond: Beyond = Beyond.PAY
    name: str = ""
    email: str = ""

    def check(self, plan: Plan) -> None:
        """Raises SubscriptionInvalid; above all for a price that was not agreed to."""
        if not 0 <= self.month_atoms <= MAX_ATOMS:
            raise SubscriptionInvalid("month", "Write an amount of USDC.")
        for field, value in (("name", self.name), ("email", self.email)):
            if len(value) > MOST_NAME or not value.isprintable():
                raise SubscriptionInvalid(field, f"At most {MOST_NAME} readable characters.")
        if plan.now is None:
            raise SubscriptionInvalid("", "The seller does not say what the plan costs now.")
        if plan.now.price_atoms > self.now_atoms:
            asked = Usdc(plan.now.price_atoms)
            raise SubscriptionInvalid("", f"The price has changed: the plan costs {asked} USDC.")

    def told(self) -> dict[str, Any]:
        """For the audit trail."""
        names = ("now_atoms", "month_atoms", "renews", "beyond")
        return {name: getattr(self, name) for name in names}


def new_secret() -> str:
    """A subscription's key: made here, and nowhere else."""
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def hash_of(secret: str) -> str:
    """What a seller is told of a key: its SHA-256, hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Ordering:
    """Writes orders. Amounts are what was agreed to: above, nothing is signed."""

    def __init__(self, engine: Engine, vault: Vault) -> None:
        self._engine, self._vault = engine, vault

    def subscription(
        self, actor: Actor, offer: Offer, plan: Plan, agreed: Agreed, now: int
    ) -> tuple[str, str]:
        """Ids of the new subscription and its order. Raises NotPossibleNow, SubscriptionInvalid."""
        agreed.check(plan)
        secret, subscription_id = new_secret(), new_id("sub")
        path = f"/.farebox/plans/{plan.id}"
        body = self._body(hash_of(secret), f"{offer.place.base}{path}", plan, agreed)
        row = _new_row(subscription_id, offer, plan, agreed, now)
        row |= {"secret_sealed": self._vault.seal(secret.encode()), "created_by": actor.name}
        audit = {"listing": offer.place.listing_id, "plan": plan.id, **agreed.told()}
        text = f"Ordered the plan {plan.name} for up to {Usdc(agreed.now_atoms)} USDC."
        try:
            with writer(self._engine).begin() as connection:
                add_subscription(connection, row)
                kind, most = OrderKind.SUBSCRIBE, agreed.now_atoms
                order_id = add_order(
                    connection, subscription_id, kind, FIRST, plan.id, path, body, most, now
                )
                note(connection, subscription_id, "ordered", text, now, by=actor.name)
                record(connection, actor, "subscription.order", subscription_id, now, after=audit)
        except IntegrityError:
            sentence = "This listing has a subscription already. Upgrade it, or cancel it first."
            raise NotPossibleNow(sentence) from None
        return subscription_id, order_id

    def month(self, subscription_id: str, now: int) -> int:
        """The begin of the month that a renewal buys now. Raises SubscriptionUnknown."""
        with self._engine.connect() as connection:
            return renewed_month(read_row(connection, subscription_id).paid_until, now)

    def renewal(
        self, actor: Actor, subscription_id: str, most_atoms: int | None, now: int, month: int
    ) -> str:
        """The order of the month that begins then: there is only one, whoever asks for it how
        often. `most_atoms` None: by itself, as was agreed to. Raises NotPossibleNow, also where a
        renewal would buy another month by now, and SubscriptionUnknown."""
        try:
            with writer(self._engine).begin() as connection:
                slot = renewal_slot(month)
                found = order_of_slot(connection, subscription_id, slot, hold=True)
                row = read_row(connection, subscription_id, hold=True)
                _check_renewable(connection, row, now)
                if most_atoms is None:
                    most_atoms = _agreed_atoms(row)
                change_row(connection, row.id, {"open_for": row.listing_id})
                audit = {"most_atoms": most_atoms, "slot": slot}
                record(connection, actor, "subscription.renew", row.id, now, after=audit)
                _check_month(row, found, month, now)
                if found is not None:
                    return _reopen(connection, found, most_atoms)
                refuse_while_ordering(connection, row.id)
                plan_id = (plan_of(row.next_plan) or plan_in(row)).id
                path = f"{PATH}/{row.seller_id}/renewal"
                kind = OrderKind.RENEWAL
                return add_order(
                    connection, row.id, kind, slot, plan_id, path, "{}", most_atoms, now
                )
        except IntegrityError:
            raise NotPossibleNow("This listing has another subscription by now.") from None

    def upgrade(
        self, actor: Actor, subscription_id: str, plan_id: str, most_atoms: int, now: int
    ) -> str:
        """The order of a dearer plan for the rest of the month. Raises NotPossibleNow,
        SubscriptionUnknown."""
        with writer(self._engine).begin() as connection:
            row = read_live(connection, subscription_id, now, hold=True)
            refuse_while_ordering(connection, row.id)
            path = f"{PATH}/{row.seller_id}/upgrade/{plan_id}"
            slot, kind = f"upgrade:{secrets.token_hex(4)}", OrderKind.UPGRADE
            audit = {"plan": plan_id, "most_atoms": most_atoms}
            record(connection, actor, "subscription.upgrade", row.id, now, after=audit)
            return add_order(connection, row.id, kind, slot, plan_id, path, "{}", most_atoms, now)

    def _body(self, key_hash: str, resource_url: str, plan: Plan, agreed: Agreed) -> str:
        body = {"key_hash": key_hash, "name": agreed.name, "email": agreed.email}
        if plan.monthly_price_atoms == 0:
            # What costs nothing is had by showing whose it is to be.
            payer = self._vault.address
            signature = self._vault.sign(free_message(key_hash, resource_url, payer))
            body |= {"payer": payer, "signature": signature}
        return msgspec.json.encode(body).decode()


def _new_row(
    subscription_id: str, offer: Offer, plan: Plan, agreed: Agreed, now: int
) -> dict[str, Any]:
    return {
        "id": subscription_id,
        "listing_id": offer.place.listing_id,
        "open_for": offer.place.listing_id,
        "base_url": offer.place.base,
        "state": BoughtState.ORDERED.value,
        "plan": plan_text(plan),
        "renews": agreed.renews,
        "agreed_atoms": agreed.month_atoms,
        "beyond": agreed.beyond.value,
        "created_at": now,
    }


def _check_renewable(connection: Connection, row: Row[Any], now: int) -> None:
    standing = standing_of(row, plan_in(row))
    if not row.seller_id or standing.at(now) not in _RENEWABLE:
        raise NotPossibleNow("It is over, or was cancelled. Subscribe anew.")
    if standing.free:
        raise NotPossibleNow("A free plan goes on by itself.")
    if not listing_stands(connection, row):
        sentence = "Its listing is gone from the catalog, or has another address now."
        raise NotPossibleNow(f"{sentence} Nothing is paid to it.")


def _agreed_atoms(row: Row[Any]) -> int:
    """What a renewal by itself may cost, as it stands now: the job may have waited for another
    seller since it read it."""
    if not row.renews:
        raise NotPossibleNow("It is not renewed by itself any more.")
    return int(row.agreed_atoms)


def _check_month(row: Row[Any], order: Row[Any] | None, month: int, now: int) -> None:
    if order is not None and order.state == OrderState.DONE:
        raise NotPossibleNow("That month is paid already.")
    if month != renewed_month(row.paid_until, now):
        raise NotPossibleNow("A renewal would buy another month by now. Look at it again.")


def _reopen(connection: Connection, order: Row[Any], most_atoms: int) -> str:
    values = {"state": OrderState.OPEN.value, "most_atoms": most_atoms, "done_at": 0}
    changed = update(BoughtOrder).where(col(BoughtOrder.id) == order.id)
    connection.execute(changed.values(next_try_at=0, **values))
    return str(order.id)
