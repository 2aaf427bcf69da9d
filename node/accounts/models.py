"""Tables of accounts: users, sessions, tokens, and the trail of changes."""

from __future__ import annotations

from sqlalchemy import BigInteger, Text
from sqlmodel import Field, SQLModel

from finance.columns import ROW_ID


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


class User(SQLModel, table=True):
    """Somebody who may sign in. Never deleted: the trail of changes names them."""

    __tablename__ = "user_account"

    id: str = Field(primary_key=True)
    name: str = Field(description="to sign in with, as it was typed when it was made")
    name_key: str = Field(unique=True, description="the name in lower case")
    email: str = Field(default="", description="empty when none was given")
    role: str = Field(description="see access.Role")
    password_hash: str = Field(description="argon2id, PHC string")
    temporary_password: bool = Field(default=False, description="must be changed at sign-in")
    totp_secret_sealed: str = Field(default="", description="empty without a second factor")
    totp_pending_sealed: str = Field(default="", description="offered, not confirmed with a code")
    totp_last_step: int = Field(
        default=0, sa_type=BigInteger, description="30 s step of the last code taken; used once"
    )
    failed_attempts: int = Field(default=0, description="since the last success")
    locked_until: int = Field(default=0, sa_type=BigInteger, description="Unix seconds")
    disabled: bool = Field(default=False)
    created_at: int = Field(sa_type=BigInteger)
    last_sign_in_at: int | None = Field(default=None, sa_type=BigInteger)
    zone: str = Field(default="", description="IANA name of the time zone; empty: the browser's")
    theme: str = Field(default="system", description="system, light, dark")


class UserSession(SQLModel, table=True):
    """One signed-in browser. The cookie's token is kept as its hash only."""

    __tablename__ = "user_session"

    id: str = Field(primary_key=True, description="names the session to people; opens nothing")
    token_hash: str = Field(unique=True, description="SHA-256 of the cookie's token, hex")
    user_id: str = Field(index=True)
    created_at: int = Field(sa_type=BigInteger)
    last_seen_at: int = Field(sa_type=BigInteger, description="Unix seconds, to the minute")
    expires_at: int = Field(sa_type=BigInteger, description="ends then, however busy")
    address: str = Field(description="where it was begun")
    user_agent: str = Field(description="the browser as it names itself, cut")
    csrf: str = Field(description="what every form of this session must repeat")
    second_factor: bool = Field(
        default=True, description="false: the password was right, the code is still due"
    )


class RecoveryCode(SQLModel, table=True):
    """Signs in once in place of a code of the second factor."""

    __tablename__ = "recovery_code"

    code_hash: str = Field(primary_key=True, description="SHA-256, hex")
    user_id: str = Field(index=True)
    used_at: int | None = Field(default=None, sa_type=BigInteger)


class ApiToken(SQLModel, table=True):
    """A bearer token of the JSON API; only its hash is kept."""

    __tablename__ = "api_token"

    id: str = Field(primary_key=True)
    token_hash: str = Field(unique=True, description="SHA-256 of the token, hex")
    user_id: str = Field(index=True, description="who made it; it ends with their rights")
    name: str
    role: str = Field(description="never more than its maker's, see access.Role")
    created_at: int = Field(sa_type=BigInteger)
    last_used_at: int | None = Field(default=None, sa_type=BigInteger)
    expires_at: int | None = Field(default=None, sa_type=BigInteger, description="null: never")
    revoked_at: int | None = Field(default=None, sa_type=BigInteger)


class SetupCode(SQLModel, table=True):
    """Opens the setup wizard from elsewhere, until the first admin is made."""

    __tablename__ = "setup_code"

    code_hash: str = Field(primary_key=True, description="SHA-256, hex")
    created_at: int = Field(sa_type=BigInteger)
    expires_at: int = Field(sa_type=BigInteger)
