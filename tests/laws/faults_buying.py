"""Broken builds of the buying side."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from typing import Any

from pytest import MonkeyPatch
from sqlalchemy import text

from finance.buying import booking, buyer, limits, onchain, pools, purchase
from finance.store import Write
from node.plans.buying import orders
from node.plans.buying.ports import PlacedOrder
from node.plans.buying.upkeep import Upkeep
from node.proxy import call
from node.proxy.errors import ProxyError, SellerFailed
from node.proxy.plans import Ordered
from node.proxy.seller import NotSent, SellerClient
from tests.laws.faults import fault
from tests.laws.faults_selling import commit_late, without

_GUARD = " WHERE spend_counter.spent_atoms + excluded.spent_atoms <= :limit"


@fault(
    2,
    "a payment is stored after it was sent",
    "test_what_a_buyer_signs_is_on_disk_before_a_seller_sees_it",
)
def signed_before_stored(patch: MonkeyPatch) -> None:
    commit_late(patch, lambda write: write.statement is purchase.INSERT_PURCHASE)


@fault(
    2,
    "an app gets its answer before the charge is booked",
    "test_no_bought_answer_reaches_its_app_before_it_is_booked",
)
def answered_before_booked(patch: MonkeyPatch) -> None:
    commit_late(patch, lambda write: write.statement is purchase.END_PURCHASE)


@fault(
    5,
    "a buyer believes its own clock that an authorization has run out",
    "test_a_clock_that_runs_ahead_gives_no_authorization_up",
)
def own_clock_believed(patch: MonkeyPatch) -> None:
    def by_own_clock(self: onchain.Authorization, valid_before: int) -> bool:
        return not self.used and time.time() > valid_before + onchain.EXPIRED_SECONDS

    patch.setattr(onchain.Authorization, "expired", by_own_clock)


@fault(7, "limits are not looked at", "test_nothing_above_the_limit_of_a_call_is_signed")
def limits_not_looked_at(patch: MonkeyPatch) -> None:
    patch.setattr(limits, "decide", lambda limits, spent, ask: None)


@fault(
    7,
    "only the first price of a call is held against the limits",
    "test_a_price_raised_while_paying_is_held_against_the_limits_again",
)
def first_price_decides(patch: MonkeyPatch) -> None:
    decide, seen = limits.decide, set()

    def once(known: Any, spent: Any, ask: limits.Ask) -> None:
        if ask.listing_id not in seen:
            decide(known, spent, ask)
        seen.add(ask.listing_id)

    patch.setattr(limits, "decide", once)


@fault(
    7,
    "what another process has signed under a key is passed over",
    "test_a_call_that_two_processes_make_at_once_is_signed_for_once",
)
def other_signature_passed_over(patch: MonkeyPatch) -> None:
    take_key = text("UPDATE purchase SET idempotency_key = NULL WHERE idempotency_key = :key")
    made = purchase.intent

    def intent(payment: purchase.Payment, now: int) -> list[Write]:
        key = {"key": payment.order.idempotency_key}
        return [Write(take_key, key, rows=None), *made(payment, now)]

    patch.setattr(buyer, "intent", intent)


@fault(
    7,
    "each signature for a call is held against its limit alone",
    "test_a_call_that_is_refused_signs_no_more_than_its_limit_in_all",
)
def refused_signatures_forgotten(patch: MonkeyPatch) -> None:
    patch.setattr(purchase.Order, "signed_besides", lambda self, channel: 0)


@fault(
    7,
    "a settlement that failed is paid again when its seller offers anew",
    "test_an_authorization_whose_settlement_failed_is_not_followed_by_another",
)
def settling_not_looked_at(patch: MonkeyPatch) -> None:
    refusal_in = call.refusal_in
    patch.setattr(call, "refusal_in", lambda answer: refusal_in(answer)._replace(settling=False))


@fault(
    7,
    "what is signed is counted when its answer has come",
    "test_calls_at_once_sign_no_more_than_the_days_limit",
)
def counted_after_signing(patch: MonkeyPatch) -> None:
    patch.setattr(limits, "COUNT", without(limits.COUNT, _GUARD))
    patch.setattr(limits.Spending, "_move", lambda self, reservations, sign: None)


@fault(
    7,
    "all that is signed counts against the day, and against nothing else",
    "test_no_listing_and_no_key_spends_more_than_its_own_limit",
)
def counted_by_day_only(patch: MonkeyPatch) -> None:
    counted = limits.Reservation.counted

    def by_day(self: limits.Reservation) -> list[tuple[str, str, int]]:
        return [each for each in counted(self) if each[0] not in ("listing", "key")]

    patch.setattr(limits.Reservation, "counted", by_day)


@fault(
    7,
    "the counter in the database adds up whatever comes",
    "test_two_processes_together_sign_no_more_than_the_days_limit",
)
def counter_unguarded(patch: MonkeyPatch) -> None:
    patch.setattr(limits, "COUNT", without(limits.COUNT, _GUARD))


@fault(
    7,
    "a channel takes what the seller wants in it",
    "test_no_more_than_its_limit_is_put_into_a_channel",
)
def deposits_unlimited(patch: MonkeyPatch) -> None:
    of = limits.Limits.of

    def boundless(self: limits.Limits, scope: str, *subjects: str) -> int:
        return 10**15 if scope == "deposit" else of(self, scope, *subjects)

    patch.setattr(limits.Limits, "of", boundless)


@fault(7, "a retry signs anew", "test_a_retry_sends_the_same_signature_again")
def retry_signs_anew(patch: MonkeyPatch) -> None:
    patch.setattr(call, "_MAY_BE_CHARGED", ())


@fault(
    7,
    "what a refusal proves of an earlier try is not looked at",
    "test_a_retry_that_meets_another_price_is_not_charged_twice",
)
def proof_overlooked(patch: MonkeyPatch) -> None:
    async def never(*_: Any) -> bool:
        return False

    patch.setattr(call, "charged_before", never)


@fault(
    7,
    "a retry pays on whichever channel has most room",
    "test_a_retry_that_meets_another_price_is_not_charged_twice",
)
def retry_on_any_channel(patch: MonkeyPatch) -> None:
    acquire = pools.ChannelPools.acquire

    async def any_channel(self: Any, seller: Any, atoms: int, first: str | None = None) -> Any:
        return await acquire(self, seller, atoms)

    patch.setattr(pools.ChannelPools, "acquire", any_channel)


@fault(
    7,
    "what may have been charged on a channel that is used no more is paid through another",
    "test_what_a_stopped_channel_may_have_been_charged_is_not_paid_through_another",
)
def undecided_paid_elsewhere(patch: MonkeyPatch) -> None:
    replayed = call.Calls._replayed

    async def or_anew(self: call.Calls, request: Any, earlier: Any) -> Any:
        try:
            return await replayed(self, request, earlier)
        except ProxyError as error:
            if error.code != "charge_unknown":
                raise
            return None

    patch.setattr(call.Calls, "_replayed", or_anew)


@fault(
    7,
    "a seller that proves nonsense has its word taken that it charged nothing",
    "test_a_seller_that_proves_nonsense_is_not_paid_again_for_the_call",
)
def nonsense_believed(patch: MonkeyPatch) -> None:
    refused = booking.Bookkeeper.refused

    async def as_if_new(self: booking.Bookkeeper, payment: Any, *rest: Any) -> bool:
        payment.sent_before = False
        return await refused(self, payment, *rest)

    patch.setattr(booking.Bookkeeper, "refused", as_if_new)


@fault(
    7,
    "a retry that the seller cannot take now is paid anew, on another channel",
    "test_a_retry_that_meets_a_busy_channel_is_never_paid_anew",
)
def busy_retry_paid_anew(patch: MonkeyPatch) -> None:
    again = call.Calls._again

    async def or_anew(self: call.Calls, request: Any, payment: Any) -> Any:
        try:
            return await again(self, request, payment)
        except ProxyError as error:
            if error.code != "channel_busy":
                raise
            return None

    patch.setattr(call.Calls, "_again", or_anew)
    retry_on_any_channel(patch)


@fault(
    11,
    "the proxy passes on how long a seller lets its paid answers be cached",
    "test_the_proxys_secret_stays_with_the_proxy_and_its_paid_answers_uncached",
)
def bought_answers_cached(patch: MonkeyPatch) -> None:
    to_buyer = call.to_buyer
    patch.setattr(call, "to_buyer", lambda headers, paid: to_buyer(headers, paid=False))


@fault(
    7,
    "what cannot be sent once more counts as never sent",
    "test_a_payment_that_left_counts_though_its_seller_is_gone",
)
def broken_taken_for_unsent(patch: MonkeyPatch) -> None:
    send = SellerClient.send

    async def sent_or_not(*arguments: Any) -> Any:
        try:
            return await send(*arguments)
        except SellerFailed as error:
            raise NotSent(error.code, str(error)) from error

    patch.setattr(SellerClient, "send", sent_or_not)


@fault(
    7,
    "what was counted for a voucher is given back with the one that was to replace it",
    "test_a_voucher_that_never_left_takes_nothing_from_what_counts_for_the_one_before_it",
)
def count_given_back_with_another(patch: MonkeyPatch) -> None:
    def all_of_it(self: Any, counted: limits.Reservation, *_: Any) -> list[Write]:
        released: list[Write] = self._spending.release(counted)
        return released

    patch.setattr(booking.Bookkeeper, "_given_back", all_of_it)


@fault(
    7,
    "a plan is paid whatever its seller asks by then",
    "test_a_renewal_above_the_agreed_price_is_not_signed",
)
def agreed_price_not_looked_at(patch: MonkeyPatch) -> None:
    patch.setattr(Ordered, "check", lambda self, price_atoms: None)


@fault(
    7,
    "an order that was cut off is made anew",
    "test_an_order_that_lost_its_answer_sends_the_same_signature_again",
)
def order_made_anew(patch: MonkeyPatch) -> None:
    def anew(*parts: Any) -> PlacedOrder:
        return replace(PlacedOrder(*parts), order_id=secrets.token_hex(8))

    patch.setattr(orders, "PlacedOrder", anew)


@fault(
    7,
    "an order that was given up is signed all the same",
    "test_an_order_given_up_while_it_is_sent_is_not_signed",
)
def given_up_signed(patch: MonkeyPatch) -> None:
    intent = buyer.intent

    def unguarded(payment: Any, now: int) -> Any:
        order = replace(payment.order, guard=None)
        return intent(replace(payment, order=order), now)

    patch.setattr(buyer, "intent", unguarded)


@fault(
    7,
    "a month is paid again when its seller gives another date",
    "test_a_month_is_not_paid_again_because_its_seller_gives_another_date",
)
def dates_of_sellers_believed(patch: MonkeyPatch) -> None:
    patch.setattr(Upkeep, "_is_paid_here", lambda self, subscription_id, month: False)
