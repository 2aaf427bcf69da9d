"""What stands in the sidebar, and who sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from node.accounts.access import Identity, Permission


@dataclass(frozen=True, slots=True)
class Tab:
    """A place in the sidebar; one with `sections` opens the first its viewer may see."""

    name: str
    label: str
    path: str
    permission: Permission
    sections: tuple[Tab, ...] = ()


@dataclass(frozen=True, slots=True)
class TabLink:
    """A tab as one viewer sees it."""

    label: str
    path: str
    current: bool


TABS: Final = (
    Tab("dashboard", "Dashboard", "/", Permission.SEE_DASHBOARD),
    Tab("catalog", "Catalog", "/catalog", Permission.SEE_CATALOG),
    Tab("listings", "API Management", "/listings", Permission.SEE_LISTINGS),
    Tab(
        "finance",
        "Finance",
        "/finance",
        Permission.SEE_FINANCE,
        (
            Tab("overview", "Overview", "/finance", Permission.SEE_FINANCE),
            Tab("withdrawals", "Withdrawals", "/finance/withdrawals", Permission.SEE_FINANCE),
            Tab("channels", "Channels", "/finance/channels", Permission.SEE_FINANCE),
            Tab("history", "History", "/finance/history", Permission.SEE_FINANCE),
            Tab("invoices", "Invoices", "/finance/invoices", Permission.SEE_FINANCE),
            Tab("thresholds", "Thresholds", "/finance/thresholds", Permission.SEE_FINANCE),
            Tab("claims", "Claims", "/finance/claims", Permission.SEE_FINANCE),
            Tab("reconcile", "Reconcile", "/finance/reconcile", Permission.SEE_FINANCE),
            Tab("wallet", "Wallet", "/finance/wallet", Permission.EXPORT_WALLET),
        ),
    ),
    Tab(
        "developers",
        "Developers",
        "/developers",
        Permission.SEE_CATALOG,
        (
            Tab("overview", "Overview", "/developers", Permission.SEE_DEVELOPERS),
            Tab("customers", "Customers", "/developers/customers", Permission.SEE_DEVELOPERS),
            Tab("my-usage", "My usage", "/developers/my-usage", Permission.OWN_USAGE),
            Tab(
                "subscriptions",
                "Subscriptions",
                "/developers/subscriptions",
                Permission.SEE_CATALOG,
            ),
        ),
    ),
    Tab(
        "notifications",
        "Notifications",
        "/notifications",
        Permission.SEE_NOTIFICATIONS,
        (
            Tab("list", "List", "/notifications", Permission.SEE_NOTIFICATIONS),
            Tab("rules", "Rules", "/notifications/rules", Permission.CONFIGURE),
        ),
    ),
    Tab(
        "settings",
        "Settings",
        "/settings",
        Permission.OWN_ACCOUNT,
        (
            Tab("users", "Users", "/settings/users", Permission.MANAGE_USERS),
            Tab("email", "Email", "/settings/email", Permission.CONFIGURE),
            Tab("webhook", "Webhook", "/settings/webhook", Permission.CONFIGURE),
            Tab("security", "Security", "/settings/security", Permission.MANAGE_KEYS),
            Tab("network", "Network", "/settings/network", Permission.CONFIGURE),
            Tab("plans", "Plans", "/settings/plans", Permission.SEE_DEVELOPERS),
            Tab("limits", "Limits", "/settings/limits", Permission.SEE_FINANCE),
            Tab("appearance", "Appearance", "/settings/appearance", Permission.OWN_ACCOUNT),
            Tab("backup", "Backup", "/settings/backup", Permission.BACK_UP),
            Tab("audit", "Audit log", "/settings/audit", Permission.SEE_AUDIT),
        ),
    ),
)


def sidebar(identity: Identity, current: str) -> tuple[TabLink, ...]:
    """The tabs this role may open; `current` is the name of the one that is open."""
    return tuple(
        TabLink(tab.label, path, tab.name == current)
        for tab in TABS
        if (path := first_path(identity, tab)) is not None
    )


def first_path(identity: Identity, tab: Tab) -> str | None:
    """What opens with a tab: its first section that this role may see; None: not for them."""
    if not tab.sections:
        return tab.path if identity.may(tab.permission) else None
    return next((each.path for each in tab.sections if identity.may(each.permission)), None)


def sections(identity: Identity, current: str, section: str) -> tuple[TabLink, ...]:
    """The pages beneath a tab that this role may open."""
    tab = next((tab for tab in TABS if tab.name == current), None)
    return tuple(
        TabLink(each.label, each.path, each.name == section)
        for each in (tab.sections if tab else ())
        if identity.may(each.permission)
    )
