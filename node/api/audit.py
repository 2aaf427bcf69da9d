"""The trail of changes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from pydantic import BaseModel

from node.accounts.access import Permission
from node.accounts.service import Accounts
from node.accounts.trail import TrailEntry, TrailFilter, read_trail
from node.api.paging import FilterText, Listed, PageNumber
from node.api.routing import Endpoints

Seconds = Annotated[int | None, Query(ge=0, le=2**53, description="Unix seconds")]


class AuditOut(BaseModel):
    """One change. `before` and `after` are JSON as text; empty: there was, or is, nothing."""

    id: int
    at: int
    actor_id: str
    actor_name: str
    address: str
    action: str
    subject: str
    before: str
    after: str


def endpoints(accounts: Accounts) -> Endpoints:
    """`/api/audit`."""
    api = Endpoints(prefix="", tags=["audit"])

    @api.get("/audit", Permission.SEE_AUDIT)
    async def changes(
        area: FilterText = "",
        actor: FilterText = "",
        text: FilterText = "",
        since: Seconds = None,
        until: Seconds = None,
        page: PageNumber = 1,
    ) -> Listed[AuditOut]:
        """Newest first. `area`: the word before the dot of actions; `until` is not included."""
        wanted = TrailFilter(area, actor, text, since, until)
        found = await accounts.read(read_trail, wanted, page)
        items = [_entry(entry) for entry in found.items]
        return Listed(items=items, total=found.total, page=found.page, pages=found.pages)

    return api


def _entry(entry: TrailEntry) -> AuditOut:
    return AuditOut(**{name: getattr(entry, name) for name in AuditOut.model_fields})
