"""A mail server that keeps to no rule is a failure that is told, never one of the node."""

from __future__ import annotations

import pytest
from aiosmtpd.smtp import SMTP, AuthResult

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


async def test_a_challenge_that_cannot_be_decoded_is_a_failure_of_this_mail(world: World) -> None:
    """What nobody catches ends the deliveries, and with them the node."""
    with RiddleOffice("node", "open sesame") as office:
        world.use_mail(office.port, user="node", password="open sesame")
        world.speak(Rule.LOW_GAS, Level.EMAIL)
        await world.alerts.raise_(Rule.LOW_GAS, "", "Gas is low.", "/finance")
        assert await world.courier.deliver_due() == 1
    [(state, error)] = world.rows("SELECT state, last_error FROM delivery")
    assert state == "failed" and error.startswith("The mail could not be sent")
