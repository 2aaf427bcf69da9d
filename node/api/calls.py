"""The journal of calls, newest first."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Query
from pydantic import BaseModel
from sqlalchemy import Engine

from node.accounts.access import Permission
from node.api.dashboard import SideName, SideQuery
from node.api.routing import Endpoints
from node.usage.call_list import CallFilter, CallLine, CallPage, Cursor, Outcome, read_calls
from node.usage.dashboard import busy_side
from node.usage.models import Side


class CallOut(BaseModel):
    """One call. `amount_atoms`: cost (buyer) or revenue (seller); `scheme` null when free;
    `status` as given to the caller; `error` is a code when it failed."""

    id: str
    at_ms: int
    listing_id: str
    listing: str
    method: str
    path: str
    status: int
    error: str | None
    scheme: str | None
    amount_atoms: int
    latency_us: int
    bytes_out: int
    key_id: str | None
    payer: str | None


class CallsOut(BaseModel):
    """Some calls; `total` is how many the filter has in all. `older` is the `before` of the
    next page, null at the end."""

    side: SideName
    items: list[CallOut]
    total: int
    older: str | None


def endpoints(engine: Engine) -> Endpoints:
    """`/api/calls`."""
    area = Endpoints("", ["dashboard"])

    @area.get("/calls", Permission.SEE_DASHBOARD)
    async def calls(
        side: SideQuery = None,
        listing: Annotated[str | None, Query(pattern="^[!-~]{1,80}$", description="its id")] = None,
        outcome: Outcome = Outcome.ALL,
        before: Annotated[str | None, Query(pattern="^[0-9]{1,15}-[!-~]{1,80}$")] = None,
        count: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> CallsOut:
        """Calls of one side, API and outcome."""
        shown = side.side if side else await asyncio.to_thread(busy_side, engine)
        wanted = CallFilter(shown, listing, outcome)
        after = None if before is None else Cursor.parse(before)
        page = await asyncio.to_thread(read_calls, engine, wanted, after, count)
        return _answer(shown, page)

    return area


def _answer(side: Side, page: CallPage) -> CallsOut:
    return CallsOut(
        side=SideName.of(side),
        items=[call_out(call) for call in page.calls],
        total=page.total,
        older=None if page.older is None else str(page.older),
    )


def call_out(call: CallLine) -> CallOut:
    """One call as this API tells it."""
    return CallOut(
        id=call.id,
        at_ms=call.at_ms,
        listing_id=call.listing_id,
        listing=call.listing,
        method=call.method,
        path=call.path,
        status=call.status,
        error=call.error,
        scheme=call.scheme,
        amount_atoms=call.amount_atoms,
        latency_us=call.latency_us,
        bytes_out=call.bytes_out,
        key_id=call.key_id,
        payer=call.payer,
    )
