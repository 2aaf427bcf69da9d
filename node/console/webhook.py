"""Settings > Webhook: where incidents are posted, the secret that signs, the delivery log."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.responses import Response

from node.accounts.access import Permission
from node.alerts.choices import read_webhook
from node.alerts.configure import Seal, queue_test, rotate_secret, save_webhook
from node.alerts.courier import Courier
from node.alerts.errors import AlertsInvalid, NotConfigured
from node.alerts.models import Channel
from node.alerts.reading import PER_PAGE, DeliveryFilter, export_deliveries, list_deliveries
from node.console.deliveries import DELIVERY_HEADER, DeliveryRow, delivery_cells, delivery_row
from node.console.format import count
from node.console.forms import FieldError, Form
from node.console.pager import Pager, numbered, page_number
from node.console.pages import Pages
from node.console.visit import Visit

PATH = "/settings/webhook"
_WHICH = DeliveryFilter(channel=Channel.WEBHOOK)


@dataclass(frozen=True, slots=True)
class WebhookPage:
    """What `settings/webhook.html` shows; `secret` only right after it was made."""

    form: Form
    rotation: Form
    configured: bool
    secret: str
    deliveries: tuple[DeliveryRow, ...]
    total: str
    pager: Pager


def pages(courier: Courier, seal: Seal) -> Pages:
    """`/settings/webhook`."""
    pages = Pages("settings", "webhook")
    engine = courier.engine

    @pages.get(PATH, Permission.CONFIGURE)
    async def show(visit: Visit) -> Response:
        return await _show(courier, visit)

    @pages.post(PATH, Permission.CONFIGURE)
    async def save(visit: Visit) -> Response:
        url = visit.form.get("url", "").strip()
        try:
            secret = await asyncio.to_thread(
                save_webhook, engine, url, seal, visit.actor, visit.now
            )
        except AlertsInvalid as error:
            return await _show(courier, visit, form=Form(visit.form).refused(error))
        if secret:
            return await _show(courier, visit, secret=secret)
        return visit.redirect(PATH, "Webhook saved." if url else "Nothing is posted any more.")

    @pages.post(f"{PATH}/secret", Permission.CONFIGURE)
    async def rotate(visit: Visit) -> Response:
        try:
            await visit.confirm_password()
            secret = await asyncio.to_thread(rotate_secret, engine, seal, visit.actor, visit.now)
        except (FieldError, NotConfigured) as error:
            return await _show(courier, visit, rotation=Form().refused(error))
        return await _show(courier, visit, secret=secret)

    @pages.post(f"{PATH}/test", Permission.CONFIGURE)
    async def test(visit: Visit) -> Response:
        delivery_id = await asyncio.to_thread(
            queue_test, engine, Channel.WEBHOOK, visit.actor, visit.now
        )
        done = await courier.deliver_now(delivery_id)
        if done.state == "sent":
            return visit.redirect(PATH, f"The receiver took it ({done.response_status}).")
        return visit.redirect(PATH, f"The test was not delivered. {done.last_error}", "bad")

    @pages.get(f"{PATH}/deliveries.csv", Permission.CONFIGURE)
    async def export(visit: Visit) -> Response:
        rows = delivery_cells(export_deliveries(engine, _WHICH))
        return visit.csv("deliveries.csv", DELIVERY_HEADER, rows)

    return pages


async def _show(
    courier: Courier,
    visit: Visit,
    form: Form | None = None,
    rotation: Form | None = None,
    secret: str = "",
) -> Response:
    settings = await asyncio.to_thread(read_webhook, courier.engine)
    log = await asyncio.to_thread(list_deliveries, courier.engine, _WHICH, page_number(visit.query))
    view = WebhookPage(
        form=form or Form({"url": settings.url}),
        rotation=rotation or Form(),
        configured=bool(settings.url),
        secret=secret,
        deliveries=tuple(delivery_row(each, visit.now, visit.zone) for each in log.items),
        total=count(log.total),
        pager=numbered(PATH, {}, log.page, PER_PAGE, log.total),
    )
    status = 422 if form or rotation else 200
    return visit.page("settings/webhook.html", view, "Webhook", status)
