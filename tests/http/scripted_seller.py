"""A foreign seller that does what a test tells it: honest until `behave` says otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from finance.networks import NETWORKS
from finance.x402 import codes
from finance.x402.receipt import encode_response, states_wire
from finance.x402.values import (
    ChannelState,
    DepositPayment,
    ExactPayment,
    Payment,
    PaymentRequired,
    Receipt,
    Requirements,
    ResourceInfo,
    VoucherState,
)
from finance.x402.wire import decode_payment, encode_required

NETWORK = NETWORKS["devnet"]
SELLER = "0x" + "5e" * 20

Behave = Callable[["ScriptedSeller", Payment], Awaitable[tuple[int, Receipt | None]]]


class ScriptedSeller:
    """An ASGI app. `seen` are the raw payments, `requests` all requests (method, path)."""

    def __init__(self, scheme: str = "batch-settlement", price: int = 1000) -> None:
        self.scheme, self.price = scheme, price
        self.seen: list[bytes] = []
        self.requests: list[tuple[str, str, dict[bytes, bytes]]] = []
        self.charged: dict[bytes, int] = {}
        self.vouchers: dict[bytes, VoucherState] = {}
        self.given: dict[tuple[str, bytes], Receipt | None] = {}  # by call, see `keeps`
        self.behave: Behave = honest
        self.said = ""  # of itself, in each 402
        self.offers_anew = True  # in a 402 that answers a payment
        self.extensions: dict[str, Any] = {}  # of each 402
        self.error = codes.CUMULATIVE_MISMATCH  # why, in a 402 that answers a voucher
        self.busy = False  # whether a 402 says that the channel serves another call
        self.breaks_off = False  # whether an answer ends half-way
        self.pauses = False  # whether it waits there for `hang`
        self.body = b'{"served":true}'
        self.hang = asyncio.Event()

    def required(self, error: str = "Payment required", **states: Any) -> bytes:
        extra: dict[str, Any] = {"name": NETWORK.usdc_name, "version": NETWORK.usdc_version}
        if self.scheme == "batch-settlement":
            extra |= {"receiverAuthorizer": "0x" + "ab" * 20, "withdrawDelay": 900}
        entry = Requirements(
            self.scheme, NETWORK.caip2, NETWORK.usdc, str(self.price), SELLER, 60, extra | states
        )
        resource = ResourceInfo("http://seller/x", self.said)
        return encode_required(PaymentRequired([entry], error, resource, self.extensions))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        headers = dict(scope["headers"])
        self.requests.append((scope["method"], scope["path"], headers))
        header = headers.get(b"payment-signature")
        if header is None:
            return await self._answer(send, 402, [(b"payment-required", self.required())])
        self.seen.append(header)
        payment = decode_payment(header)
        if payment.accepted.amount != str(self.price):
            return await self._answer(send, 402, [(b"payment-required", self.required())])
        status, receipt = await self.behave(self, payment)
        wire = [] if receipt is None else [(b"payment-response", encode_response(receipt))]
        if status == 402 and self.offers_anew:
            wire.append((b"payment-required", self._corrective(payment)))
        return await self._answer(send, status, wire)

    def _corrective(self, payment: Payment) -> bytes:
        if self.busy:
            return self.required(codes.CHANNEL_BUSY)
        if isinstance(payment.payload, ExactPayment):
            return self.required("invalid_exact_evm_nonce_already_used")
        channel_id = payment.payload.channel_id
        states = states_wire(self.state(payment), self.vouchers.get(channel_id))
        import msgspec

        return self.required(self.error, **msgspec.to_builtins(states))

    def state(self, payment: Payment) -> ChannelState:
        channel_id = payment.payload.channel_id
        charged = self.charged.get(channel_id, 0)
        return ChannelState(channel_id, max(charged, 1), 0, 0, 0, charged)

    async def _answer(self, send: Any, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        body = self.body if status < 400 else b"{}"
        headers = [*headers, (b"content-length", b"%d" % len(body)), (b"set-cookie", b"a=b")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if status < 400 and (self.breaks_off or self.pauses):
            half = len(body) // 2
            await send({"type": "http.response.body", "body": body[:half], "more_body": True})
            body = body[half:]
            if self.breaks_off:
                return
            await self.hang.wait()
        await send({"type": "http.response.body", "body": body})


def payer_of(payment: Payment) -> str:
    payload = payment.payload
    if isinstance(payload, ExactPayment):
        return "0x" + payload.authorization.from_address.hex()
    return "0x" + payload.config.payer.hex()


def charge(seller: ScriptedSeller, payment: Payment, atoms: int | None = None) -> Receipt:
    """Charge like an honest seller (or `atoms`), and say so."""
    if isinstance(payment.payload, ExactPayment):
        return Receipt(True, "0x" + "77" * 32, NETWORK.caip2, payer_of(payment), seller.price)
    channel_id = payment.payload.channel_id
    price = seller.price if atoms is None else atoms
    seller.charged[channel_id] = seller.charged.get(channel_id, 0) + price
    seller.vouchers[channel_id] = VoucherState(
        payment.payload.max_claimable, payment.payload.signature
    )
    return Receipt(
        True,
        "0x" + "77" * 32 if isinstance(payment.payload, DepositPayment) else "",
        NETWORK.caip2,
        payer_of(payment),
        charged_amount=price,
        channel_state=seller.state(payment),
    )


async def honest(seller: ScriptedSeller, payment: Payment) -> tuple[int, Receipt | None]:
    if isinstance(payment.payload, ExactPayment):
        return 200, charge(seller, payment)
    base = payment.payload.max_claimable - seller.price
    if base != seller.charged.get(payment.payload.channel_id, 0):
        return 402, None
    return 200, charge(seller, payment)


async def charges_double(seller: ScriptedSeller, payment: Payment) -> tuple[int, Receipt]:
    """Serves, and says that it has taken twice its price."""
    return 200, charge(seller, payment, 2 * seller.price)


async def keeps(seller: ScriptedSeller, payment: Payment) -> tuple[int, Receipt | None]:
    """`honest`, and a call that was charged gets its answer again."""
    call = seller.requests[-1][1], payment.raw_digest
    receipt = seller.given.get(call)
    if receipt is None:
        status, receipt = await honest(seller, payment)
        if status != 200:
            return status, None
        seller.given[call] = receipt
    return 200, receipt


async def charges_and_hangs(seller: ScriptedSeller, payment: Payment) -> tuple[int, Receipt]:
    """Charges, and answers once a test lets it."""
    receipt = charge(seller, payment)
    await seller.hang.wait()
    return 200, receipt


async def hangs(seller: ScriptedSeller, _: Payment) -> tuple[int, Receipt | None]:
    """Charges nothing, and answers once a test lets it."""
    await seller.hang.wait()
    return 200, None


async def wants_a_little_less(this: ScriptedSeller, _: Payment) -> tuple[int, Receipt | None]:
    this.price -= 1
    return 402, None


async def says_its_channel_is_busy(this: ScriptedSeller, _: Payment) -> tuple[int, Receipt | None]:
    this.busy = True
    return 402, None


async def takes_it_and_asks_again(
    this: ScriptedSeller, payment: Payment
) -> tuple[int, Receipt | None]:
    charge(this, payment)
    return 402, None
