"""Support & Billings of a key, formatted. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from zoneinfo import ZoneInfo

from finance.money import Usdc
from node.console.developers_view import utc
from node.console.format import Amount, Moment, Short, exact_amount, moment, short
from node.console.pager import Pager, page_of
from node.usage.key_record import Kind, RecordLine
from node.usage.keys import KeyView

PATH: Final = "/developers/my-usage"
PAGE_ROWS: Final = 50
RECORD: Final = ("time_utc", "kind", "api", "text", "by", "usdc", "transaction", "state", "answer")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the record."""

    at: Moment
    kind: str
    about: str
    text: str
    by: str
    paid: Amount | None
    tx: Short | None
    state: str
    tone: str
    answer: str


@dataclass(frozen=True, slots=True)
class RecordView:
    """What `developers/my_usage_record.html` shows."""

    id: str
    name: str
    lines: tuple[Line, ...]
    pager: Pager
    path: str


def record_view(
    key: KeyView, lines: Sequence[RecordLine], query: Mapping[str, str], now: int, zone: ZoneInfo
) -> RecordView:
    path = f"{PATH}/{key.id}/record"
    shown, pager = page_of(path, query, lines, PAGE_ROWS)
    return RecordView(
        key.id, key.name, tuple(record_line(each, now, zone) for each in shown), pager, path
    )


def record_line(each: RecordLine, now: int, zone: ZoneInfo) -> Line:
    paid = each.kind is Kind.PAYMENT
    return Line(
        at=moment(each.at, now, zone),
        kind=each.kind.value,
        about=each.about,
        text=each.text,
        by=each.by,
        paid=exact_amount(Usdc(each.atoms)) if paid else None,
        tx=short(each.tx_hash) if each.tx_hash else None,
        state=each.state,
        tone=_TONES.get(each.state, "plain"),
        answer=each.answer,
    )


def record_lines(record: Sequence[RecordLine]) -> Iterator[tuple[object, ...]]:
    for each in record:
        paid = str(Usdc(each.atoms)) if each.kind is Kind.PAYMENT else ""
        told = (each.about, each.text, each.by, paid, each.tx_hash, each.state, each.answer)
        yield utc(each.at), each.kind.value, *told


_TONES: Final = {
    "open": "info",
    "granted": "good",
    "answered": "good",
    "holds": "good",
    "refused": "bad",
    "failed": "bad",
}
