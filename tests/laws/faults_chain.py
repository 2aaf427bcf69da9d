"""Broken builds of what meets the chain: sender, settlement, claims, books."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from pytest import MonkeyPatch

from finance import books, reconcile
from finance.chain import follower, sightings
from finance.chain import sender as senders
from finance.chain.follower import Follower
from finance.chain.sender import Sender
from finance.chain.sightings import Sightings
from finance.chain.transactions import DAY_SECONDS, Tx, assign, reopen, unix_now
from finance.errors import SettlementFailed, SettlementUnknown
from finance.models import TxState
from finance.selling import carrier, claim_policy, claims, mirror
from finance.selling.admission import ChannelBooks
from finance.selling.channel_watch import ChannelWatch
from finance.selling.channels import Channel, SellerChannels
from finance.selling.mirror import Mirror, OnchainState, mirror_writes
from finance.selling.refunds import Refunds
from finance.selling.settlement import Settlement
from finance.selling.settlement_events import Found
from finance.store import Batch, Write
from node.gateway import onchain, voucher
from tests.laws.faults import fault

# Law 5


@fault(
    5,
    "a transaction is stored after it was broadcast",
    "test_a_transaction_is_on_disk_before_it_is_broadcast",
)
def broadcast_before_commit(patch: MonkeyPatch) -> None:
    async def sign_first(
        self: Sender, tx: Tx, nonce: int, gas_limit: int, fees: Any, also: Sequence[Write]
    ) -> None:
        attempt = self._sign(tx, nonce, gas_limit, fees)
        batch = Batch([*assign(tx, nonce, gas_limit, attempt), *also])
        tx.state, tx.nonce, tx.gas_limit, tx.attempts = TxState.SIGNED, nonce, gas_limit, [attempt]
        loop = asyncio.get_running_loop()
        loop.call_later(0.2, lambda: loop.create_task(self._store.commit(batch)))
        loop.call_later(0.4, lambda: self._follower.add(tx))

    patch.setattr(Sender, "_sign_first", sign_first)


@fault(
    5,
    "what has timed out is sent again as a new transaction",
    "test_a_transfer_that_timed_out_is_not_made_again",
)
def timed_out_sent_again(patch: MonkeyPatch) -> None:
    intend, numbers = Sender._intend, count()

    async def anew(self: Sender, key: tuple[str, str], *call: Any) -> Tx:
        return await intend(self, (key[0], f"{key[1]} {next(numbers)}"), *call)

    patch.setattr(Sender, "_intend", anew)


@fault(
    5,
    "a settlement that is not confirmed in time has failed",
    "test_a_caller_whose_settlement_takes_long_is_not_told_to_pay_again",
)
def unknown_is_failure(patch: MonkeyPatch) -> None:
    settle = Settlement.settle

    async def impatient(self: Settlement, payment_id: str, timeout: float) -> Any:
        try:
            return await settle(self, payment_id, timeout)
        except SettlementUnknown as error:
            raise SettlementFailed(str(error)) from error

    patch.setattr(Settlement, "settle", impatient)


@fault(
    5,
    "a receipt's status is believed without the event",
    "test_a_successful_receipt_without_the_transfer_pays_for_nothing",
)
def receipt_status_believed(patch: MonkeyPatch) -> None:
    patch.setattr(carrier, "find_own", lambda payment, logs: Found("0x" + "00" * 32, 0, 0))


@fault(
    5,
    "nobody looks whether a mined block is still there",
    "test_money_that_a_reorg_took_back_is_sent_again",
)
def reorg_ignored(patch: MonkeyPatch) -> None:
    patch.setattr(Follower, "_is_gone", lambda self, tx, block: False)


@fault(
    5,
    "a reorg is noticed only in blocks that the watcher had read",
    "test_a_payment_that_a_reorg_took_back_for_good_has_failed",
)
def unread_reorg_unnoticed(patch: MonkeyPatch) -> None:
    patch.setattr(Sender, "when_taken_back", lambda self, act: None)


@fault(
    5,
    "a payment that a reorg put back waits for its transaction, also when that left it out",
    "test_a_payment_that_a_reorg_took_back_for_good_has_failed",
)
def left_out_waits(patch: MonkeyPatch) -> None:
    async def nothing(self: carrier.Carrier, payment: Any, outcome: Any) -> None:
        pass

    patch.setattr(carrier.Carrier, "_look_again", nothing)


@fault(
    5,
    "a refund is over once it was mined, whatever becomes of its block",
    "test_what_a_refund_that_a_reorg_took_back_will_take_out_again_is_not_sold",
)
def refund_over(patch: MonkeyPatch) -> None:
    async def nothing(self: Refunds, channel_ids: Collection[str]) -> None:
        pass

    patch.setattr(Refunds, "reorganised", nothing)


# Law 6


@fault(
    6,
    "each send asks the chain for its nonce, and none waits for another",
    "test_transfers_sent_at_once_have_a_nonce_each",
)
def nonces_alike(patch: MonkeyPatch) -> None:
    make = Sender.__init__

    def unlocked(self: Sender, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        self._launching = contextlib.nullcontext()  # type: ignore[assignment]

    async def asked(self: Sender, at_least: int) -> int:
        return max(at_least, await self._rpc.nonce(self.address, "latest"))

    patch.setattr(Sender, "__init__", unlocked)
    patch.setattr(Sender, "_free_nonce", asked)
    patch.setattr(senders, "nonces_from", lambda *of_us: set())


@fault(
    6,
    "a nonce that another process took fails what was to be sent under it",
    "test_processes_with_one_key_that_send_at_one_moment_all_send",
)
def nonce_not_chosen_again(patch: MonkeyPatch) -> None:
    async def once(self: Sender, nonce: int, tx: Tx, *signed: Any) -> int:
        nonce = await self._free_nonce(nonce)
        await self._sign_first(tx, nonce, *signed)
        return nonce

    patch.setattr(Sender, "_sign_at_least", once)


@fault(
    6,
    "the nonce of a refused broadcast is not given back",
    "test_a_refused_broadcast_holds_back_no_later_one",
)
def nonce_burnt(patch: MonkeyPatch) -> None:
    handed_out: dict[str, int] = {}

    async def counted(self: Sender, at_least: int) -> int:
        chain = await self._rpc.nonce(self.address, "latest")
        nonce = max(at_least, chain, handed_out.get(self.address, -1) + 1)
        handed_out[self.address] = nonce
        return nonce

    patch.setattr(Sender, "_free_nonce", counted)


@fault(
    6,
    "what is stuck is only offered again",
    "test_a_stuck_transfer_is_replaced_by_one_that_pays_more",
)
def stuck_for_ever(patch: MonkeyPatch) -> None:
    patch.setattr(Sender, "_is_stuck", lambda self, tx, now: False)


@fault(
    6,
    "only the dearest form of what is stuck is offered",
    "test_a_stuck_transfer_that_the_wallet_cannot_outbid_is_offered_as_it_was",
)
def outbid_for_ever(patch: MonkeyPatch) -> None:
    async def offer(self: Sender, tx: Tx) -> None:
        tx.offered_at = time.monotonic()
        tx.accepted = (await self._rpc.broadcast(tx.attempts[-1].raw)).accepted

    patch.setattr(Sender, "_offer", offer)


@fault(6, "gas is not simulated", "test_what_the_chain_would_refuse_is_not_paid_for")
def not_simulated(patch: MonkeyPatch) -> None:
    async def enough(self: Sender, tx: Tx) -> int:
        return 200_000

    patch.setattr(Sender, "_simulate", enough)


@fault(6, "gas is paid at any price", "test_gas_above_the_cap_of_a_transaction_is_not_paid")
def gas_uncapped(patch: MonkeyPatch) -> None:
    patch.setattr(senders, "require_within_caps", lambda *decision: None)


@fault(6, "gas paid today is forgotten", "test_gas_above_the_cap_of_a_day_is_not_paid")
def day_cap_forgotten(patch: MonkeyPatch) -> None:
    patch.setattr(senders, "gas_spent_since", lambda *question: 0)


@fault(
    6,
    "each process has the gas of a day for itself",
    "test_the_cap_of_a_day_counts_what_another_process_has_on_its_way",
)
def day_cap_of_processes(patch: MonkeyPatch) -> None:
    patch.setattr(senders, "gas_on_its_way", lambda *question: 0)


@fault(
    6,
    "gas of what was put off counts on the day it was first wanted",
    "test_what_was_put_off_counts_on_the_day_it_is_paid",
)
def put_off_gas_forgotten(patch: MonkeyPatch) -> None:
    def of_yesterday(*intent: Any) -> Write:
        write = reopen(*intent)
        return Write(write.statement, {**write.params, "now": unix_now() - DAY_SECONDS})

    patch.setattr(senders, "reopen", of_yesterday)


@fault(
    6,
    "what another process with this key has booked is tried to be booked for ever",
    "test_two_processes_with_one_key_both_learn_how_their_transactions_end",
)
def row_believed_ours(patch: MonkeyPatch) -> None:
    async def alone(self: Follower, tx: Tx, writes: Sequence[Write]) -> bool:
        await self._store.commit(Batch(list(writes)))
        return True

    patch.setattr(Follower, "commit", alone)


@fault(
    6,
    "each process follows only what it has sent, or found when it started",
    "test_a_nonce_of_a_process_that_died_holds_back_no_other_process",
)
def left_behind(patch: MonkeyPatch) -> None:
    async def nothing(self: Follower) -> None:
        pass

    patch.setattr(Follower, "adopt", nothing)


@fault(
    6,
    "a process that has nothing to do looks for nothing that others have left",
    "test_what_a_process_that_died_has_signed_is_sent_though_nobody_waits_for_it",
)
def idle_for_ever(patch: MonkeyPatch) -> None:
    patch.setattr(Sender, "_pause_seconds", lambda self: None)


# Law 8


@fault(
    8,
    "a channel may owe any amount",
    "test_no_more_is_sold_on_vouchers_than_the_ceiling_until_it_is_claimed",
)
def ceiling_ignored(patch: MonkeyPatch) -> None:
    admit = voucher.admit_voucher

    def boundless(payment: Any, terms: Any, books: Any, ceiling: int) -> Any:
        return admit(payment, terms, books, 10**18)

    patch.setattr(voucher, "admit_voucher", boundless)


@fault(
    8,
    "a deposit buys a call whatever its channel owes",
    "test_a_deposit_sells_no_more_than_the_ceiling_until_it_is_claimed",
)
def ceiling_passed_by_deposits(patch: MonkeyPatch) -> None:
    patch.setattr(onchain, "check_at_risk", lambda books, terms, ceiling: None)


@fault(
    8,
    "what a payer is withdrawing still backs its vouchers",
    "test_money_that_is_being_withdrawn_buys_nothing",
)
def withdrawn_money_backs(patch: MonkeyPatch) -> None:
    patch.setattr(ChannelBooks, "backing", property(lambda self: self.balance))


@fault(
    8,
    "what a payer is withdrawing still backs the voucher of its next deposit",
    "test_a_deposit_leans_on_no_money_that_is_being_withdrawn",
)
def withdrawn_money_backs_deposits(patch: MonkeyPatch) -> None:
    withdrawn_money_backs(patch)


@fault(
    8,
    "what was read of a channel is written over what was read later",
    "test_money_refunded_while_its_channel_is_looked_at_backs_no_voucher",
)
def older_looks_written(patch: MonkeyPatch) -> None:
    def newest(channel_id: str, state: OnchainState, now: int) -> list[Write]:
        return mirror_writes(channel_id, replace(state, block_number=2**62), now)

    patch.setattr(mirror, "mirror_writes", newest)


@fault(
    8,
    "a long answer goes on though its payer withdraws",
    "test_a_long_answer_ends_charged_once_its_payer_takes_its_price_back",
)
def long_answers_wait(patch: MonkeyPatch) -> None:
    async def never(channels: SellerChannels, channel: Channel) -> None:
        await asyncio.Event().wait()

    patch.setattr(SellerChannels, "payer_leaves", never)


@fault(
    8,
    "a withdrawal is noted, and nothing is done about it",
    "test_a_payer_who_starts_a_withdrawal_is_claimed_against_at_once",
)
def withdrawal_not_answered(patch: MonkeyPatch) -> None:
    async def noted(self: ChannelWatch) -> None:
        self._leaving.clear()

    patch.setattr(ChannelWatch, "_answer_withdrawals", noted)


@fault(
    8,
    "the claim job waits for cheap gas while a payer withdraws",
    "test_a_withdrawal_nobody_saw_is_found_by_the_job",
)
def withdrawal_waits(patch: MonkeyPatch) -> None:
    for module in (claims, claim_policy):
        patch.setattr(module, "withdrawing", lambda channel: False)


@fault(8, "no interval ends", "test_vouchers_are_claimed_when_the_interval_is_over")
def interval_endless(patch: MonkeyPatch) -> None:
    patch.setattr(claims, "last_claim_at", lambda engine, chain_id, now: 10**10)


@fault(
    8,
    "an interval may begin in the future",
    "test_an_interval_is_over_though_the_clock_was_wrong_when_it_began",
)
def future_believed(patch: MonkeyPatch) -> None:
    last = claims.last_claim_at
    patch.setattr(claims, "last_claim_at", lambda engine, chain, now: last(engine, chain, 10**12))


@fault(
    8,
    "a channel that was refused is left alone, also while its payer leaves",
    "test_a_channel_that_was_refused_is_tried_in_time_once_its_payer_leaves",
)
def refused_while_leaving(patch: MonkeyPatch) -> None:
    patch.setattr(claims, "_pause", lambda row, now: claims.RETRY_SECONDS)


@fault(
    8,
    "what a trial has allowed is not looked for when its block refuses it",
    "test_a_wallet_that_agrees_only_to_trials_keeps_no_other_from_being_claimed",
)
def trial_believed(patch: MonkeyPatch) -> None:
    patch.setattr(claims, "_require_taken", lambda outcome: outcome)


@fault(
    8,
    "whatever is claimed begins the interval of all",
    "test_a_channel_that_is_claimed_by_itself_puts_off_no_other",
)
def interval_begun_by_one(patch: MonkeyPatch) -> None:
    patch.setattr(claims, "unix_now", lambda: 0)


@fault(
    8,
    "a channel that was looked at in the future is fresh until then",
    "test_a_withdrawal_is_found_though_the_clock_was_wrong_at_the_last_look",
)
def future_look_believed(patch: MonkeyPatch) -> None:
    stale = Mirror._stale
    patch.setattr(Mirror, "_stale", lambda self, now, age: stale(self, now + 31_536_000, age))


@fault(
    8,
    "the amount at risk is no reason to claim",
    "test_vouchers_are_claimed_when_too_much_is_at_risk",
)
def risk_no_reason(patch: MonkeyPatch) -> None:
    due = claim_policy.due

    def by_interval(now: int, channels: Any, policy: Any, gas_price: int, last: int) -> Any:
        return due(now, channels, replace(policy, at_risk_atoms=10**18), gas_price, last)

    patch.setattr(claims, "due", by_interval)


@fault(
    8,
    "one channel that cannot be claimed keeps all from being claimed",
    "test_a_bad_voucher_does_not_keep_the_others_from_being_claimed",
)
def claims_not_sifted(patch: MonkeyPatch) -> None:
    async def all_or_nothing(self: claims.Claims, group: Any, report: Any) -> list[Any]:
        report.excluded.update({row.channel_id: "the chain refuses one" for row in group})
        return []

    patch.setattr(claims.Claims, "_without_culprits", all_or_nothing)


@fault(
    8,
    "nothing is claimed that cannot be swept at once",
    "test_a_withdrawal_is_claimed_against_while_usdc_moves_for_nobody",
)
def claims_wait_for_sweeps(patch: MonkeyPatch) -> None:
    async def both(self: claims.Claims, group: Any) -> bytes:
        return claims.claim_and_sweep(group, self._receiver, self._network.chain_id)

    patch.setattr(claims.Claims, "_sweeping", both)


@fault(
    8,
    "what was claimed without its sweep is left to the next claim, if there ever is one",
    "test_a_withdrawal_is_claimed_against_while_usdc_moves_for_nobody",
)
def claimed_not_swept(patch: MonkeyPatch) -> None:
    async def nothing(self: claims.Claims) -> None: ...

    patch.setattr(claims.Claims, "_sweep", nothing)


# Law 9


@fault(
    9,
    "gas is not booked",
    "test_after_a_day_of_trade_the_books_equal_the_chain",
)
def gas_not_booked(patch: MonkeyPatch) -> None:
    mine = follower.mine
    patch.setattr(follower, "mine", lambda *mined: mine(*mined)[:1])


@fault(
    9,
    "an event that is read again is booked again, under another key",
    "test_a_movement_that_is_read_twice_is_booked_once",
)
def movement_booked_again(patch: MonkeyPatch) -> None:
    numbers = count()

    async def book(self: Sightings, seen: Any, stored: Any) -> None:
        def key(tx_hash: str, log_index: int, owner: str) -> str:
            return f"{tx_hash}:{log_index}:{owner}:{next(numbers)}"

        patch.setattr(sightings, "transfer_key", key)
        await self._store.commit(Batch(await self._movements(seen, sign=1)))

    patch.setattr(Sightings, "book", book)


def hide(patch: MonkeyPatch, kind: str) -> None:
    compare = reconcile.compare

    def lenient(*sides: Any) -> reconcile.Report:
        report = compare(*sides)
        shown = tuple(each for each in report.differences if each.kind != kind)
        return replace(report, differences=shown)

    patch.setattr(reconcile, "compare", lenient)


@fault(
    9,
    "the wallet's balance is not compared",
    "test_money_that_came_around_the_events_is_seen",
)
def wallet_not_compared(patch: MonkeyPatch) -> None:
    hide(patch, "wallet_usdc")


@fault(
    9,
    "whatever was claimed from channels that have no row is a stranger's",
    "test_a_channel_that_is_gone_from_the_books_is_no_strangers",
)
def gone_taken_for_strangers(patch: MonkeyPatch) -> None:
    strangers = books._strangers

    def all_of_them(events: Any, booked: Any) -> Any:
        found = strangers(events, frozenset())
        return {(receiver, "nobody"): atoms for (receiver, _), atoms in found.items()}

    patch.setattr(books, "_strangers", all_of_them)


@fault(
    9,
    "what was claimed is not compared",
    "test_every_difference_between_books_and_chain_is_listed",
)
def claims_not_compared(patch: MonkeyPatch) -> None:
    hide(patch, "seller_claimed_ledger")


@fault(
    9,
    "what was charged is not compared",
    "test_every_difference_between_books_and_chain_is_listed",
)
def charges_not_compared(patch: MonkeyPatch) -> None:
    hide(patch, "seller_charged_ledger")


@fault(
    9,
    "exact payments are not looked for on the chain",
    "test_every_difference_between_books_and_chain_is_listed",
)
def exact_not_compared(patch: MonkeyPatch) -> None:
    hide(patch, "exact_payment")
