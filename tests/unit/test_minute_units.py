"""The unit of a price: typed, stored, listed by a peer, offered; and the last event of a stream."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from catalog.discovery import Payable, group, read_resource
from catalog.drafts import parse_priced, parse_route, price_text
from catalog.errors import ListingInvalid
from catalog.models import PriceUnit
from finance.buying.terms import choose
from finance.money import Usdc
from finance.networks import NETWORKS
from finance.x402.values import PaymentRequired, Requirements
from node.lines.events import Between, last_event, may_add

NETWORK = NETWORKS["devnet"]
PAY_TO = "0x" + "51" * 20


@given(some.integers(0, 10**12), some.sampled_from(PriceUnit))
def test_a_price_is_read_as_it_is_written(atoms: int, unit: PriceUnit) -> None:
    assert parse_priced(price_text(Usdc(atoms), unit)) == (Usdc(atoms), unit)


@pytest.mark.parametrize("written", ["GET /a/{b}=0.01", "* /live/*=2/minute"])
def test_a_route_is_read_as_it_is_written(written: str) -> None:
    assert str(parse_route(written)) == written


@pytest.mark.parametrize("typed", ["1/week", "/minute", "1/", "1/minute/2", "x/minute"])
def test_what_is_no_price_is_refused(typed: str) -> None:
    with pytest.raises(ListingInvalid) as refused:
        parse_priced(typed)
    assert refused.value.field == "price"


def accepts(scheme: str = "exact") -> dict[str, Any]:
    return {
        "scheme": scheme,
        "network": NETWORK.caip2,
        "asset": NETWORK.usdc,
        "amount": "1000",
        "payTo": PAY_TO,
        "maxTimeoutSeconds": 60,
        "extra": {"name": "USD Coin", "version": "2"},
    }


@pytest.mark.parametrize(
    ("own", "unit"),
    [
        ({"unit": "minute"}, PriceUnit.MINUTE),
        ({"unit": "year"}, PriceUnit.CALL),
        ({}, PriceUnit.CALL),
        ("minute", PriceUnit.CALL),
        (None, PriceUnit.CALL),
    ],
)
def test_a_peers_listing_says_its_unit(own: Any, unit: PriceUnit) -> None:
    item = {
        "resource": "https://s.example/v1/feed/live",
        "type": "http",
        "accepts": [accepts()],
        "extensions": {"farebox": own},
    }
    found = read_resource(item, Payable(NETWORK.caip2, NETWORK.usdc))
    [listing], _ = group([found])
    assert listing.unit is unit and listing.routes[0].price_unit is unit


@pytest.mark.parametrize(
    ("own", "path"),
    [
        ({"unit": "minute", "base": "https://s.example/v1/feed"}, "/v1/feed"),
        ({"unit": "minute", "base": "https://s.example/at/v1/feed/"}, "/at/v1/feed"),
        ({"unit": "minute", "base": "https://s.example/v1/../x"}, ""),
        ({"unit": "minute", "base": "https://s.example/v1/%2e"}, ""),
        ({"unit": "minute", "base": 7}, ""),
        ({"unit": "minute"}, ""),
        ({"unit": "call", "base": "https://s.example/v1/feed"}, ""),
        ([], ""),
    ],
)
def test_only_an_offer_by_the_minute_has_minutes_to_pay(own: Any, path: str) -> None:
    asked = accepts()
    entry = Requirements(
        asked["scheme"],
        asked["network"],
        asked["asset"],
        asked["amount"],
        asked["payTo"],
        asked["maxTimeoutSeconds"],
        asked["extra"],
    )
    required = PaymentRequired([entry], extensions={"farebox": own})
    assert choose(required, NETWORK, ("exact",)).minutes_at == path


@given(some.lists(some.binary(max_size=5)))
def test_between_two_events_is_after_an_empty_line(chunks: list[bytes]) -> None:
    between = Between()
    for chunk in chunks:
        between.see(chunk)
    passed = b"\n\n" + b"".join(chunks)
    assert bool(between) == passed.endswith((b"\n\n", b"\r\r", b"\r\n\r\n"))


def test_the_last_event_is_one_and_nothing_compressed_gets_it() -> None:
    assert last_event("payment_due") == b'event: farebox\ndata: {"code":"payment_due"}\n\n'
    assert may_add([(b"content-type", b"text/event-stream")])
    assert not may_add([(b"content-encoding", b"gzip")])
    assert not may_add([(b"content-length", b"12")])
