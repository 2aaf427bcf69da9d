"""What operators hold in their hands: the services behind pages and JSON API, and both apps."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import FastAPI
from sqlalchemy import Engine
from starlette.types import ASGIApp

from finance.networks import Network
from finance.wallet.signer import Keys
from node.accounts.service import Accounts
from node.alerts.alerts import Alerts
from node.alerts.courier import Courier, build_courier
from node.alerts.wording import NodeName
from node.api import accounts as api_accounts
from node.api import audit as api_audit
from node.api import backups as api_backups
from node.api import calls as api_calls
from node.api import catalog as api_catalog
from node.api import dashboard as api_dashboard
from node.api import drafts as api_drafts
from node.api import events as api_events
from node.api import finance as api_finance
from node.api import keys as api_keys
from node.api import listings as api_listings
from node.api import my_usage as api_my_usage
from node.api import notifications as api_notifications
from node.api import peers as api_peers
from node.api import plans as api_plans
from node.api import second_factor as api_second_factor
from node.api import subscriptions as api_subscriptions
from node.api import tokens as api_tokens
from node.api import usage as api_usage
from node.api.app import create_api
from node.api.routing import Endpoints
from node.console import (
    account,
    appearance,
    audit,
    backup,
    calls,
    catalog,
    catalog_add,
    catalog_detail,
    customers,
    dashboard,
    developers,
    email,
    finance,
    finance_books,
    finance_channels,
    finance_choices,
    finance_history,
    finance_invoices,
    finance_withdraw,
    key_forms,
    limits,
    listing_plans,
    listings,
    listings_change,
    listings_register,
    my_usage,
    network,
    notifications,
    plans_settings,
    restore,
    second_factor,
    sections,
    security,
    setup,
    sign_in,
    subscribe,
    subscription_deeds,
    subscription_requests,
    subscriptions,
    users,
    webhook,
)
from node.console.app import create_console
from node.console.facts import NodeFacts
from node.console.pages import Guard, Pages
from node.console.shell import Frame, Notes
from node.console.templates import open_environment
from node.market.publisher import Publisher
from node.market.shop import Shop
from node.plans.buying.service import Subscriptions
from node.private import PrivateListener
from node.settings import Settings
from node.signals import read_signals
from node.treasury.treasury import Treasury
from node.usage.dashboard import Sources
from node.usage.live import ReadLive
from node.vault.build import VaultParts


@dataclass(frozen=True, slots=True)
class Controls:
    """The control plane of one node."""

    engine: Engine
    settings: Settings
    network: Network
    facts: NodeFacts
    accounts: Accounts
    alerts: Alerts
    courier: Courier
    treasury: Treasury
    shop: Shop
    backups: VaultParts
    live: ReadLive
    publisher: Publisher
    subscriptions: Subscriptions


def build_controls(
    settings: Settings,
    facts: NodeFacts,
    keys: Keys,
    alerts: Alerts,
    treasury: Treasury,
    shop: Shop,
    backups: VaultParts,
    live: ReadLive,
    subscriptions: Subscriptions,
) -> Controls:
    """Services from settings, keys and books; nothing runs yet."""
    engine = treasury.engine
    accounts = Accounts(engine, keys.seal, keys.unseal)
    name = NodeName(settings.network, facts.address, settings.console_url)
    courier = build_courier(alerts, keys.unseal, lambda: shop.egress, name)
    return Controls(
        engine,
        settings,
        settings.chain,
        facts,
        accounts,
        alerts,
        courier,
        treasury,
        shop,
        backups,
        live,
        Publisher(engine, keys.seal, keys.unseal, lambda: shop.egress),
        subscriptions,
    )


def page_modules(controls: Controls) -> list[Pages]:
    """Every page of the console, in the order of the sidebar."""
    return [
        dashboard.pages(_sources(controls)),
        calls.pages(controls.engine),
        listings_register.pages(controls.publisher),
        listing_plans.pages(controls.publisher, controls.facts.gateway_url),
        listings_change.pages(controls.publisher),
        listings.pages(controls.publisher, controls.facts, controls.settings.console_url),
        catalog.pages(controls.shop),
        catalog_add.pages(controls.shop),
        catalog_detail.pages(controls.shop, controls.subscriptions),
        subscribe.pages(controls.subscriptions),
        network.pages(controls.shop),
        sign_in.pages(controls.accounts),
        setup.pages(controls.accounts, controls.network, controls.facts, controls.backups.vault),
        account.pages(controls.accounts),
        second_factor.pages(controls.accounts),
        users.pages(controls.accounts),
        security.pages(controls.accounts, controls.settings.console_url),
        key_forms.pages(controls.accounts),
        audit.pages(controls.accounts),
        appearance.pages(controls.accounts),
        backup.pages(controls.backups.vault),
        restore.pages(controls.backups.desk, _setup_guard(controls)),
        *finance_pages(controls.treasury),
        finance_invoices.pages(controls.engine, controls.network),
        developers.pages(controls.engine),
        customers.pages(controls.engine, controls.network),
        subscriptions.pages(controls.subscriptions, controls.network),
        subscription_deeds.pages(controls.subscriptions),
        subscription_requests.pages(controls.subscriptions),
        my_usage.pages(controls.engine, controls.settings.console_url, controls.live),
        plans_settings.pages(controls.engine),
        notifications.pages(controls.alerts),
        notifications.rule_pages(controls.alerts),
        email.pages(controls.courier, controls.accounts.seal),
        webhook.pages(controls.courier, controls.accounts.seal),
        *sections.pages(),
    ]


def finance_pages(treasury: Treasury) -> list[Pages]:
    """Finance, and the limits among the settings."""
    return [
        finance.pages(treasury),
        finance_withdraw.pages(treasury),
        finance_channels.pages(treasury),
        finance_history.pages(treasury),
        finance_choices.pages(treasury),
        finance_choices.claim_pages(treasury),
        finance_books.pages(treasury),
        finance_books.wallet_pages(treasury),
        limits.pages(treasury),
    ]


def _sources(controls: Controls) -> Sources:
    engine, treasury = controls.engine, controls.treasury
    facts = controls.facts
    return Sources(
        engine,
        controls.network,
        facts.address,
        facts.gateway_url,
        facts.started_at,
        lambda: treasury.purse.balances,
        lambda: int(treasury.purse.looked_at) or None,
        lambda now: read_signals(treasury.guard, controls.backups.vault, now),
    )


def _setup_guard(controls: Controls) -> Guard:
    """Whoever may set the node up may restore it."""
    return setup.Wizard(controls.accounts, controls.network, controls.facts, None).refused


def endpoint_modules(controls: Controls) -> list[Endpoints]:
    """Every endpoint of the JSON API."""
    accounts = controls.accounts
    return [
        api_dashboard.endpoints(_sources(controls)),
        api_calls.endpoints(controls.engine),
        api_events.endpoints(controls.engine),
        api_catalog.endpoints(controls.shop),
        api_peers.endpoints(controls.shop),
        api_peers.network_endpoints(controls.shop),
        api_accounts.endpoints(accounts),
        api_second_factor.endpoints(accounts),
        api_tokens.endpoints(accounts),
        api_keys.endpoints(accounts),
        *api_usage.endpoints(controls.engine),
        api_subscriptions.endpoints(controls.subscriptions),
        api_my_usage.endpoints(controls.engine, controls.live),
        api_audit.endpoints(accounts),
        api_drafts.endpoints(controls.publisher),
        *api_plans.endpoints(controls.engine, controls.network.chain_id),
        api_listings.endpoints(controls.publisher),
        api_backups.endpoints(controls.backups.vault),
        *api_finance.endpoints(controls.treasury, accounts),
        *api_notifications.endpoints(controls.alerts, controls.courier, accounts.seal),
    ]


def build_console(controls: Controls) -> FastAPI:
    frame = Frame(
        environment=open_environment(),
        facts=controls.facts,
        network=controls.network,
        accounts=controls.accounts,
        notes=Notes(),
        unread=controls.alerts.unread,
    )
    return create_console(frame, page_modules(controls))


def build_private(controls: Controls, proxy: ASGIApp) -> PrivateListener:
    """The private listener: proxy, API and pages."""
    api = create_api(controls.accounts, endpoint_modules(controls))
    names = controls.settings.console_names
    return PrivateListener(proxy, api, build_console(controls), names)
