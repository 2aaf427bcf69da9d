"""Streams bought by the minute: each is paid for a little before the last one has passed.

      opened: its first minute is paid
        │
        ▼     LEAD_SECONDS before it has passed
      paid ─────────────────────────────────────▶ paying ──┐ not now: again, until
        ▲                                          │  │ ▲  │ GRACE_SECONDS have passed
        └──────────────────────────────────────────┘  │ └──┘
                    one minute more                   ▼
                           refused: closed with 4402 and the reason, once what is paid is used up

Each minute is a call of the same key and listing, within every limit and quota, at most at the
price of the first, and bought once: whatever is lost on the way is asked for again with the
same signature. A minute is one that passes here, whatever a seller says.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finance.buying.terms import Terms
from node.lines.pool import Answer as Received
from node.problems import read_problem
from node.proxy.errors import PaymentImpossible, ProxyError, RequestRefused
from node.proxy.plans import Ordered
from node.proxy.sources import Source
from node.usage.calls import new_call_id
from node.usage.keys import KeyRecord
from node.usage.streams import MINUTE, Stream, Streams

if TYPE_CHECKING:
    from node.proxy.answer import Answer
    from node.proxy.call import Request

LEAD_SECONDS = 15
GRACE_SECONDS = 10
RETRY_SECONDS = 2
LOOK_SECONDS = 1.0
STOP_SECONDS = 5.0
ROUTE = "POST /.farebox/*"

_STREAM = re.compile(rb"[0-9A-Za-z_-]{1,64}")
_PLAIN_CODE = re.compile(r"[a-z0-9_]{1,64}")
# The money is gone, only the answer is not here.
_PAID_ALL_THE_SAME = ("answer_lost", "answer_not_kept")
_BUSY = ("channel_busy", "idempotency_in_flight")
_LATER = (409, 425, 429)

_log = logging.getLogger(__name__)

Buy = Callable[[KeyRecord, "Request"], Awaitable["Answer"]]
# The key and listing as they stand now; raises RequestRefused when they may not call any more.
Standing = Callable[[KeyRecord, Source], tuple[KeyRecord, Source]]


@dataclass(frozen=True, slots=True)
class Sold:
    """By what name a seller sells a stream's minutes, where (a path), at which price."""

    stream: str
    base: str
    minute_atoms: int


@dataclass(slots=True)
class Bought:
    """One open stream that is paid as its time runs. `minutes` are paid, `refused` is why no
    more will be, `trouble` why the last attempt brought none."""

    stream: Stream
    key: KeyRecord
    source: Source
    sold: Sold
    minutes: int = 1
    again_at: int = 0
    refused: str = ""
    trouble: str = ""
    paying: asyncio.Task[None] | None = None

    @property
    def paid_until(self) -> int:
        return self.stream.started_at + self.minutes * MINUTE


def sold_by_minute(answer: Received, terms: Terms | None, atoms: int) -> Sold | None:
    """What the head of a paid stream says, if its offer had said so too: nobody is made to pay
    by the minute for what was offered by the call."""
    name = answer.header(b"farebox-stream")
    if name is None or terms is None or not terms.minutes_at or not atoms:
        return None
    if _STREAM.fullmatch(name) is None:
        return None
    return Sold(name.decode(), terms.minutes_at, atoms)


class MinutePayer:
    """All of one proxy. `look` pays what is due and closes what is not paid."""

    def __init__(self, streams: Streams, buy: Buy, standing: Standing) -> None:
        self._streams, self._buy, self._standing = streams, buy, standing
        self._bought: dict[str, Bought] = {}
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._looking = asyncio.create_task(self._keep_looking(), name="paying minutes")

    async def stop(self) -> None:
        """What is being paid is finished, if it takes no longer than that."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        paying = [each.paying for each in self._bought.values() if each.paying is not None]
        if paying:
            _, late = await asyncio.wait(paying, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def follow(self, stream: Stream, key: KeyRecord, source: Source, sold: Sold) -> None:
        """Pay for it from now on; its first minute is paid."""
        self._bought[stream.id] = Bought(stream, key, source, sold)

    async def look(self) -> None:
        """One round; what it begins to pay goes on by itself."""
        for bought in list(self._bought.values()):
            if bought.paying is None:
                self._see(bought)

    def _see(self, bought: Bought) -> None:
        now = bought.stream.now()
        if not bought.stream.goes_on:
            del self._bought[bought.stream.id]
        elif bought.refused:
            if now >= bought.paid_until:
                bought.stream.ask_to_stop(bought.refused)
        elif now >= bought.paid_until + GRACE_SECONDS:
            bought.stream.ask_to_stop(bought.trouble or "payment_due")
        elif now >= max(bought.paid_until - LEAD_SECONDS, bought.again_at):
            bought.paying = asyncio.create_task(self._pay(bought))

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except Exception:
                _log.exception("looking at which minutes are due failed")

    async def _pay(self, bought: Bought) -> None:
        """One minute more, or why not."""
        try:
            await self._attempt(bought)
        except ProxyError as error:
            if error.code in _PAID_ALL_THE_SAME:
                self._add_minute(bought)
            elif isinstance(error, PaymentImpossible | RequestRefused) and error.code not in _BUSY:
                bought.refused = error.code
            else:
                bought.trouble = error.code
        except Exception:
            _log.exception("a minute of stream %s could not be paid", bought.stream.id)
            bought.trouble = "internal_error"
        finally:
            bought.again_at = bought.stream.now() + RETRY_SECONDS
            bought.paying = None

    async def _attempt(self, bought: Bought) -> None:
        key, source = self._standing(bought.key, bought.source)
        answer = await self._buy(key, _minute_request(bought, key, source))
        if answer.more is not None:
            answer.more.close()
        if answer.status == 200:
            self._add_minute(bought)
        elif answer.status >= 500 or answer.status in _LATER:
            bought.trouble = _code(answer)
        else:
            bought.refused = _code(answer)

    def _add_minute(self, bought: Bought) -> None:
        bought.minutes += 1
        bought.trouble = ""
        bought.stream.paid_until = bought.paid_until


def _minute_request(bought: Bought, key: KeyRecord, source: Source) -> Request:
    from node.proxy.call import Request

    path = f".farebox/streams/{bought.sold.stream}"
    url = source.url("", "").with_path(f"{bought.sold.base}/{path}", encoded=True)
    once = f"minute-{bought.stream.id}-{bought.minutes + 1}"
    headers = [(b"accept", b"application/json"), (b"idempotency-key", once.encode())]
    call_id = new_call_id(time.time_ns() // 1_000_000)
    request = Request(call_id, key.id, source, "POST", path, url, headers, None)
    request.agreed, request.route = Ordered(bought.sold.minute_atoms), ROUTE
    return request


def _code(answer: Answer) -> str:
    """The problem's code in an answer that is none: it is written down, told the app, shown."""
    code, _ = read_problem(answer.start)
    return code if _PLAIN_CODE.fullmatch(code) else f"seller_answered_{answer.status}"
