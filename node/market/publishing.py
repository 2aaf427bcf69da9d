"""Changing what this node sells, each change with its entry in the audit trail.

A running node takes a change over within a second; calls that were admitted before keep
the price they were offered (node.gateway.match: the table is replaced whole).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, func, select
from sqlmodel import col

from catalog.drafts import Draft, DraftCredential, DraftRoute
from catalog.editing import (
    add_listing,
    change_credential,
    change_listing,
    find_listings,
    pause_listing,
    read_listing,
    remove_listing,
    set_mode,
)
from catalog.errors import ListingInvalid, ListingUnknown
from catalog.models import Listing, ListingMode, ListingOrigin, PriceUnit, RoutePrice
from finance.models import ChannelState, SellerChannel
from finance.money import Usdc
from node.accounts.audit import Actor, record
from node.db.engine import writer
from node.market.drafts import keep_credential_here, summary
from node.market.publisher import Publisher
from node.usage.breakdown import api_sums
from node.usage.models import Side
from node.usage.set_aside import of_shown_network


@dataclass(frozen=True, slots=True)
class Change:
    """New values of a listing; None leaves a field as it is. `spec` is checked, compact."""

    name: str | None = None
    base_url: str | None = None
    description: str | None = None
    tags: tuple[str, ...] | None = None
    health_path: str | None = None
    price: Usdc | None = None
    unit: PriceUnit | None = None
    routes: tuple[DraftRoute, ...] | None = None
    spec: str | None = None
    credential: DraftCredential | None = None


@dataclass(frozen=True, slots=True)
class Farewell:
    """What deleting a listing leaves behind. Channels belong to payers and this node, not to
    one API: `open_channels` and `unclaimed_atoms` are of all of them together."""

    name: str
    slug: str
    calls: int
    revenue_atoms: int
    open_channels: int
    channel_atoms: int
    unclaimed_atoms: int
    other_listings: int


_ORIGINS: Final[dict[str, str]] = {ListingOrigin.OWN: "sold here", ListingOrigin.REMOTE: "bought"}
_CHANGED: Final = (
    "The listing was changed after this page was made. What you typed still stands here: compare"
    " it with the listing, then save again."
)


def sell(publisher: Publisher, draft: Draft, mode: ListingMode, actor: Actor, now: int) -> str:
    """Put an API up for sale at once, without draft and samples (blocking); its id. One to
    buy from (`draft.origin`) is added as it is given.

    `draft.spec` must have been checked. Raises ListingExists.
    """
    with writer(publisher.engine).begin() as connection:
        listing_id = add_listing(connection, draft, publisher.seal, now)
        if mode is not ListingMode.LIVE:
            set_mode(connection, listing_id, mode, now)
        after = {**summary(draft), "mode": mode.value}
        action = "listing.publish" if draft.origin is ListingOrigin.OWN else "listing.add"
        record(connection, actor, action, listing_id, now, None, after)
    return listing_id


def change(
    publisher: Publisher,
    listing_id: str,
    wanted: Change,
    actor: Actor,
    now: int,
    seen: int | None = None,
) -> None:
    """Change fields of a listing of ours, if `updated_at` is still what was `seen`, where
    anything was (blocking). Raises ListingInvalid, ListingUnknown."""
    with writer(publisher.engine).begin() as connection:
        row, prices = own_listing(connection, listing_id)
        if seen not in (None, row.updated_at):
            raise ListingInvalid("", _CHANGED)
        before = as_draft(row, prices)
        after = _changed(before, wanted)
        if wanted.credential is None:
            keep_credential_here(row.credential_kind, row.base_url, after.base_url)
        change_listing(connection, listing_id, after, now)
        old, new = summary(before), summary(after)
        differing = [name for name in new if new[name] != old[name]]
        if differing:
            shown = [{name: each[name] for name in differing} for each in (old, new)]
            record(connection, actor, "listing.change", listing_id, now, *shown)
        if wanted.credential is not None:
            _change_credential(connection, publisher, row, wanted.credential, actor, now)


def pause(publisher: Publisher, name: str, paused: bool, actor: Actor, now: int) -> int:
    """Pause or resume what is called `name` (blocking); how many. Raises ListingUnknown."""
    with writer(publisher.engine).begin() as connection:
        ids = find_listings(connection, name)
        count = pause_listing(connection, name, paused, now)
        for listing_id in ids:
            action = "listing.pause" if paused else "listing.resume"
            record(connection, actor, action, listing_id, now)
    return count


def switch_mode(publisher: Publisher, name: str, mode: ListingMode, actor: Actor, now: int) -> int:
    """Sell for money or answer from samples (blocking); how many. Raises ListingUnknown,
    ListingInvalid."""
    with writer(publisher.engine).begin() as connection:
        ids = _only_one(connection, name)
        before = {each: read_listing(connection, each)[0].mode for each in ids}
        count = set_mode(connection, name, mode, now)
        for listing_id, old in before.items():
            record(
                connection, actor, "listing.mode", listing_id, now, {"mode": old}, {"mode": mode}
            )
    return count


def remove(publisher: Publisher, name: str, actor: Actor, now: int) -> int:
    """Take what is called `name` out of the catalog (blocking); how many.

    What was earned stays in the books and is claimed as before. Raises ListingUnknown.
    """
    with writer(publisher.engine).begin() as connection:
        for listing_id in find_listings(connection, name):
            gone = summary(as_draft(*read_listing(connection, listing_id)))
            record(connection, actor, "listing.remove", listing_id, now, gone)
        return remove_listing(connection, name)


def _only_one(connection: Connection, name: str) -> Sequence[str]:
    """What is called so, where nothing else is: names of bought ones are their sellers'. Raises
    ListingUnknown, ListingInvalid."""
    ids = find_listings(connection, name)
    if len(ids) > 1:
        found = select(col(Listing.id), col(Listing.origin)).where(col(Listing.id).in_(ids))
        rows = connection.execute(found.order_by(col(Listing.origin)))
        which = ", ".join(f"{id_} ({_ORIGINS[origin]})" for id_, origin in rows)
        raise ListingInvalid("name", f"{name!r} is the name of several; give an id: {which}.")
    return ids


def farewell(publisher: Publisher, listing_id: str) -> Farewell:
    """What to tell before a listing is deleted (blocking). Raises ListingUnknown."""
    owed = col(SellerChannel.charged_atoms) - col(SellerChannel.total_claimed_atoms)
    channels = select(
        func.count(),
        func.coalesce(func.sum(col(SellerChannel.balance_atoms)), 0),
        func.coalesce(func.sum(owed), 0),
    ).where(col(SellerChannel.state) != ChannelState.CLOSED)
    others = select(func.count()).where(
        col(Listing.origin) == ListingOrigin.OWN, col(Listing.id) != listing_id
    )
    with publisher.engine.connect() as connection:
        row, _ = own_listing(connection, listing_id)
        sums = {each.listing_id: each.sums for each in api_sums(connection, Side.SERVED)}
        here = of_shown_network(connection, col(SellerChannel.chain_id))
        open_channels, held, unclaimed = connection.execute(channels.where(here)).one()
        mine = sums.get(listing_id)
        return Farewell(
            row.name,
            row.slug,
            mine.calls if mine else 0,
            mine.amount_atoms if mine else 0,
            int(open_channels),
            int(held),
            int(unclaimed),
            int(connection.scalar(others) or 0),
        )


def read_draft_of(publisher: Publisher, listing_id: str) -> Draft:
    """A listing of ours as it is edited (blocking). Raises ListingUnknown."""
    with publisher.engine.connect() as connection:
        return as_draft(*own_listing(connection, listing_id))


def own_listing(connection: Connection, listing_id: str) -> tuple[Listing, tuple[RoutePrice, ...]]:
    """A listing that this node sells. Raises ListingUnknown."""
    row, prices = read_listing(connection, listing_id)
    if row.origin != ListingOrigin.OWN:
        raise ListingUnknown("This node does not sell that API; it buys it.")
    return row, prices


def as_draft(row: Listing, prices: tuple[RoutePrice, ...]) -> Draft:
    """A stored listing in the form that is edited; without its credential."""
    return Draft(
        name=row.name,
        slug=row.slug,
        base_url=row.base_url,
        origin=ListingOrigin(row.origin),
        price=Usdc(row.price_atoms),
        unit=PriceUnit(row.price_unit),
        routes=tuple(
            DraftRoute(p.method, p.path, Usdc(p.price_atoms), PriceUnit(p.price_unit))
            for p in prices
        ),
        description=row.description,
        tags=tuple(json.loads(row.tags)),
        spec=row.spec,
        health_path=row.health_path,
    )


def _changed(before: Draft, wanted: Change) -> Draft:
    """Raises ListingInvalid. The slug stays: buyers have the address."""
    fields: dict[str, Any] = {}
    plain = ("name", "base_url", "description", "tags", "health_path", "price", "unit", "routes")
    for name in plain:
        value = getattr(wanted, name)
        if value is not None:
            fields[name] = value
    if wanted.spec is not None:
        fields["spec"] = wanted.spec
    if wanted.credential is not None:
        fields["credential"] = wanted.credential
    return replace(before, **fields)


def _change_credential(
    connection: Connection,
    publisher: Publisher,
    row: Listing,
    credential: DraftCredential,
    actor: Actor,
    now: int,
) -> None:
    change_credential(connection, row.id, credential, publisher.seal, now)
    before = {"kind": row.credential_kind, "name": row.credential_name}
    after = {"kind": credential.kind, "name": credential.name}
    record(connection, actor, "listing.credential", row.id, now, before, after)
