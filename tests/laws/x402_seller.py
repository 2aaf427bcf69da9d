"""A seller that is not ours: asks for any price, keeps what it is sent, answers as told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from finance.chain.addresses import USDC_ADDRESS
from finance.networks import NETWORKS
from finance.x402.offers import Offer, Terms
from finance.x402.receipt import encode_response
from finance.x402.text import to_hex
from finance.x402.values import EXACT, DepositPayment, ExactPayment, Receipt
from finance.x402.wire import decode_payment
from tests.http.proxy_world import served

NETWORK = NETWORKS["devnet"]


@dataclass
class X402Seller:
    """`price` and `min_deposit` in atoms; `payments` are the headers it was sent, in order.

    `lost` answers are cut off after the payment arrived. `on_payment` is called with each
    header the moment it is here, `when_asked` before a price is named. `price_when_paid` is
    asked for instead once somebody pays.
    `plans` is what it answers for its plans, `body` what it delivers.
    """

    price: int = 1_000
    min_deposit: int = 1_000
    schemes: tuple[str, ...] = (EXACT,)
    lost: int = 0
    price_when_paid: int | None = None
    on_payment: Callable[[str], None] | None = None
    when_asked: Callable[[], Awaitable[None]] | None = None
    plans: bytes = b""
    body: bytes = b"{}"
    payments: list[str] = field(default_factory=list)
    seen: list[dict[str, str]] = field(default_factory=list)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        async with served(self) as base:
            self.base = base
            yield base

    @property
    def signed(self) -> list[ExactPayment | DepositPayment]:
        """The payloads that reached it."""
        payloads = [decode_payment(header.encode()).payload for header in self.payments]
        assert all(isinstance(each, ExactPayment | DepositPayment) for each in payloads)
        return payloads  # type: ignore[return-value]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.seen.append(headers)
        payment = headers.get("payment-signature")
        if self.plans and scope["path"].endswith("/.farebox/plans"):
            await _answer(send, 200, self.plans)
            return
        if payment is None:
            if self.when_asked is not None:
                await self.when_asked()
            await self._ask(send, self.price)
            return
        self.payments.append(payment)
        if self.on_payment is not None:
            self.on_payment(payment)
        if self.lost:
            self.lost -= 1
            raise ConnectionResetError("the answer is lost")
        if self.price_when_paid is not None:
            await self._ask(send, self.price_when_paid)
        else:
            await self._deliver(send, payment)

    async def _ask(self, send: Any, price: int) -> None:
        address = bytes.fromhex("5e11e5" + "00" * 17)
        terms = Terms(
            "theirs",
            "/",
            "GET",
            self.base,
            price,
            address,
            bytes.fromhex(USDC_ADDRESS[2:]),
            NETWORK.chain_id,
            address,
            NETWORK.usdc_name,
            NETWORK.usdc_version,
            min_deposit_atoms=self.min_deposit,
            schemes=self.schemes,
        )
        offer = Offer.build(terms)
        await _answer(send, 402, offer.body, (b"payment-required", offer.header))

    async def _deliver(self, send: Any, payment: str) -> None:
        payload = decode_payment(payment.encode()).payload
        if not isinstance(payload, ExactPayment):
            await _answer(send, 500, b"{}")
            return
        receipt = Receipt(
            success=True,
            transaction="0x" + "ab" * 32,
            network=NETWORK.caip2,
            payer=to_hex(payload.authorization.from_address),
            amount=payload.authorization.value,
        )
        cached = (b"cache-control", b"public, max-age=3600")
        await _answer(send, 200, self.body, (b"payment-response", encode_response(receipt)), cached)


async def _answer(send: Any, status: int, body: bytes, *more: tuple[bytes, bytes]) -> None:
    headers = [(b"content-type", b"application/json"), *more]
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
