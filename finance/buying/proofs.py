"""What a proof about a channel settles: the vouchers left open, the books, the counters.

A proof is the seller's receipt, a corrective 402 with our own voucher, or a claim on the
chain. It says how much was charged in all; every voucher up to there is decided by it.
"""

from __future__ import annotations

from collections.abc import Sequence

from finance.buying.channels import Channel, OpenVoucher
from finance.buying.limits import Spending
from finance.buying.lost import ANSWER_LOST, ProvedLate
from finance.buying.purchase import Verdict, call_of, ended, spent
from finance.ledger import Account, entry
from finance.models import PurchaseState
from finance.store import Batch, Increment, Write

_UNUSED = Verdict(PurchaseState.FAILED, error="not_charged")


def find_charged(channel: Channel, charged: int, refused: str = "") -> OpenVoucher | None:
    """The open voucher that a proved cumulative amount belongs to: the last that signed it, if it
    can be one that was not turned down.

    `refused` is the purchase the proof came in answer to: a seller that keeps answers would
    have given its own, so it is the last to be thought of. What was turned down before in the
    same call is not at all: that call goes on.
    """
    call_id = call_of(refused)
    open_ = [
        each
        for each in channel.unresolved
        if each.cumulative == charged
        and 0 < each.amount_atoms <= charged - channel.charged
        and not (each.refused and call_of(each.call_id) == call_id)
    ]
    return max(
        reversed(open_),
        key=lambda each: (not each.refused, each.call_id != refused),
        default=None,
    )


def found_onchain(channel: Channel, now: int) -> list[Write]:
    """The ledger rows of a channel that the chain knew before our books did (they were lost)."""
    amounts = (
        (f"deposit:{channel.id_hex}:found", Account.DEPOSITED, channel.balance),
        (f"adopted:{channel.id_hex}:found", Account.SPENT, -channel.charged),
    )
    return [
        entry(key, account, atoms, now, channel_id=channel.id_hex)
        for key, account, atoms in amounts
        if atoms
    ]


async def adoption(
    channel: Channel,
    charged: int,
    proof_id: str,
    now: int,
    proved_late: ProvedLate,
    refused: str = "",
) -> Batch:
    """Book a cumulative amount that differs from ours; `proof_id` makes its row unique,
    `refused` as in `find_charged`.

    Does not touch the channel: call `adopt` once the writes are on disk.
    """
    paid = find_charged(channel, charged, refused)
    rest = charged - channel.charged
    writes: list[Write] = []
    increments: Sequence[Increment] = ()
    if paid is not None:
        verdict = Verdict(PurchaseState.PAID, paid.amount_atoms, error=ANSWER_LOST)
        call = await proved_late(paid.call_id, paid.amount_atoms)
        increments = call.increments
        writes += [*call.writes, ended(paid.call_id, verdict, now, seen=False)]
        writes.append(spent(paid.call_id, paid.amount_atoms, channel, None, now))
        rest -= paid.amount_atoms
    if rest:
        key = f"adopted:{channel.id_hex}:{proof_id}"
        writes.append(entry(key, Account.SPENT, -rest, now, channel_id=channel.id_hex))
    writes += [
        ended(each.call_id, _UNUSED, now, seen=False)
        for each in channel.unresolved
        if each is not paid and each.cumulative <= charged
    ]
    return Batch(writes, increments)


def adopt(channel: Channel, charged: int, refused: str = "") -> None:
    """Memory, after `adoption` was stored. What was counted for the proved charge stays counted,
    also if its reservation had moved on to a later voucher of this channel."""
    paid = find_charged(channel, charged, refused)
    if paid is not None and paid.reservation is None and channel.unresolved[-1] is not paid:
        channel.unresolved[-1].reservation = None
    channel.unresolved = [each for each in channel.unresolved if each.cumulative > charged]
    channel.charged = charged
    channel.signed = max(channel.signed, charged)


def superseded(
    channel: Channel, charged: int, paid_id: str, spending: Spending, now: int
) -> list[Write]:
    """Writes for the open vouchers a paid one decides: none but itself was charged."""
    decided = [each for each in channel.unresolved if each.cumulative <= charged]
    return _not_charged([each for each in decided if each.call_id != paid_id], spending, now)


def none_charged(channel: Channel, charged: int, spending: Spending, now: int) -> list[Write]:
    """Writes for the vouchers above `charged` on a channel that holds no more than that: nobody
    can claim them."""
    open_ = [each for each in channel.unresolved if each.cumulative > charged]
    return _not_charged(open_, spending, now)


def _not_charged(vouchers: Sequence[OpenVoucher], spending: Spending, now: int) -> list[Write]:
    writes: list[Write] = []
    for each in vouchers:
        writes.append(ended(each.call_id, _UNUSED, now, seen=False))
        if each.reservation is not None:
            writes += spending.release(each.reservation)
    return writes
