"""Demo answers: recorded ones, for free, also while nothing can be sold.

A listing in demo mode gives them to everybody. Any other listing gives them to requests
with the header `Farebox-Demo: 1`, and shows in `/discovery/resources` that it can
(node.gateway.discovery). Such a request never reaches the upstream, no payment in it is
looked at, and nothing is written: there is no money in demo mode, and no call to count.
"""

from __future__ import annotations

from catalog.samples import DemoAnswer
from node.gateway.match import Match
from node.gateway.request import Call
from node.problems import known_problem

_MARKS = [(b"farebox-demo", b"true"), (b"cache-control", b"no-store")]
MOST_NAMED = 50  # operations in a problem document


async def give_demo(call: Call, match: Match) -> None:
    """The recorded answer that fits, marked by `Farebox-Demo: true`; else 404 with the
    operations that have one."""
    assert match.route is not None
    book = match.listing.answers
    operation = (match.route.method, match.route.template)
    answer = book.find(call.method, match.rest, call.query, operation)
    if answer is None:
        await _give_none(call, match)
    else:
        await _give(call, answer)


async def _give(call: Call, answer: DemoAnswer) -> None:
    recorded = (b"farebox-demo-recorded-at", b"%d" % answer.recorded_at)
    headers = [*answer.headers, *_MARKS, recorded]
    if answer.status not in (204, 205):
        headers.append((b"content-length", b"%d" % len(answer.body)))
    body = b"" if call.method == "HEAD" else answer.body
    await call.answer(answer.status, headers, body)


async def _give_none(call: Call, match: Match) -> None:
    recorded = match.listing.answers.operations
    detail = "Its owner can record one in API Management."
    if recorded:
        detail = "There are recorded answers to the operations listed here."
    status, body, headers = known_problem(
        "demo_not_recorded", detail, call_id=call.id, operations=recorded[:MOST_NAMED]
    )
    await call.answer(status, [*headers, (b"farebox-demo", b"true")], body)
