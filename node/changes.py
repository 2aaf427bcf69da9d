"""What other processes change while a node runs: listings, prices, keys, limits.

The `farebox` command writes to the database; the node looks once a second whether
anything differs, and then takes all of it over. No socket, no signal, nothing to lose.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col

from catalog.editing import catalog_version
from finance.buying.models import SpendLimit
from node.plans.buying.keys import held_version
from node.plans.subscribers import plans_version
from node.preferences import preferences_version
from node.usage.keys import keys_version
from node.usage.overrides import overrides_version

LOOK_SECONDS = 1.0

_log = logging.getLogger(__name__)


def read_version(engine: Engine) -> tuple[object, ...]:
    """Differs whenever something did that a running node must take over."""
    limits = select(
        col(SpendLimit.scope), col(SpendLimit.subject), col(SpendLimit.limit_atoms)
    ).order_by(col(SpendLimit.scope), col(SpendLimit.subject))
    with engine.connect() as connection:
        rows = connection.execute(limits).all()
        chosen = preferences_version(connection), keys_version(connection, int(time.time()))
        lifted = overrides_version(connection), plans_version(connection)
        held = held_version(connection)
    return (*chosen, lifted, held, *catalog_version(engine), *(tuple(row) for row in rows))


async def follow_changes(engine: Engine, take_over: Callable[[], Awaitable[None]]) -> None:
    """Call `take_over` now and after each change, for as long as the node runs."""
    known: object = None
    while True:
        try:
            version = await asyncio.to_thread(read_version, engine)
            if version != known:
                await take_over()
                known = version
        except SQLAlchemyError as error:
            _log.warning("changes cannot be read now: %s", error)
        await asyncio.sleep(LOOK_SECONDS)
