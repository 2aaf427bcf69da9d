"""A mail server that keeps to no rule is a failure that is told, never one of the node."""

from __future__ import annotations

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from node.alerts import smtp
from node.alerts.rules import Level, Rule
from tests.alerts.post_office import PostOffice
from tests.alerts.world import World

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")


class RiddleOffice(PostOffice):
    """Asks for an answer to a challenge that nobody can decode."""

    async def auth_CRAM__MD5(self, server: SMTP, _words: list[bytes]) -> AuthResult:
        await server.push("334 AAAAA")
        await server._reader.readline()  # type: ignore[union-attr]
        return AuthResult(success=False, handled=False)


class RudeOffice(PostOffice):
    """Takes a letter, and ends the conversation with an error."""

    async def handle_QUIT(self, _server: SMTP, _session: Session, _envelope: Envelope) -> str:
        return "421 closing"


async def test_a_challenge_that_cannot_be_decoded_is_a_failure_of_this_mail(world: World) -> None:
    """What nobody catches ends the deliveries, and with them the node."""
    with RiddleOffice("node", "open sesame") as office:
        world.use_mail(office.port, user="node", password="open sesame")
        world.speak(Rule.LOW_GAS, Level.EMAIL)
        await world.alerts.raise_(Rule.LOW_GAS, "", "Gas is low.", "/finance")
        assert await world.courier.deliver_due() == 1
    [(state, error)] = world.rows("SELECT state, last_error FROM delivery")
    assert state == "failed" and error.startswith("The mail could not be sent")


async def test_a_mail_that_was_taken_is_not_sent_again_for_a_rude_goodbye(world: World) -> None:
    with RudeOffice() as office:
        world.use_mail(office.port)
        world.speak(Rule.LOW_GAS, Level.EMAIL)
        await world.alerts.raise_(Rule.LOW_GAS, "", "Gas is low.", "/finance")
        await world.courier.deliver_due()
        world.now += 3600
        await world.courier.deliver_due()
        assert len(office.letters) == 1
    assert world.rows("SELECT state, last_error FROM delivery") == [("sent", "")]


async def test_a_password_beyond_ascii_is_said_to_be_unfit_and_not_shown(world: World) -> None:
    with PostOffice("node", "open sesame") as office:
        world.use_mail(office.port, user="node", password="öffne dich")
        world.speak(Rule.LOW_GAS, Level.EMAIL)
        await world.alerts.raise_(Rule.LOW_GAS, "", "Gas is low.", "/finance")
        await world.courier.deliver_due()
    [(error,)] = world.rows("SELECT last_error FROM delivery")
    assert "xf6" not in error and "ö" not in error
    assert "password" in error


async def test_a_mail_server_that_says_nothing_holds_up_mail_alone(world: World) -> None:
    """Pages and paid calls look things up in threads, too, of which a small machine has few."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(4))
    silent = socket.create_server(("127.0.0.1", 0))
    world.use_mail(silent.getsockname()[1])
    world.speak(Rule.PEER_UNREACHABLE, Level.EMAIL)
    for number in range(8):
        await world.alerts.raise_(Rule.PEER_UNREACHABLE, str(number), "A peer is away.", "/")
    sending = asyncio.create_task(world.courier.deliver_due())
    try:
        for _ in range(50):
            await asyncio.wait_for(asyncio.to_thread(time.monotonic), 2)
            await asyncio.sleep(0.01)
        assert not sending.done()
    finally:
        silent.close()
        await sending


async def test_a_greeting_that_never_ends_is_a_failure_of_this_mail(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line is in time, and behind it every other mail and post would wait for ever."""
    monkeypatch.setattr(smtp, "TIMEOUT_SECONDS", 0.5)

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"220-please wait\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        world.use_mail(server.sockets[0].getsockname()[1])
        world.speak(Rule.LOW_GAS, Level.EMAIL)
        await world.alerts.raise_(Rule.LOW_GAS, "", "Gas is low.", "/finance")
        await asyncio.wait_for(world.courier.deliver_due(), 20)
    error = "The mail server did not answer in time."
    assert world.rows("SELECT state, last_error FROM delivery") == [("failed", error)]


async def test_a_clock_that_was_a_year_ahead_puts_no_mail_off_for_a_year(
    world: World, post_office: PostOffice
) -> None:
    world.use_mail(post_office.port)
    world.speak(Rule.LOW_GAS, Level.EMAIL)
    today, world.now = world.now, world.now + 365 * 86_400
    post_office.closed = True
    await world.alerts.raise_(Rule.LOW_GAS, "", "Gas is low.", "/finance")
    await world.courier.deliver_due()
    post_office.closed, world.now = False, today
    await world.courier.deliver_due()
    assert len(post_office.letters) == 1
