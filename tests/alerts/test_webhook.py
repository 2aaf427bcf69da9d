"""A webhook is believed because it is signed, and arrives because it is repeated."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging

import pytest
from sqlalchemy import Engine

from node.alerts.configure import queue_test, rotate_secret, save_webhook
from node.alerts.deliveries import (
    LEASE_SECONDS,
    RETRY_SECONDS,
    Outcome,
    claim_due,
    record_outcome,
)
from node.alerts.errors import AlertsInvalid, NotConfigured
from node.alerts.models import Channel, DeliveryState
from node.alerts.reading import DeliveryFilter, DeliveryView, list_deliveries
from node.alerts.rules import Level, Rule
from tests.alerts.post_office import Received, Receiver
from tests.alerts.world import ADMIN, World


def verify(received: Received, secret: str, now: int) -> None:
    """As the documentation tells receivers to."""
    parts = dict(part.split("=", 1) for part in received.headers["farebox-signature"].split(","))
    signed = f"{parts['t']}.".encode() + received.body
    expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(expected, parts["v1"])
    assert abs(now - int(parts["t"])) < 300


def deliveries(world: World) -> list[DeliveryView]:
    return list(list_deliveries(world.engine, DeliveryFilter(), 1).items)


async def raise_one(world: World) -> None:
    world.speak(Rule.LOW_GAS, Level.EMAIL_WEBHOOK)
    await world.alerts.raise_(Rule.LOW_GAS, "wallet", "Gas is low.", "/finance")


def of_webhook(world: World) -> DeliveryView:
    [found] = [each for each in deliveries(world) if each.channel == "webhook"]
    return found


async def test_incident_is_posted_signed(world: World, receiver: Receiver) -> None:
    secret = world.use_webhook(receiver.url)
    await raise_one(world)
    await world.courier.deliver_due()
    [post] = receiver.received
    verify(post, secret, world.now)
    body = json.loads(post.body)
    assert body["type"] == post.headers["farebox-event"] == "incident.opened"
    assert body["id"] == post.headers["farebox-delivery"] == of_webhook(world).id
    assert body["incident"] == {
        "id": 1,
        "rule": "low_gas",
        "subject": "wallet",
        "severity": "warning",
        "message": "Gas is low.",
        "opened_at": world.now,
        "resolved_at": None,
        "url": "http://127.0.0.1:8400/notifications/1",
    }
    await world.alerts.resolve(Rule.LOW_GAS, "wallet")
    await world.courier.deliver_due()
    assert json.loads(receiver.received[1].body)["incident"]["resolved_at"] == world.now


async def test_receiver_that_fails_is_tried_again_later_and_later(
    world: World, receiver: Receiver
) -> None:
    secret = world.use_webhook(receiver.url)
    receiver.answers = [500, 503, 404]
    await raise_one(world)
    waits = []
    for _ in range(4):
        await world.courier.deliver_due()
        assert await world.courier.deliver_due() == 0
        waits.append(of_webhook(world).next_attempt_at - world.now)
        world.now = of_webhook(world).next_attempt_at
    assert waits == [10, 60, 300, 0]
    assert (of_webhook(world).state, of_webhook(world).attempts) == ("sent", 4)
    assert len({post.headers["farebox-delivery"] for post in receiver.received}) == 1
    assert len({post.body for post in receiver.received}) == 1
    verify(receiver.received[-1], secret, world.now)


async def test_receiver_that_never_answers_well_is_given_up_at_last(
    world: World, receiver: Receiver
) -> None:
    world.use_webhook(receiver.url)
    receiver.answers = [500] * 50
    await raise_one(world)
    for _ in range(20):
        await world.courier.deliver_due()
        world.now += max(RETRY_SECONDS)
    assert len(receiver.received) == 1 + len(RETRY_SECONDS)
    found = of_webhook(world)
    assert (found.state, found.response_status) == ("given_up", 500)
    assert found.last_error == "The receiver answered 500."


async def test_receiver_that_hangs_is_left(world: World, receiver: Receiver) -> None:
    quick = World(world.engine, timeout=0.3)
    quick.use_webhook(receiver.url)
    receiver.answers = [0]
    await raise_one(quick)
    await quick.courier.deliver_due()
    assert of_webhook(quick).last_error == "The receiver did not answer in time."


async def test_redirects_are_not_followed(world: World, receiver: Receiver) -> None:
    world.use_webhook(receiver.url)
    receiver.answers = [302]
    await raise_one(world)
    await world.courier.deliver_due()
    assert [post.path for post in receiver.received] == ["/hook"]
    assert "redirects (302)" in of_webhook(world).last_error


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
async def test_private_addresses_are_refused_unless_allowed(
    world: World, receiver: Receiver, host: str
) -> None:
    world.allowed = ()
    world.use_webhook(receiver.url.replace("127.0.0.1", host))
    await raise_one(world)
    await world.courier.deliver_due()
    assert receiver.received == []
    assert "private range" in of_webhook(world).last_error


async def test_level_email_posts_nothing(world: World, receiver: Receiver) -> None:
    world.use_webhook(receiver.url)
    world.speak(Rule.LOW_GAS, Level.EMAIL)
    await world.alerts.raise_(Rule.LOW_GAS, "", "Gas is low.", "/finance")
    await world.courier.deliver_due()
    assert receiver.received == []


async def test_no_address_set_is_said_and_not_repeated(world: World) -> None:
    await raise_one(world)
    await world.courier.deliver_due()
    assert (of_webhook(world).state, of_webhook(world).attempts) == ("given_up", 1)
    assert of_webhook(world).last_error == "No webhook address is set."


async def test_end_is_told_after_the_beginning_even_when_that_was_repeated(
    world: World, receiver: Receiver
) -> None:
    world.use_webhook(receiver.url)
    receiver.answers = [500]
    await raise_one(world)
    await world.courier.deliver_due()
    await world.alerts.resolve(Rule.LOW_GAS, "wallet")
    await world.courier.deliver_due()
    assert len(receiver.received) == 1
    world.now += RETRY_SECONDS[0]
    while await world.courier.deliver_due():
        pass
    types = [post.headers["farebox-event"] for post in receiver.received]
    assert types == ["incident.opened", "incident.opened", "incident.resolved"]


async def test_many_processes_send_each_delivery_once(engine: Engine, receiver: Receiver) -> None:
    world = World(engine)
    world.use_webhook(receiver.url)
    world.speak(Rule.UPSTREAM_DOWN, Level.EMAIL_WEBHOOK)
    for number in range(6):
        await world.alerts.raise_(Rule.UPSTREAM_DOWN, str(number), "Down.", "/listings")
    others = [World(engine, keys=world.keys) for _ in range(3)]
    for _ in range(3):
        await asyncio.gather(*(each.courier.deliver_due() for each in [world, *others]))
    ids = [post.headers["farebox-delivery"] for post in receiver.received]
    assert len(ids) == len(set(ids)) == 6


async def test_restart_in_the_middle_of_an_attempt_repeats_it_once_its_lease_is_over(
    world: World, receiver: Receiver
) -> None:
    world.use_webhook(receiver.url)
    await raise_one(world)
    claimed = claim_due(world.engine, world.now)  # and the process dies before it knows
    assert {each.channel for each in claimed} == {Channel.EMAIL, Channel.WEBHOOK}
    assert await world.courier.deliver_due() == 0
    world.now += LEASE_SECONDS
    assert await world.courier.deliver_due() == 2
    assert of_webhook(world).state == "sent"
    assert of_webhook(world).attempts == 2


async def test_restart_between_attempts_loses_nothing(world: World, receiver: Receiver) -> None:
    world.use_webhook(receiver.url)
    receiver.answers = [500]
    await raise_one(world)
    await world.courier.deliver_due()
    again = World(world.engine, keys=world.keys)
    again.now += RETRY_SECONDS[0]
    assert await again.courier.deliver_due() == 1
    assert of_webhook(world).state == "sent"


async def test_courier_wakes_up_for_what_was_just_raised(world: World, receiver: Receiver) -> None:
    world.use_webhook(receiver.url)
    follow = asyncio.create_task(world.courier.follow())
    try:
        await asyncio.sleep(0.1)
        await raise_one(world)
        async with asyncio.timeout(3):
            while not receiver.received:
                await asyncio.sleep(0.02)
    finally:
        follow.cancel()


async def test_new_secret_signs_from_now_on_and_is_shown_once(
    world: World, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    first = world.use_webhook(receiver.url)
    assert world.use_webhook(receiver.url + "/other") == ""
    second = rotate_secret(world.engine, world.keys.seal, ADMIN, world.now)
    await world.courier.deliver_now(queue_test(world.engine, Channel.WEBHOOK, ADMIN, world.now))
    [post] = receiver.received
    verify(post, second, world.now)
    with pytest.raises(AssertionError):
        verify(post, first, world.now)
    for secret in (first, second):
        assert secret.startswith("whsec_") and len(secret) > 40
        assert secret not in world.everything_stored() + caplog.text
    assert ("webhook.rotate_secret",) in world.rows("SELECT action FROM audit_entry")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org",
        "example.org",
        "javascript:alert(1)",
        "https://a:b@example.org",
        "http://",
        "https://example.org/\r\nX: y",
        "https://example.org:99999",
        "https://" + "a" * 3000,
    ],
)
def test_addresses_that_cannot_work_are_refused_at_their_field(world: World, url: str) -> None:
    with pytest.raises(AlertsInvalid) as refusal:
        save_webhook(world.engine, url, world.keys.seal, ADMIN, world.now)
    assert refusal.value.field == "url"


def test_test_and_rotation_want_an_address_first(world: World) -> None:
    with pytest.raises(NotConfigured):
        queue_test(world.engine, Channel.WEBHOOK, ADMIN, world.now)
    with pytest.raises(NotConfigured):
        rotate_secret(world.engine, world.keys.seal, ADMIN, world.now)


async def test_a_test_that_another_process_has_taken_is_waited_for(
    world: World, receiver: Receiver
) -> None:
    """Whoever asked for it is told what came of it, not that it was not delivered."""
    world.use_webhook(receiver.url)
    delivery_id = queue_test(world.engine, Channel.WEBHOOK, ADMIN, world.now)
    [taken] = claim_due(world.engine, world.now)
    asked = asyncio.create_task(world.courier.deliver_now(delivery_id))
    await asyncio.wait([asked], timeout=0.5)
    record_outcome(world.engine, taken, Outcome(DeliveryState.SENT, 204), world.now)
    assert (await asked).state == "sent"
