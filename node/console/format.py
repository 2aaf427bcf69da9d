"""Values as the screen shows them: short in place, whole on hover. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from finance.money import Usdc, Wei
from finance.networks import Network
from finance.x402.text import checksum, parse_address

NOT_KNOWN = "—"
DAY_SECONDS = 86_400
_DIGIT_BLANK, _POINT_BLANK = "\u2007", "\u2008"  # figure space, punctuation space


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of money; `exact` to the atom, with its symbol; `blank` fills a column up."""

    text: str
    exact: str
    symbol: str
    blank: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """A time: `text` relative under a day, else local; `local` with its zone and `utc` for the
    hover; `iso` for machines."""

    text: str
    local: str
    utc: str
    iso: str


@dataclass(frozen=True, slots=True)
class Short:
    """An address or hash: shortened in the middle, whole on hover; `link` to an explorer."""

    short: str
    full: str
    link: str | None = None


def amount(value: Usdc | Wei | None, places: int | None = None) -> Amount:
    """Cut to the cent (USDC) or to six places (ETH) unless told otherwise; None is a dash. What
    is too little for the last place is not shown as nothing: `< 0.01`."""
    if value is None:
        return Amount(NOT_KNOWN, "not known yet", "")
    if places is None:
        places = 2 if isinstance(value, Usdc) else 6
    least = 10 ** (value.decimals - places)
    text = value.rounded_down(places)
    if 0 < int(value) < least:
        text = f"< {type(value)(least).rounded_down(places)}"
    return Amount(text, f"{exact_text(value)} {value.symbol}", value.symbol)


def exact_amount(value: Usdc | Wei) -> Amount:
    """To the atom in place too, thousands separated."""
    text = exact_text(value)
    return Amount(text, f"{text} {value.symbol}", value.symbol)


def cell_amount(value: Usdc | Wei) -> Amount:
    """The same for a column: USDC with all its places, so that the points stand below each
    other."""
    text = value.rounded_down(Usdc.decimals) if isinstance(value, Usdc) else exact_text(value)
    return Amount(text, f"{exact_text(value)} {value.symbol}", value.symbol)


def aligned(cells: Sequence[Amount]) -> list[Amount]:
    """The cells of a column of several tokens, filled up with blanks as wide as digits, so that
    the points stand below each other in a column that is flush right."""
    places = [len(each.text.partition(".")[2]) for each in cells]
    most = max(places, default=0)
    return [replace(each, blank=_blank(most, own)) for each, own in zip(cells, places, strict=True)]


def _blank(most: int, own: int) -> str:
    point = _POINT_BLANK if most and not own else ""
    return point + _DIGIT_BLANK * (most - own)


def exact_text(value: Usdc | Wei) -> str:
    """`1,234.5`: every digit, no trailing zeros, never scientific."""
    whole, _, rest = str(value).partition(".")
    return f"{int(whole):,}.{rest}" if rest else f"{int(whole):,}"


def signed_amount(atoms: int, kind: type[Usdc] | type[Wei] = Usdc) -> Amount:
    """A movement to the atom, with its sign, for a column."""
    shown = cell_amount(kind(abs(atoms)))
    sign = "−" if atoms < 0 else "+"
    return Amount(f"{sign}{shown.text}", f"{sign}{shown.exact}", shown.symbol)


def per(unit: str) -> str:
    """What a price is for: `per call`, `per minute`, or one of both where routes differ."""
    return "per call or minute" if unit == "mixed" else f"per {unit}"


def moment(at: int, now: int, zone: ZoneInfo) -> Moment:
    """Unix seconds in the viewer's zone; relative when less than a day ago."""
    local = datetime.fromtimestamp(at, zone)
    utc = datetime.fromtimestamp(at, UTC)
    shown = local.strftime("%Y-%m-%d %H:%M:%S %Z")
    text = age(now - at) if 0 <= now - at < DAY_SECONDS else local.strftime("%Y-%m-%d %H:%M")
    return Moment(text, shown, utc.strftime("%Y-%m-%d %H:%M:%S UTC"), utc.isoformat())


def age(seconds: int) -> str:
    """`just now`, `12 s ago`, `3 min ago`, `5 h ago`."""
    if seconds < 2:
        return "just now"
    if seconds < 60:
        return f"{seconds} s ago"
    if seconds < 3600:
        return f"{seconds // 60} min ago"
    return f"{seconds // 3600} h ago"


def duration(seconds: int) -> str:
    """`42 s`, `3 min`, `5 h 12 min`, `2 d 3 h`, `4 d`."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // DAY_SECONDS
    if days:
        return f"{days} d {hours % 24} h" if hours % 24 else f"{days} d"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{max(seconds, 0)} s"


def short(text: str, link: str | None = None) -> Short:
    """`0x1234…abcd`; what is short already stays whole."""
    cut = f"{text[:6]}…{text[-4:]}" if len(text) > 14 else text
    return Short(cut, text, link)


def address(text: str, network: Network) -> Short:
    """A wallet or contract, with its explorer page where the network has one. As EIP-55 writes it:
    whoever copies it by hand can be told of a slip."""
    with suppress(ValueError):  # not one: as it stands
        text = checksum(parse_address(text))
    explorer = network.explorer_url
    return short(text, f"{explorer}/address/{text}" if explorer else None)


def transaction(tx_hash: str, network: Network) -> Short:
    """A transaction, with its explorer page where the network has one."""
    explorer = network.explorer_url
    return short(tx_hash, f"{explorer}/tx/{tx_hash}" if explorer else None)


def count(number: int) -> str:
    """`1,234,567`."""
    return f"{number:,}"


def percent(part: int, whole: int) -> str:
    """One decimal, cut not rounded (99.99 % is no 100 %); a dash of nothing."""
    if not whole:
        return NOT_KNOWN
    tenths = part * 1000 // whole
    return f"{tenths // 10}.{tenths % 10} %"


def latency(microseconds: int) -> str:
    """Milliseconds, from ten seconds on seconds."""
    if microseconds >= 10_000_000:
        return f"{microseconds / 1_000_000:,.1f} s"
    return f"{microseconds / 1000:,.1f} ms"


def size(octets: int) -> str:
    """`512 B`, `1.4 MB`."""
    if octets < 1000:
        return f"{octets} B"
    value, units = octets / 1000, ["kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:,.1f} {units[0]}"
