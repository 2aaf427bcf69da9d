"""Roles and what each may do: the one table that pages and the JSON API both ask.

Who is refused gets 403, on a page as in JSON; a tab that a role may not open is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from node.accounts.errors import Forbidden


class Role(StrEnum):
    """Stored with each user and token; only ever added to."""

    ADMIN = "admin"
    API_OWNER = "api_owner"
    CONSUMER = "consumer"
    FINANCE = "finance"
    VIEWER = "viewer"

    @property
    def label(self) -> str:
        """As it stands on the screen."""
        return {"api_owner": "API owner"}.get(self.value, self.value.capitalize())


class Permission(StrEnum):
    """What a page or an endpoint asks for."""

    OWN_ACCOUNT = "own_account"  # password, TOTP, sessions, appearance of oneself
    SEE_DASHBOARD = "see_dashboard"
    SEE_CATALOG = "see_catalog"
    USE_CATALOG = "use_catalog"  # star, demo or production, try in demo
    SPEND = "spend"  # try it paid: the node's money buys a call
    MANAGE_CATALOG = "manage_catalog"  # add addresses, peers and what they list
    SEE_LISTINGS = "see_listings"  # API Management
    MANAGE_LISTINGS = "manage_listings"
    SEE_FINANCE = "see_finance"
    MOVE_MONEY = "move_money"  # withdraw, claim, refund, pause, thresholds, spending limits
    EXPORT_WALLET = "export_wallet"  # and import
    SEE_NOTIFICATIONS = "see_notifications"
    HANDLE_NOTIFICATIONS = "handle_notifications"
    MANAGE_KEYS = "manage_keys"  # consumer secrets
    SEE_DEVELOPERS = "see_developers"  # who uses what, of integrators
    OWN_USAGE = "own_usage"  # My usage: keys whose owner's email is one's own; admins: every key
    MANAGE_PLANS = "manage_plans"  # tiers, quotas, overrides
    MANAGE_USERS = "manage_users"
    CONFIGURE = "configure"  # email, rules, network
    BACK_UP = "back_up"
    SEE_AUDIT = "see_audit"


_SEEING: Final = frozenset(
    {
        Permission.OWN_ACCOUNT,
        Permission.SEE_DASHBOARD,
        Permission.SEE_CATALOG,
        Permission.SEE_NOTIFICATIONS,
    }
)

GRANTS: Final[Mapping[Role, frozenset[Permission]]] = MappingProxyType(
    {
        Role.ADMIN: frozenset(Permission),
        Role.API_OWNER: _SEEING
        | {
            Permission.USE_CATALOG,
            Permission.SEE_LISTINGS,
            Permission.MANAGE_LISTINGS,
            Permission.SEE_DEVELOPERS,
            Permission.HANDLE_NOTIFICATIONS,
        },
        Role.CONSUMER: _SEEING
        | {
            Permission.USE_CATALOG,
            Permission.SPEND,
            Permission.MANAGE_CATALOG,
            Permission.MANAGE_KEYS,
            Permission.OWN_USAGE,
            Permission.HANDLE_NOTIFICATIONS,
        },
        Role.FINANCE: _SEEING
        | {
            Permission.SEE_FINANCE,
            Permission.MOVE_MONEY,
            Permission.HANDLE_NOTIFICATIONS,
        },
        Role.VIEWER: _SEEING
        | {Permission.SEE_LISTINGS, Permission.SEE_FINANCE, Permission.SEE_DEVELOPERS},
    }
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is asking: a user in a session, or the holder of a token.

    `address` is where the request came from. `session_id` is None for a token, and `ends_at` is
    when that ends (Unix seconds; None: never). `restricted` users (temporary password, second
    factor due) reach their own account only.
    """

    user_id: str
    name: str
    role: Role
    address: str
    session_id: str | None = None
    restricted: bool = False
    ends_at: int | None = None

    def may(self, permission: Permission) -> bool:
        """Whether this role is allowed it, now."""
        allowed = permission in GRANTS[self.role]
        return allowed and (not self.restricted or permission is Permission.OWN_ACCOUNT)

    def require(self, permission: Permission) -> None:
        """Raises Forbidden."""
        if not self.may(permission):
            raise Forbidden(f"The role {self.role.label} may not do this. Ask an admin.")
