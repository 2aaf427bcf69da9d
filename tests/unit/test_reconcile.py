"""Which disagreements between books and chain are found, to the atom; no chain, no database."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import coincurve
import pytest

from finance.books import Books, SettledEvent
from finance.chain.answers import Receipt
from finance.chain.events import BATCH_SETTLEMENT_HEX, SeenEvent
from finance.chain.snapshot import ChannelFacts, Snapshot
from finance.models import ChannelState, PaymentKind, PaymentState, PurchaseState, TxState
from finance.reconcile import Report, compare
from finance.x402.digest import address_of, sign_digest, voucher_digest
from finance.x402.text import to_hex

_CHAIN_ID = 31337
_WALLET, _PAYER = "0x" + "aa" * 20, "0x" + "bb" * 20
_SOLD, _BOUGHT = "0x" + "01" * 32, "0x" + "02" * 32
_TX, _SWEEP = "0x" + "11" * 32, "0x" + "12" * 32
_KEY = coincurve.PrivateKey(b"\x07" * 32)


def _row(**columns: Any) -> Any:
    return SimpleNamespace(**columns)


def _transfer(tx_hash: str, index: int, sender: str, to: str, value: int) -> SeenEvent:
    args = {"from": sender, "to": to, "value": value}
    return SeenEvent("Transfer", None, args, 5, "0x" + "ff" * 32, tx_hash, index)


def _signature(amount: int) -> str:
    return to_hex(sign_digest(_KEY, voucher_digest(bytes.fromhex(_SOLD[2:]), amount, _CHAIN_ID)))


def _seller(**changes: Any) -> Any:
    row = _row(
        channel_id=_SOLD,
        receiver=_WALLET,
        payer_authorizer=to_hex(address_of(_KEY)),
        receiver_authorizer=_WALLET,
        state=ChannelState.OPEN,
        balance_atoms=1000,
        total_claimed_atoms=300,
        withdraw_amount_atoms=0,
        charged_atoms=400,
        streaming_atoms=0,
        signed_atoms=450,
        voucher_signature=_signature(450),
    )
    return _row(**{**vars(row), **changes})


def _buyer(**changes: Any) -> Any:
    columns = {
        "channel_id": _BOUGHT,
        "state": ChannelState.OPEN,
        "balance_atoms": 500,
        "charged_atoms": 60,
        "signed_atoms": 70,
    }
    return _row(**{**columns, **changes})


def _payment(**changes: Any) -> Any:
    columns = {
        "id": "call-1",
        "kind": PaymentKind.EXACT,
        "state": PaymentState.CONFIRMED,
        "payer": _PAYER,
        "pay_to": _WALLET,
        "value_atoms": 25,
        "charge_atoms": 25,
        "tx_hash": _TX,
        "log_index": 1,
        "channel_id": None,
    }
    return _row(**{**columns, **changes})


def _books(**changes: Any) -> Books:
    columns: dict[str, Any] = {
        "opening": 100,
        "moved": {(_TX, 1): 25, (_SWEEP, 2): 300},
        "later": frozenset(),
        "replaced": frozenset(),
        "settled": (SettledEvent(_SWEEP, 3, 300),),
        "strangers": {},
        "charged": {_SOLD: 400},
        "claimed": {_SOLD: 300},
        "spent": {_BOUGHT: -60},
        "deposited": {_BOUGHT: 500},
        "gas": {_TX: -9},
        "exact": 25,
        "spent_exact": 0,
        "sold": (_seller(),),
        "bought": (_buyer(),),
        "payments": (_payment(),),
        "transactions": (
            _row(tx_hash=_TX, fee_wei=9, state=TxState.MINED, purpose="settle", ref="1"),
        ),
        "purchases": (),
    }
    return Books(**{**columns, **changes})


def _chain(**changes: Any) -> Snapshot:
    snapshot = Snapshot(
        block_number=9,
        block_hash="0x" + "ff" * 32,
        usdc=425,
        receiver_claimed=300,
        receiver_settled=300,
        channels={
            _SOLD: ChannelFacts(1000, 300, 0, 0, 0),
            _BOUGHT: ChannelFacts(500, 40, 0, 0, 0),
        },
        transfers={
            (_TX, 1): _transfer(_TX, 1, _PAYER, _WALLET, 25),
            (_SWEEP, 2): _transfer(_SWEEP, 2, BATCH_SETTLEMENT_HEX, _WALLET, 300),
        },
        receipts={_TX: Receipt(_TX, True, 5, "0x" + "ff" * 32, 1, 9, ())},
    )
    return replace(snapshot, **changes)


def _compare(books: Books, chain: Snapshot) -> Report:
    return compare(books, chain, _WALLET, _CHAIN_ID)


def test_books_that_equal_the_chain_have_no_difference() -> None:
    report = _compare(_books(), _chain())
    assert (report.differences, report.open) == ((), ())


@pytest.mark.parametrize(
    ("books", "kind"),
    [
        (_books(opening=99), "wallet_usdc"),
        (_books(moved={(_TX, 1): 26, (_SWEEP, 2): 299}), "transfer"),
        (_books(moved={(_TX, 1): 25, (_SWEEP, 2): 300, (_TX, 7): 0}, opening=101), "wallet_usdc"),
        (_books(settled=(SettledEvent(_SWEEP, 3, 301),)), "settled"),
        (_books(charged={_SOLD: 399}), "seller_charged_ledger"),
        (_books(claimed={}), "seller_claimed_ledger"),
        (_books(spent={_BOUGHT: -61}), "buyer_spent_ledger"),
        (_books(deposited={_BOUGHT: 501}), "buyer_deposits"),
        (_books(gas={_TX: -8}), "gas_ledger_wei"),
        (_books(exact=24), "exact_ledger"),
        (_books(spent_exact=-1), "exact_spent"),
        (_books(sold=(_seller(balance_atoms=999),)), "seller_balance"),
        (_books(sold=(_seller(total_claimed_atoms=299),)), "seller_total_claimed"),
        (_books(sold=(_seller(withdraw_amount_atoms=1),)), "seller_withdrawal"),
        (_books(sold=(_seller(signed_atoms=399),)), "seller_charged_above_signed"),
        (_books(sold=(_seller(signed_atoms=451),)), "seller_voucher"),
        (_books(sold=(_seller(voucher_signature="0x"),)), "seller_voucher"),
        (_books(bought=(_buyer(balance_atoms=501),)), "buyer_balance"),
        (_books(bought=(_buyer(signed_atoms=39, charged_atoms=39),)), "buyer_claimed_above_signed"),
        (_books(bought=(_buyer(signed_atoms=59),)), "buyer_charged_above_signed"),
        (_books(payments=(_payment(value_atoms=26),), exact=26), "exact_payment"),
        (_books(payments=(_payment(log_index=2),)), "exact_payment"),
        (_books(payments=(_payment(), _payment(id="call-2")), exact=50), "exact_payment"),
    ],
)
def test_one_wrong_atom_in_the_books_is_found(books: Books, kind: str) -> None:
    assert kind in {each.kind for each in _compare(books, _chain()).differences}


@pytest.mark.parametrize(
    ("chain", "kind"),
    [
        (_chain(usdc=424), "wallet_usdc"),
        (_chain(receiver_claimed=301), "receiver_claimed"),
        (_chain(receipts={_TX: None}), "gas_wei"),
        (_chain(transfers={}), "exact_payment"),
    ],
)
def test_what_only_the_chain_knows_is_found(chain: Snapshot, kind: str) -> None:
    assert kind in {each.kind for each in _compare(_books(), chain).differences}


@pytest.mark.parametrize(("authorizer", "balanced"), [(_PAYER, True), (_WALLET, False)])
def test_what_is_claimed_elsewhere_is_a_difference_only_where_it_was_ours_to_claim(
    authorizer: str, balanced: bool
) -> None:
    books = _books(strangers={(_WALLET, authorizer): 1})
    assert _compare(books, _chain(receiver_claimed=301)).balanced is balanced


def test_a_difference_names_both_values() -> None:
    (found,) = _compare(_books(), _chain(usdc=424)).differences
    assert (found.kind, found.books, found.chain) == ("wallet_usdc", 425, 424)


def test_what_is_on_its_way_is_open_and_no_difference() -> None:
    sent = _row(tx_hash=None, fee_wei=None, state=TxState.BROADCAST, purpose="claim", ref="2")
    purchase = _row(
        call_id="p",
        state=PurchaseState.UNKNOWN,
        amount_atoms=3,
        deposit_atoms=5,
        charged_atoms=0,
        channel_id=_BOUGHT,
        tx_hash=None,
    )
    books = _books(
        transactions=(sent,),
        purchases=(purchase,),
        payments=(_payment(), _payment(id="call-3", state=PaymentState.SENT)),
        bought=(_buyer(state=ChannelState.OPENING, balance_atoms=0),),
    )
    report = _compare(books, _chain())
    assert report.differences == ()
    assert {each.kind for each in report.open} == {"transaction", "payment", "purchase", "channel"}
