"""Broken builds of streams that are sold by the minute."""

from __future__ import annotations

from typing import Any

from pytest import MonkeyPatch

from node.gateway import stream_events, stream_minutes
from node.usage.streams import Stream
from tests.laws.faults import fault
from tests.laws.faults_selling import without


@fault(
    1,
    "a stream that is not paid for is closed some day",
    "test_no_minute_is_served_that_nobody_paid_beyond_the_grace",
)
def unpaid_minutes_served(patch: MonkeyPatch) -> None:
    patch.setattr(stream_minutes, "GRACE_SECONDS", 3_600)


@fault(
    1,
    "minutes are those of a clock that may be set",
    "test_a_clock_that_is_set_moves_no_end_of_a_stream",
)
def minutes_by_the_wall(patch: MonkeyPatch) -> None:
    patch.setattr(Stream, "now", lambda stream: stream._streams.now())


@fault(
    1,
    "whoever holds a stream does not hear of the minutes that were paid",
    "test_a_minute_that_is_paid_is_served",
)
def paid_minutes_forgotten(patch: MonkeyPatch) -> None:
    patch.setattr(stream_minutes, "_read_paid", lambda engine, ids: {})


@fault(
    1,
    "the minutes of a stream are due whether a plan holds it or not",
    "test_a_stream_of_a_plan_goes_on_though_nobody_pays_its_minutes",
)
def minutes_of_plans_due(patch: MonkeyPatch) -> None:
    counted = stream_events.counted

    def by_minute(
        streams: Any, call: Any, match: Any, answer: Any, payer: Any, minute_atoms: int = 0
    ) -> Any:
        return counted(streams, call, match, answer, payer, match.route.minute_atoms)

    patch.setattr(stream_events, "counted", by_minute)


@fault(
    3,
    "minutes of a stream are sold whether it is open or not",
    "test_a_stream_that_has_ended_is_charged_no_more",
)
def ended_streams_sold(patch: MonkeyPatch) -> None:
    async def goes_on(*_: Any) -> bool:
        return True

    patch.setattr(stream_minutes.Minutes, "_goes_on", goes_on)
    patch.setattr(stream_minutes, "_PAY", without(stream_minutes._PAY, " AND state = 'open'"))
