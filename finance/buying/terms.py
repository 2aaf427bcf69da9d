"""What a seller asks for, read from a 402: checked, chosen, ready to be paid many times.

Chain, token and token domain are our own network's; an offer that names others is not
one we can take. The seller's requirements are echoed back as they came.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from finance.errors import PaymentMalformed, PaymentRefused
from finance.money import MAX_ATOMS
from finance.networks import Network
from finance.x402 import text
from finance.x402.values import (
    X402_VERSION,
    PaymentRequired,
    Requirements,
)
from finance.x402.vouchers import MAX_WITHDRAW_DELAY_SECONDS, MIN_WITHDRAW_DELAY_SECONDS

_ENCODER = msgspec.json.Encoder()
_IDENTIFIER = "payment-identifier"
_ID_PLACE = b"@@payment-id@@"
# Discovery data: long, of use to catalogs only, and header lines have limits.
_NOT_ECHOED = frozenset(("bazaar", "farebox"))
# Added by a corrective 402; state, not terms.
_STATES = ("channelState", "voucherState")
_ZERO = bytes(20)
_MAX_BASE = 1000
_PLAIN_PATH = re.compile(r"(/[A-Za-z0-9_~-]+)+")


class NoAcceptableOffer(PaymentRefused):
    """The seller offers no way to pay that this node can take."""

    code = "no_acceptable_offer"


@dataclass(frozen=True, slots=True)
class Terms:
    """One way to pay for one route. Amounts in atoms, addresses 20 bytes, delays seconds.

    `envelope` is the payment's JSON up to its payload, `with_id` whether it has a place
    for a payment identifier. `minutes_at`: each minute of a stream costs as much again, sold
    below this path; empty where the price is one of a call. The three before it are
    batch-settlement's.
    """

    scheme: str
    amount_atoms: int
    pay_to: bytes
    max_timeout_seconds: int
    envelope: bytes
    with_id: bool
    receiver_authorizer: bytes = _ZERO
    withdraw_delay_seconds: int = 0
    min_deposit_atoms: int = 0
    minutes_at: str = ""

    def document(self, payload: bytes, payment_id: str) -> bytes:
        """The whole payment as JSON around a scheme's `payload`."""
        head = self.envelope
        if self.with_id:
            head = head.replace(_ID_PLACE, payment_id.encode())
        return head + payload + b"}"


def choose(required: PaymentRequired, network: Network, prefer: Sequence[str]) -> Terms:
    """The first acceptable entry by preference; raise NoAcceptableOffer with the reasons."""
    reasons = []
    for scheme in prefer:
        for entry in required.accepts:
            if entry.scheme != scheme:
                continue
            try:
                return read_terms(required, entry, network)
            except (PaymentMalformed, ValueError) as error:
                reasons.append(f"{scheme}: {error}")
    offered = ", ".join(
        f"{each.scheme[:40]} on {each.network[:40]}" for each in required.accepts[:8]
    )
    detail = "; ".join(reasons[:4]) or f"it offers {offered or 'nothing'}"
    raise NoAcceptableOffer(f"The seller offers no payment this node can make: {detail}.")


def read_terms(required: PaymentRequired, entry: Requirements, network: Network) -> Terms:
    """Check one entry of `accepts`; raise PaymentMalformed or ValueError saying why not."""
    if entry.network != network.caip2:
        raise ValueError(f"it is on {entry.network[:40]}, this node on {network.caip2}")
    if entry.asset_bytes != text.parse_address(network.usdc):
        raise ValueError("it is not in this network's USDC")
    if entry.extra.get("assetTransferMethod", "eip3009") != "eip3009":
        raise ValueError("it wants another transfer method than EIP-3009")
    amount, pay_to = entry.amount_atoms, entry.pay_to_bytes
    if not 0 < amount <= MAX_ATOMS:
        raise ValueError("its amount is out of range")
    if pay_to == _ZERO or entry.max_timeout_seconds <= 0:
        raise ValueError("its receiver or time-out is empty")
    envelope, with_id = _envelope(required, entry)
    base = (entry.scheme, amount, pay_to, entry.max_timeout_seconds, envelope, with_id)
    match entry.scheme:
        case "exact":
            return Terms(*base, minutes_at=_minutes_at(required))
        case "batch-settlement":
            channel = _channel_terms(entry.extra)
            return Terms(*base, *channel, minutes_at=_minutes_at(required))
    raise ValueError("the scheme is not known here")


def _channel_terms(extra: dict[str, Any]) -> tuple[bytes, int, int]:
    authorizer = text.parse_address(str(extra.get("receiverAuthorizer", "")))
    if authorizer == _ZERO:
        raise ValueError("it names no receiver authorizer")
    delay = extra.get("withdrawDelay", MIN_WITHDRAW_DELAY_SECONDS)
    if type(delay) is not int or not (
        MIN_WITHDRAW_DELAY_SECONDS <= delay <= MAX_WITHDRAW_DELAY_SECONDS
    ):
        raise ValueError("its withdraw delay is out of range")
    return authorizer, delay, text.parse_uint(str(extra.get("minDeposit", "0")), 63)


def _minutes_at(required: PaymentRequired) -> str:
    """The path below which a Farebox seller sells further minutes of a stream."""
    own = (required.extensions or {}).get("farebox")
    if not isinstance(own, dict) or own.get("unit") != "minute":
        return ""
    base = own.get("base")
    path = urlsplit(base[:_MAX_BASE]).path.rstrip("/") if isinstance(base, str) else ""
    return path if _PLAIN_PATH.fullmatch(path) else ""


def _envelope(required: PaymentRequired, entry: Requirements) -> tuple[bytes, bool]:
    """The payment's JSON up to `"payload":`, and whether an id goes into it."""
    extra = {name: value for name, value in entry.extra.items() if name not in _STATES}
    document: dict[str, Any] = {
        "x402Version": X402_VERSION,
        "accepted": msgspec.structs.replace(entry, extra=extra),
    }
    if required.resource is not None:
        document["resource"] = required.resource
    echoed = {k: v for k, v in (required.extensions or {}).items() if k not in _NOT_ECHOED}
    with_id = _add_identifier(echoed)
    if echoed:
        document["extensions"] = echoed
    return _ENCODER.encode(document)[:-1] + b',"payload":', with_id


def _add_identifier(extensions: dict[str, Any]) -> bool:
    """Put a place for our payment identifier where the seller takes one."""
    declared = extensions.get(_IDENTIFIER)
    if not isinstance(declared, dict) or not isinstance(declared.get("info"), dict):
        return False
    info = {**declared["info"], "id": _ID_PLACE.decode()}
    extensions[_IDENTIFIER] = {**declared, "info": info}
    return True
