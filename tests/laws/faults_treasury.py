"""Broken builds of what operators do with money by hand."""

from __future__ import annotations

from itertools import count
from typing import Any

from pytest import MonkeyPatch
from sqlalchemy import text

from finance import books, withdrawals
from finance.chain.events import read_args
from finance.chain.sightings import Sightings
from finance.withdrawals import Withdrawals
from tests.laws.faults import fault


@fault(
    5,
    "each click on a confirmation makes a withdrawal of its own",
    "test_a_withdrawal_confirmed_again_and_again_leaves_once",
)
def each_click_withdraws(patch: MonkeyPatch) -> None:
    send, numbers = Withdrawals._send, count()

    async def anew(self: Withdrawals, withdrawal_id: str, *wish: Any) -> Any:
        return await send(self, f"{withdrawal_id}{next(numbers)}", *wish)

    patch.setattr(Withdrawals, "_send", anew)


@fault(
    5,
    "a withdrawal is sent that another process has given up as never sent",
    "test_a_withdrawal_that_is_said_to_have_sent_nothing_sends_nothing",
)
def given_up_and_sent(patch: MonkeyPatch) -> None:
    always = text("UPDATE withdrawal SET told = told WHERE id = :id")
    patch.setattr(withdrawals, "_STILL_WANTED", always)


@fault(
    9,
    "what a replaced wallet has swept is looked for in the new one",
    "test_the_books_of_a_wallet_that_took_anothers_place_equal_the_chain",
)
def swept_for_anybody(patch: MonkeyPatch) -> None:
    settled = books._settled

    def of_all(events: Any, _wallet: str) -> Any:
        return tuple(
            sweep
            for event in events
            for sweep in settled([event], read_args(event.args)["receiver"])
        )

    patch.setattr(books, "_settled", of_all)


@fault(
    9,
    "a transfer that was read for a replaced wallet is not booked for the new one",
    "test_the_books_of_a_wallet_that_took_anothers_place_equal_the_chain",
)
def read_for_another_wallet(patch: MonkeyPatch) -> None:
    patch.setattr(Sightings, "_unbooked", lambda self, events: [])
