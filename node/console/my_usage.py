"""Developers > My usage: one's own keys, what they used, what holds for them, what was paid."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo

from sqlalchemy import Engine
from starlette.responses import Response

from node.accounts.access import Permission
from node.accounts.errors import AccountInvalid
from node.console.forms import Form, read_seen
from node.console.key_record_view import PATH, RECORD, record_lines, record_view
from node.console.my_usage_view import (
    ENDPOINTS,
    GRACES,
    MyUsageView,
    endpoint_lines,
    my_usage_view,
)
from node.console.pages import Pages
from node.console.visit import Visit
from node.usage.key_record import read_record
from node.usage.keys import KeyView, NewKey, rotate_key
from node.usage.live import LiveUse, ReadLive
from node.usage.my_usage import my_key, my_keys, read_key_endpoints, read_key_usage
from node.usage.periods import Period, Span, read_period


@dataclass(frozen=True, slots=True)
class NoKeys:
    """What `developers/no_keys.html` shows."""

    may_keys: bool
    email_missing: bool


class MyUsagePages:
    """The handlers. `console_url`: where apps reach the proxy; `live`: what it does now."""

    def __init__(self, engine: Engine, console_url: str, live: ReadLive) -> None:
        self._engine, self._live = engine, live
        self._base_url = f"{console_url}/call"

    async def show(self, visit: Visit) -> Response:
        keys = await asyncio.to_thread(my_keys, self._engine, visit.identity)
        if not keys:
            view = NoKeys(visit.identity.may(Permission.MANAGE_KEYS), False)
            return visit.page("developers/no_keys.html", view, "My usage")
        wanted = visit.query.get("key", "")
        key = next((each for each in keys if each.id == wanted), keys[0])
        return await self._page(visit, keys, key)

    async def regenerate(self, visit: Visit) -> Response:
        key = await self._key(visit)
        grace = visit.form.get("grace", "")
        if grace not in dict(GRACES):
            raise AccountInvalid("grace", "Choose how long the old token goes on.")
        made = await asyncio.to_thread(
            rotate_key,
            self._engine,
            key.id,
            int(grace),
            visit.now,
            visit.actor,
            read_seen(visit.form),
        )
        keys = await asyncio.to_thread(my_keys, self._engine, visit.identity)
        key = next(each for each in keys if each.id == key.id)
        return await self._page(visit, keys, key, made)

    async def endpoints(self, visit: Visit) -> Response:
        key, period = await self._key(visit), _period(visit.query, visit.now, visit.zone)
        found = await asyncio.to_thread(read_key_endpoints, self._engine, key, period)
        return visit.csv("endpoints.csv", ENDPOINTS, endpoint_lines(found))

    async def record(self, visit: Visit) -> Response:
        key = await self._key(visit)
        lines = await asyncio.to_thread(read_record, self._engine, key, visit.now)
        view = record_view(key, lines, visit.query, visit.now, visit.zone)
        return visit.page("developers/my_usage_record.html", view, "Support & Billings")

    async def record_file(self, visit: Visit) -> Response:
        lines = await asyncio.to_thread(
            read_record, self._engine, await self._key(visit), visit.now
        )
        return visit.csv("record.csv", RECORD, record_lines(lines))

    async def _key(self, visit: Visit) -> KeyView:
        return await asyncio.to_thread(my_key, self._engine, visit.identity, visit.path["key_id"])

    async def _page(
        self, visit: Visit, keys: tuple[KeyView, ...], key: KeyView, made: NewKey | None = None
    ) -> Response:
        days, status = Form(dict(visit.query)), 200
        try:
            period = _period(visit.query, visit.now, visit.zone)
        except AccountInvalid as error:
            days, status = days.refused(error), 422
            period = read_period(Span.THIS_MONTH, visit.now, visit.zone)
        live = self._live(key.id, visit.now)
        view = await asyncio.to_thread(self._read, visit, keys, key, period, days, live, made)
        return visit.page("developers/my_usage.html", view, "My usage", status)

    def _read(
        self,
        visit: Visit,
        keys: tuple[KeyView, ...],
        key: KeyView,
        period: Period,
        days: Form,
        live: LiveUse,
        made: NewKey | None,
    ) -> MyUsageView:
        usage = read_key_usage(self._engine, key, live, visit.now)
        endpoints = read_key_endpoints(self._engine, key, period)
        record = read_record(self._engine, key, visit.now)
        query, zone = visit.query, visit.zone
        return my_usage_view(
            usage, keys, period, endpoints, record, query, days, zone, self._base_url, made
        )


def pages(engine: Engine, console_url: str, live: ReadLive) -> Pages:
    """`/developers/my-usage`, its files, and a new token."""
    pages, own = Pages("developers", "my-usage"), Permission.OWN_USAGE
    handlers, one = MyUsagePages(engine, console_url, live), f"{PATH}/{{key_id}}"
    pages.get(PATH, own)(handlers.show)
    pages.post(f"{one}/regenerate", own)(handlers.regenerate)
    pages.get(f"{one}/endpoints.csv", own)(handlers.endpoints)
    pages.get(f"{one}/record", own)(handlers.record)
    pages.get(f"{one}/record.csv", own)(handlers.record_file)
    return pages


def _period(query: Mapping[str, str], now: int, zone: ZoneInfo) -> Period:
    """As the address names it; this month if it names none. Raises AccountInvalid."""
    name = query.get("span", Span.THIS_MONTH)
    if name not in list(Span):
        raise AccountInvalid("span", "Choose one of the periods.")
    return read_period(
        Span(name), now, zone, _day(query.get("first", "")), _day(query.get("last", ""))
    )


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None
