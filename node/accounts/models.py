"""Tables of accounts: users, sessions, tokens, and the trail of changes."""

from __future__ import annotations

from sqlalchemy import BigInteger, Text
from sqlmodel import Field, SQLModel

from finance.models import ROW_ID


class AuditEntry(SQLModel, table=True):
    """One change somebody made; never edited. Secrets are left out of before and after."""

    __tablename__ = "audit_entry"

    id: int | None = Field(default=None, primary_key=True, sa_type=ROW_ID)
    at: int = Field(index=True, sa_type=BigInteger)
    actor_id: str = Field(description="user or token id; `system` for jobs, `cli` for commands")
    actor_name: str
    address: str = Field(description="where the request came from; empty for jobs")
    action: str = Field(description="area.verb, e.g. listing.pause")
    subject: str = Field(description="id of what was changed; empty when there is only one")
    before: str = Field(default="", sa_type=Text, description="JSON; empty when it was not there")
    after: str = Field(default="", sa_type=Text, description="JSON; empty when it is gone")
