"""Broken builds of the selling side."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import msgspec
from pytest import MonkeyPatch
from sqlalchemy import text

from catalog import listings
from finance.selling import answers, channels, long_answers, reservations
from finance.selling.long_answers import LongAnswer, stream_delivered
from finance.store import Batch
from finance.x402 import offers, vouchers
from finance.x402.offers import Offer, Terms
from node import app as nodes
from node.db import engine, journal, presence
from node.db.journal import Journal
from node.gateway import app, forward, headers, onchain, request, serve, voucher
from node.gateway.stream_socket import SocketCall
from tests.laws.faults import fault


def without(statement: Any, words: str) -> Any:
    """A statement that has lost one of its clauses."""
    assert words in str(statement)
    return text(str(statement).replace(words, ""))


# Law 1


@fault(
    1,
    "reserving a channel does nothing",
    "test_a_voucher_sent_twenty_times_at_once_has_the_api_work_once",
)
def reservation_does_nothing(patch: MonkeyPatch) -> None:
    patch.setattr(channels.SellerChannels, "reserve", lambda self, channel: None)


@fault(
    1,
    "whoever has a data directory of its own may have the books of another",
    "test_a_file_of_books_is_held_by_one_process",
)
def books_held_by_nobody(patch: MonkeyPatch) -> None:
    patch.setattr(nodes, "hold_database", lambda url, data_dir: nullcontext())


@fault(
    1,
    "processes that share a database do not wait for each other's channels",
    "test_a_voucher_sent_to_two_gateways_of_one_database_has_the_api_work_once",
)
def channels_served_by_two(patch: MonkeyPatch) -> None:
    async def at_once(_locks: Any, _channel_id: bytes) -> None:
        return None

    patch.setattr(channels, "await_turn", at_once)


@fault(
    1,
    "what was bought is sold again when its price has changed",
    "test_a_call_that_was_bought_gets_its_answer_when_its_price_has_changed",
)
def bought_forgotten(patch: MonkeyPatch) -> None:
    async def never(*_: Any) -> bool:
        return False

    patch.setattr(serve, "give_bought", never)


@fault(
    1,
    "an authorization that has bought its call is judged by the terms of today",
    "test_an_authorization_finds_its_answer_when_the_price_has_changed",
)
def settled_forgotten(patch: MonkeyPatch) -> None:
    async def never(*_: Any) -> bool:
        return False

    patch.setattr(serve, "give_settled", never)


@fault(
    1,
    "an authorization that has expired is refused before it is looked up",
    "test_an_authorization_finds_its_answer_when_it_has_expired",
)
def expired_forgotten(patch: MonkeyPatch) -> None:
    find_taken = onchain._find_taken

    async def unless_expired(desk: Any, purchase: Any) -> Any:
        onchain.exact.check_authorization(purchase.payload, purchase.terms, purchase.call.at)
        return await find_taken(desk, purchase)

    patch.setattr(onchain, "_find_taken", unless_expired)


@fault(
    1,
    "only a short upload is compared with what its payment has bought",
    "test_an_upload_sent_again_finds_its_answer_however_long_it_is",
)
def uploads_not_compared(patch: MonkeyPatch) -> None:
    async def short(self: Any) -> None:
        await self.read_body(request.INLINE_BYTES)

    patch.setattr(request.Call, "digest_body", short)


@fault(
    1,
    "the charge is not guarded by the amount it was decided on",
    "test_a_voucher_sent_to_two_processes_at_once_is_charged_once",
)
def charge_unguarded(patch: MonkeyPatch) -> None:
    patch.setattr(channels, "CHARGE", without(channels.CHARGE, " AND charged_atoms = :seen"))


@fault(
    1,
    "an authorization that is taken can be reserved again",
    "test_an_authorization_sent_to_two_processes_at_once_buys_one_call",
)
def authorization_reserved_twice(patch: MonkeyPatch) -> None:
    only_released = " WHERE onchain_payment.state = 'released'"
    patch.setattr(reservations, "RESERVE", without(reservations.RESERVE, only_released))


@fault(
    1,
    "an authorization in the books is taken for one never seen",
    "test_an_authorization_that_has_bought_its_call_buys_no_other",
)
def used_authorizations_forgotten(patch: MonkeyPatch) -> None:
    async def believe(*_: Any) -> None:
        return None

    patch.setattr(onchain, "find_known", lambda engine, authorization: None)
    patch.setattr("finance.selling.checks.ChainChecks.check", believe)
    authorization_reserved_twice(patch)


@fault(
    1,
    "answers that were paid for are not found again",
    "test_the_same_call_again_gets_its_stored_answer",
)
def stored_answers_forgotten(patch: MonkeyPatch) -> None:
    patch.setattr(voucher, "read_answer", lambda engine, key: None)


@fault(
    1,
    "a payment identifier is not compared with what it was first used for",
    "test_a_payment_identifier_with_another_payload_is_a_conflict",
)
def identifier_not_compared(patch: MonkeyPatch) -> None:
    for module in (serve, voucher):
        patch.setattr(module, "fingerprint", lambda *parts: "same")


@fault(
    1,
    "a long answer leaves no trace of its payment identifier",
    "test_an_identifier_that_bought_a_long_answer_buys_no_other",
)
def identifier_of_stream_forgotten(patch: MonkeyPatch) -> None:
    patch.setattr(voucher, "_streamed", lambda call, match, payment, headers: [])


@fault(
    1,
    "an identifier stays taken by a long answer that broke off",
    "test_an_identifier_whose_long_answer_broke_off_is_free_again",
)
def identifier_of_broken_stream_kept(patch: MonkeyPatch) -> None:
    nothing = text("DELETE FROM stored_answer WHERE call_id = :call_id AND status = 0")
    patch.setattr(answers, "FORGET_STREAM", nothing)


@fault(
    1,
    "a call gives back a channel that the next one holds by now",
    "test_a_call_that_gave_its_channel_back_early_takes_it_from_nobody",
)
def released_for_others(patch: MonkeyPatch) -> None:
    def free(_self: Any, channel: Any, _turn: int | None = None) -> None:
        channel.busy = False

    patch.setattr(channels.SellerChannels, "release", free)


# Law 2


def commit_late(patch: MonkeyPatch, concerned: Any) -> None:
    """Callers go on at once; batches that are `concerned` reach the disk a moment later."""
    commit = Journal.commit

    async def not_waited_for(self: Journal, batch: Batch) -> None:
        if any(concerned(write) for write in batch.writes):
            loop = asyncio.get_running_loop()
            loop.call_later(0.2, lambda: loop.create_task(commit(self, batch)))
        else:
            await commit(self, batch)

    patch.setattr(Journal, "commit", not_waited_for)


@fault(
    2,
    "an answer does not wait for the commit of its charge",
    "test_no_answer_leaves_before_its_charge_is_on_disk",
)
def answer_before_commit(patch: MonkeyPatch) -> None:
    commit_late(patch, lambda write: write.statement is channels.CHARGE)


@fault(
    2,
    "a long answer is charged when it has ended",
    "test_no_long_answer_begins_before_its_charge_is_on_disk",
)
def stream_before_commit(patch: MonkeyPatch) -> None:
    commit_late(
        patch,
        lambda write: write.statement is channels.CHARGE_STREAM,
    )


@fault(
    2,
    "an exact payment's answer does not wait for its settlement",
    "test_no_exact_answer_leaves_before_its_money_has_arrived",
)
def answer_before_settlement(patch: MonkeyPatch) -> None:
    settle = onchain._settle

    async def in_background(desk: Any, purchase: Any, payment_id: str) -> str:
        desk.in_background(settle(desk, purchase, payment_id))
        return "0x" + "00" * 32

    patch.setattr(onchain, "_settle", in_background)


@fault(2, "commits are not synced to the disk", "test_no_commit_is_lost_when_the_power_fails")
def commits_not_synced(patch: MonkeyPatch) -> None:
    configure = engine._configure_sqlite

    def fast(connection: Any, record: Any) -> None:
        configure(connection, record)
        connection.execute("PRAGMA synchronous=OFF")

    patch.setattr(engine, "_configure_sqlite", fast)


# Law 3


@fault(
    3,
    "whatever the upstream answers is a delivery",
    "test_failures_cost_nothing_and_the_voucher_buys_the_next_call",
)
def failures_charged(patch: MonkeyPatch) -> None:
    patch.setattr(voucher, "is_delivery", lambda status: True)


@fault(
    3,
    "a failed call does not give its channel back",
    "test_failures_cost_nothing_and_the_voucher_buys_the_next_call",
)
def reservation_kept(patch: MonkeyPatch) -> None:
    patch.setattr(channels.SellerChannels, "release", lambda self, channel, turn=None: None)


@fault(
    3,
    "the charge of a stream that broke off stands",
    "test_a_long_answer_that_breaks_off_is_not_charged",
)
def broken_stream_charged(patch: MonkeyPatch) -> None:
    def stands(answer: LongAnswer, at: int) -> Any:
        return stream_delivered(answer)

    patch.setattr(voucher, "stream_broken", stands)


@fault(
    3,
    "the end of a long answer is written at once or never",
    "test_a_long_answer_whose_end_cannot_be_written_is_booked_once_it_can",
)
def end_written_once(patch: MonkeyPatch) -> None:
    async def once(desk: Any, channel: Any, end: Batch) -> None:
        await desk.seller.store.commit(end)
        channel.streaming = 0

    patch.setattr(voucher, "_write_end", once)


@fault(
    3,
    "nobody looks whether the caller is still there",
    "test_a_caller_who_left_before_the_first_byte_is_not_charged",
)
def callers_who_left_charged(patch: MonkeyPatch) -> None:
    patch.setattr(request.Call, "is_gone", lambda self: False)
    patch.setattr(request.Call, "watch", lambda self: None)


@fault(
    3,
    "streams that a crash has cut are not looked for at start-up",
    "test_a_long_answer_cut_by_a_crash_is_not_charged",
)
def crashed_streams_charged(patch: MonkeyPatch) -> None:
    patch.setattr(channels, "broken_streams", lambda engine, departed: [])


@fault(
    3,
    "a stream that another process gives is taken back with one that broke off",
    "test_what_another_process_streams_meanwhile_stays_charged",
)
def any_stream_taken_back(patch: MonkeyPatch) -> None:
    patch.setattr(
        long_answers, "BROKEN", without(long_answers.BROKEN, " AND streaming_owner = :owner")
    )


@fault(
    3,
    "a process counts as gone as soon as its lock is missing",
    "test_a_long_answer_stays_charged_though_the_database_restarts_meanwhile",
)
def missing_is_gone(patch: MonkeyPatch) -> None:
    patch.setattr(presence, "GONE_SECONDS", 0.0)


@fault(
    3,
    "a commit without an acknowledgement counts as not made",
    "test_what_is_charged_by_a_commit_whose_acknowledgement_is_lost_is_delivered",
)
def doubt_is_no(patch: MonkeyPatch) -> None:
    patch.setattr(journal, "was_committed", lambda engine, number: False)


@fault(
    3,
    "an authorization is used up by a call that failed",
    "test_an_authorization_whose_call_failed_buys_the_next_one",
)
def authorization_burnt(patch: MonkeyPatch) -> None:
    statement = text("UPDATE onchain_payment SET updated_at = :at WHERE id = :id")
    patch.setattr(reservations, "RELEASE", statement)


@fault(
    3,
    "whoever stops reading until the API gives up has read for nothing",
    "test_a_long_answer_whose_caller_takes_nothing_of_it_stays_charged",
)
def stalling_is_free(patch: MonkeyPatch) -> None:
    async def send_all(call: Any, answer: Any, headers: Any) -> None:
        await call.start(answer.status, headers)
        await call.send(answer.head, True)
        async for chunk in answer.rest():
            if call.is_gone():
                return
            await call.send(chunk, True)
        await call.send(b"", False)

    patch.setattr(voucher, "send_all", send_all)


# Law 4


@fault(
    4,
    "the price is the one the payment says it accepted",
    "test_a_payment_that_accepts_a_lower_price_buys_nothing",
)
def accepted_price_believed(patch: MonkeyPatch) -> None:
    serve_voucher = serve.serve_voucher

    async def at_their_price(
        desk: Any, call: Any, match: Any, terms: Terms, payment: Any, payload: Any
    ) -> None:
        theirs = replace(terms, amount_atoms=int(payment.accepted.amount))
        await serve_voucher(desk, call, match, theirs, payment, payload)

    patch.setattr(Offer, "check_accepted", lambda self, payment: None)
    patch.setattr(serve, "serve_voucher", at_their_price)


@fault(
    4,
    "accepted terms are not compared with the listing's",
    "test_a_payment_on_other_terms_buys_nothing",
)
def accepted_terms_not_compared(patch: MonkeyPatch) -> None:
    patch.setattr(offers, "_compare", lambda accepted, expected: None)


@fault(
    4,
    "a payment's resource is not compared with the listing's",
    "test_a_payment_for_another_listing_is_refused",
)
def resource_not_compared(patch: MonkeyPatch) -> None:
    check = Offer.check_accepted

    def anywhere(self: Offer, payment: Any) -> None:
        check(self, msgspec.structs.replace(payment, resource=None))

    patch.setattr(Offer, "check_accepted", anywhere)


@fault(
    4,
    "a channel's receiver is not compared with the seller's",
    "test_a_channel_that_pays_somebody_else_buys_nothing",
)
def channel_not_compared(patch: MonkeyPatch) -> None:
    patch.setattr(vouchers, "check_config", lambda config, channel_id, terms: None)


@fault(
    4,
    "a used payment is bound to no route and method",
    "test_a_voucher_that_bought_one_route_gets_no_answer_of_another",
)
def route_not_bound(patch: MonkeyPatch) -> None:
    patch.setattr(voucher, "fingerprint", lambda method, target, body, payment: payment.hex())


@fault(
    4,
    "an authorization's receiver is not compared",
    "test_an_authorization_to_another_receiver_buys_nothing",
)
def receiver_not_compared(patch: MonkeyPatch) -> None:
    patch.setattr(onchain.exact, "check_authorization", lambda payment, terms, now: False)


# Law 9


@fault(
    9,
    "calls that nobody waits for any more stay booked as paid when their payment fails",
    "test_a_call_whose_money_never_came_is_not_booked_as_paid",
)
def unpaid_calls_forgotten(patch: MonkeyPatch) -> None:
    async def nobody_looks(_store: Any) -> int:
        return 0

    patch.setattr(app, "undo_unpaid", nobody_looks)


# Law 11


@fault(
    11,
    "the upstream says how long a paid answer may be cached",
    "test_no_cache_between_us_and_the_buyer_keeps_a_paid_answer",
)
def paid_answers_cached(patch: MonkeyPatch) -> None:
    to_caller = voucher.to_caller
    patch.setattr(
        voucher, "to_caller", lambda given, upstream, paid: to_caller(given, upstream, False)
    )


@fault(
    11,
    "the upstream says so to caches of one kind",
    "test_no_cache_between_us_and_the_buyer_keeps_a_paid_answer",
)
def paid_answers_cached_somewhere(patch: MonkeyPatch) -> None:
    for_all = (b"cache-control", b"expires", b"pragma", b"age")
    patch.setattr(headers, "_rules_caches", lambda name: name in for_all)


@fault(11, "payment headers are forwarded", "test_no_payment_reaches_the_upstream")
def payments_forwarded(patch: MonkeyPatch) -> None:
    never = {name for name in headers._NEVER_UPSTREAM if b"payment" not in name}
    patch.setattr(headers, "_NEVER_UPSTREAM", frozenset(never))


@fault(
    11,
    "headers are known by one of their spellings only",
    "test_no_other_spelling_of_a_header_passes_for_ours",
)
def spelling_believed(patch: MonkeyPatch) -> None:
    patch.setattr(headers, "_as_read", lambda name: name)


@fault(
    11,
    "an answer's body is not searched for the upstream's credential",
    "test_the_upstreams_credential_never_reaches_the_buyer",
)
def credential_in_body(patch: MonkeyPatch) -> None:
    patch.setattr(forward._Scrubber, "clean", lambda self, chunk, last: chunk)


@fault(
    11,
    "an answer's headers are not searched for the upstream's credential",
    "test_the_upstreams_credential_never_reaches_the_buyer",
)
def credential_in_headers(patch: MonkeyPatch) -> None:
    to_caller = voucher.to_caller

    def told(given: Any, upstream: Any, paid: bool) -> Any:
        return to_caller(given, replace(upstream, secrets=()), paid)

    patch.setattr(voucher, "to_caller", told)


@fault(
    11,
    "an answer in which a credential cannot be found is passed on",
    "test_no_credential_hides_in_a_compressed_answer",
)
def credential_compressed(patch: MonkeyPatch) -> None:
    patch.setattr(forward, "_is_compressed", lambda headers: False)


@fault(
    11,
    "messages of a WebSocket are not searched for the credential",
    "test_no_message_tells_the_upstreams_credential",
)
def credential_in_messages(patch: MonkeyPatch) -> None:
    async def tell(call: SocketCall, message: Any) -> None:
        await call._send(message)

    patch.setattr(SocketCall, "_tell", tell)


@fault(
    4,
    "of two prices for one path the one that was stored last counts",
    "test_a_path_with_two_prices_costs_the_dearer",
)
def last_price_counts(patch: MonkeyPatch) -> None:
    def plant(node: listings._Node, route: listings.PricedRoute) -> None:
        for segment in route.template.strip("/").split("/"):
            node = node._child(segment)
        node.methods[route.method] = route

    patch.setattr(listings._Node, "plant", plant)
    patch.setattr(listings, "sorted", lambda rows, key: list(rows), raising=False)
