"""Carries deliveries out: whatever is due is claimed, sent, and recorded, also after a restart."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from finance.errors import WalletError
from node.alerts.alerts import Alerts
from node.alerts.deliveries import (
    Claimed,
    Outcome,
    claim_due,
    claim_one,
    read_delivery,
    record_outcome,
)
from node.alerts.errors import NotConfigured, NotificationUnknown, SendFailed
from node.alerts.mail import Mailer
from node.alerts.mailbox import MailState
from node.alerts.models import Channel, DeliveryKind, DeliveryState
from node.alerts.reading import DeliveryView, NotificationView, read_notification
from node.alerts.webhook import Webhook
from node.alerts.wording import Letters, NodeName, event_name, payload
from node.egress import EgressPolicy

LOOK_SECONDS = 5.0
TAKEN_SECONDS = 0.25  # until the next look at what somebody else is sending

_log = logging.getLogger(__name__)


class Courier:
    """One per process; the database lets each delivery out once per attempt."""

    def __init__(
        self,
        engine: Engine,
        wake: asyncio.Event,
        mailer: Mailer,
        webhook: Webhook,
        node: NodeName,
        clock: Callable[[], float],
    ) -> None:
        self.engine = engine
        self._wake = wake
        self._mailer = mailer
        self._webhook = webhook
        self._node = node
        self._letters = Letters()
        self._clock = clock

    async def follow(self) -> None:
        """Deliver for as long as the node runs."""
        while True:
            self._wake.clear()
            try:
                while await self.deliver_due():
                    pass
            except SQLAlchemyError as error:
                _log.warning("deliveries cannot be read now: %s", type(error).__name__)
            # Not wait_for: on Python 3.11 it swallows a cancellation that meets a wake-up.
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wake.wait()

    async def deliver_due(self) -> int:
        """One round: all that is due, side by side; how many were tried."""
        claimed = await asyncio.to_thread(claim_due, self.engine, self._now())
        await asyncio.gather(*(self._deliver(each) for each in claimed))
        return len(claimed)

    async def deliver_now(self, delivery_id: str) -> DeliveryView:
        """Try this one at once (a test), and say what came of it, also where another round, or
        another process, has taken it before."""
        while True:
            claimed = await asyncio.to_thread(claim_one, self.engine, delivery_id, self._now())
            if claimed is not None:
                await self._deliver(claimed)
            found = await asyncio.to_thread(read_delivery, self.engine, delivery_id)
            if found.state != DeliveryState.SENDING:
                return found
            await asyncio.sleep(TAKEN_SECONDS)

    async def _deliver(self, claimed: Claimed) -> None:
        try:
            outcome = await self._attempt(claimed)
        except (NotConfigured, NotificationUnknown) as error:
            outcome = Outcome(DeliveryState.GIVEN_UP, error=str(error))
        except SendFailed as error:
            _log.warning("%s %s: %s", claimed.channel.value, claimed.id, error)
            outcome = Outcome(DeliveryState.FAILED, error.status, str(error))
        except WalletError:
            why = "The stored password or secret cannot be decrypted. Enter it again."
            outcome = Outcome(DeliveryState.FAILED, error=why)
        await asyncio.to_thread(record_outcome, self.engine, claimed, outcome, self._now())

    async def _attempt(self, claimed: Claimed) -> Outcome:
        incident = await asyncio.to_thread(self._incident, claimed)
        if claimed.channel is Channel.WEBHOOK:
            body = payload(claimed.id, claimed.kind, claimed.created_at, self._node, incident)
            status = await self._webhook.post(body, event_name(claimed.kind), claimed.id)
            return Outcome(DeliveryState.SENT, status)
        if incident is None:
            letter = self._letters.test(claimed.created_at, self._node)
        else:
            letter = self._letters.incident(incident, claimed.kind, self._node)
        state = await self._mailer.send(letter, claimed.id)
        kept = state is MailState.KEPT
        return Outcome(DeliveryState.KEPT if kept else DeliveryState.SENT)

    def _incident(self, claimed: Claimed) -> NotificationView | None:
        if claimed.kind is DeliveryKind.TEST or claimed.notification_id is None:
            return None
        return read_notification(self.engine, claimed.notification_id)

    def _now(self) -> int:
        return int(self._clock())


def build_courier(
    alerts: Alerts,
    unseal: Callable[[str], bytes],
    egress: Callable[[], EgressPolicy],
    node: NodeName,
    clock: Callable[[], float] = time.time,
) -> Courier:
    """With its mailer and webhook; `egress` says which private hosts may be reached."""
    mailer = Mailer(alerts.engine, unseal, clock)
    webhook = Webhook(alerts.engine, unseal, egress, clock)
    return Courier(alerts.engine, alerts.wake, mailer, webhook, node, clock)
