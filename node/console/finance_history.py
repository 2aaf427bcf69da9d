"""Finance > History: what moved on the chain, filtered, as pages and as a file."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from starlette.responses import Response

from finance.actions import Action
from finance.history import Filter, Line, Place, all_history, read_history
from finance.money import Usdc, Wei
from finance.networks import Network
from finance.operations import Token
from node.accounts.access import Permission
from node.console.format import (
    Amount,
    Moment,
    Short,
    address,
    aligned,
    exact_text,
    moment,
    short,
    signed_amount,
    transaction,
)
from node.console.forms import Form
from node.console.pager import Pager, keyset, link
from node.console.pages import Pages
from node.console.visit import Visit
from node.treasury.treasury import Treasury

PATH = "/finance/history"
PER_PAGE = 50
_FIELDS = ("action", "token", "from", "to", "text")
_HEADER = ("time_utc", "unix", "action", "token", "in", "out", "detail", "transaction")

LABELS = {
    Action.RECEIVED: ("Received", "good"),
    Action.SALE: ("Sale", "good"),
    Action.SWEEP: ("Swept earnings", "good"),
    Action.RETURNED: ("Back from a channel", "info"),
    Action.DEPOSIT: ("Into a channel", "info"),
    Action.PURCHASE: ("Purchase", "plain"),
    Action.WITHDRAWAL: ("Withdrawal", "loud"),
    Action.GAS: ("Gas", "plain"),
    Action.TAKEN_BACK: ("Taken back by the chain", "bad"),
}
PURPOSES = {
    "settle": "settling payments",
    "claim": "claiming vouchers",
    "refund": "refunding a buyer's channel",
    "withdraw_usdc": "withdrawing USDC",
    "withdraw_eth": "withdrawing ETH",
    "channel_leave": "announcing a channel's withdrawal",
    "channel_take": "finishing a channel's withdrawal",
}


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One line; `other` is who was on the other side, `words` what it was for."""

    at: Moment
    label: str
    tone: str
    token: str
    amount: Amount
    words: str
    other: Short | None
    transaction: Short | None


@dataclass(frozen=True, slots=True)
class HistoryView:
    """What `finance/history.html` shows."""

    rows: tuple[HistoryRow, ...]
    form: Form
    actions: tuple[tuple[str, str], ...]
    tokens: tuple[tuple[str, str], ...]
    zone: str
    filtered: bool
    pager: Pager
    csv: str


def pages(treasury: Treasury) -> Pages:
    """The list and its file."""
    pages = Pages("finance", "history")

    @pages.get(PATH, Permission.SEE_FINANCE)
    async def show(visit: Visit) -> Response:
        view = await asyncio.to_thread(_view, treasury, visit)
        return visit.page("finance/history.html", view, "History")

    @pages.get(f"{PATH}.csv", Permission.SEE_FINANCE)
    async def export(visit: Visit) -> Response:
        wanted, _ = read_filter(visit.query, visit.zone)
        here = replace(wanted, chain_id=treasury.network.chain_id)
        lines = all_history(treasury.engine, here)
        return visit.csv("history.csv", _HEADER, _csv_rows(lines))

    return pages


def _view(treasury: Treasury, visit: Visit) -> HistoryView:
    wanted, form = read_filter(visit.query, visit.zone)
    after = Place.parse(visit.query.get("before", ""))
    here = replace(wanted, chain_id=treasury.network.chain_id)
    page = read_history(treasury.engine, here, after, PER_PAGE)
    query = {name: form.value(name) for name in _FIELDS}
    older = page.older.text() if page.older else None
    rows = [history_row(each, treasury.network, visit) for each in page.lines]
    amounts = aligned([row.amount for row in rows])
    actions = (("", "Everything"), *((each.value, LABELS[each][0]) for each in Action))
    return HistoryView(
        rows=tuple(replace(row, amount=each) for row, each in zip(rows, amounts, strict=True)),
        form=form,
        actions=actions,
        tokens=(("", "Both"), *((each.value, each.value) for each in Token)),
        zone=str(visit.zone),
        filtered=wanted != Filter(),
        pager=keyset(PATH, query, older, newest=after is None),
        csv=link(f"{PATH}.csv", query),
    )


def read_filter(query: Mapping[str, str], zone: ZoneInfo) -> tuple[Filter, Form]:
    """The filter of an address; days are the viewer's, both included. What cannot be read
    filters nothing and says so beside its field."""
    form = Form({name: query.get(name, "").strip() for name in _FIELDS})
    action, token = form.value("action"), form.value("token")
    days = {}
    for name in ("from", "to"):
        try:
            days[name] = date.fromisoformat(form.value(name)) if form.value(name) else None
        except ValueError:
            days[name], form = None, form.with_error(name, "A day, like 2026-11-21.")
    first, last = days["from"], days["to"]
    wanted = Filter(
        Action(action) if action in list(Action) else None,
        Token(token) if token in list(Token) else None,
        None if first is None else _midnight(first, zone),
        None if last is None or last == date.max else _midnight(last + timedelta(days=1), zone),
        form.value("text")[:200],
    )
    return wanted, form


def _midnight(day: date, zone: ZoneInfo) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())


def history_row(line: Line, network: Network, visit: Visit) -> HistoryRow:
    """A movement, formatted."""
    label, tone = LABELS[line.action]
    kind = Usdc if line.token is Token.USDC else Wei
    return HistoryRow(
        at=moment(line.at, visit.now, visit.zone),
        label=label,
        tone=tone,
        token=line.token.value,
        amount=signed_amount(line.amount, kind),
        words=_words(line),
        other=address(line.other, network) if line.other else _channel(line),
        transaction=transaction(line.tx_hash, network) if line.tx_hash else None,
    )


def _words(line: Line) -> str:
    if line.action is Action.GAS:
        return f"for {PURPOSES.get(line.purpose, line.purpose or 'a transaction')}"
    if line.other:
        return "from" if line.amount > 0 else "to"
    return "channel" if line.channel_id else ""


def _channel(line: Line) -> Short | None:
    return short(line.channel_id) if line.channel_id else None


def _csv_rows(lines: Iterator[Line]) -> Iterator[list[object]]:
    for line in lines:
        kind = Usdc if line.token is Token.USDC else Wei
        at = datetime.fromtimestamp(line.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        number = exact_text(kind(abs(line.amount))).replace(",", "")
        sides = (number, "") if line.amount >= 0 else ("", number)
        detail = " ".join(filter(None, (_words(line), line.other or line.channel_id or "")))
        yield [at, line.at, line.action, line.token, *sides, detail, line.tx_hash or ""]
