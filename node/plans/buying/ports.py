"""How subscriptions reach their sellers, and the node's wallet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from catalog.characters import cut, readable
from finance.store import Write

_MOST_CODE: Final = 80
_MOST_DETAIL: Final = 500
# Whom orders are booked on: what people do in the console, with its limits.
ORDER_KEY = "console"


@dataclass(frozen=True, slots=True)
class Place:
    """A listing of somebody else. `base` is its address, without a slash at its end."""

    listing_id: str
    slug: str
    base: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to a seller that costs nothing. `path` is below the listing, with its slash."""

    place: Place
    method: str
    path: str
    secret: bytes | None = field(default=None, repr=False)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class PlacedOrder:
    """A request that is paid, once per `order_id`, and never above `most_atoms`. It is signed
    together with `guard`, which says that it is still wanted, or not at all."""

    place: Place
    path: str
    body: bytes
    order_id: str
    most_atoms: int
    secret: bytes | None = field(default=None, repr=False)
    guard: Write | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What came of it. `code` and `detail` where it was refused, here or there, made readable:
    sellers may have written them; `price_atoms` is what the seller asks for, where it does;
    `answered`: it was the seller who spoke."""

    status: int
    body: bytes = b""
    code: str = ""
    detail: str = ""
    price_atoms: int | None = None
    answered: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", cut(readable(self.code), _MOST_CODE))
        object.__setattr__(self, "detail", cut(readable(self.detail), _MOST_DETAIL))

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300


class Line(Protocol):
    """The proxy, which has limits, books and egress rules. Neither raises for what goes wrong
    on the way: `Told` says it."""

    async def ask_seller(self, asked: Asked) -> Told:
        """Never pays."""
        ...

    async def place(self, order: PlacedOrder) -> Told:
        """Pays, if it must. The same order again is never paid twice."""
        ...

    def take_doubted(self) -> set[str]:
        """Subscriptions that sellers did not know as they stand here, since last asked."""
        ...


@dataclass(frozen=True, slots=True)
class Vault:
    """What needs the node's keys. `address` is the wallet's; `sign` gives its signature of a
    text (EIP-191), hex."""

    address: str
    seal: Callable[[bytes], str]
    unseal: Callable[[str], bytes]
    sign: Callable[[str], str]


Reload = Callable[[], Awaitable[None]]
