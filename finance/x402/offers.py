"""What a route costs, and the 402 that says so, built once and sent many times.

The terms are the seller's own; what a client echoes of them is compared here
and never believed (law 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import msgspec

from finance.errors import PaymentRefused
from finance.x402 import codes, text
from finance.x402.digest import domain_separator
from finance.x402.extensions import BAZAAR, bazaar_extension, payment_identifier_extension
from finance.x402.header import wrap
from finance.x402.receipt import states_wire
from finance.x402.values import (
    BATCH_SETTLEMENT_SCHEME,
    EXACT,
    ChannelState,
    Payment,
    PaymentRequired,
    Requirements,
    ResourceInfo,
    VoucherState,
)

__all__ = ["Offer", "Terms", "bazaar_extension", "payment_identifier_extension"]

_ENCODER = msgspec.json.Encoder()
_PAYMENT_REQUIRED_ERROR = "Payment required"
# nginx passes on no head of more than 4 KiB, if it is not told to. And a payment repeats most of
# an offer, in one line: most servers, of WebSockets too, take 8 KiB.
_MAX_HEADER_BYTES = 3000

# Of a requirement's `extra`, what the terms fix; the rest is advice or channel state.
_EXTRA_TERMS = {
    EXACT: ("name", "version"),
    BATCH_SETTLEMENT_SCHEME: ("name", "version", "receiverAuthorizer", "withdrawDelay"),
}


@dataclass(frozen=True, slots=True)
class Terms:
    """One route's terms. Addresses are 20 bytes, amounts atoms, delays seconds."""

    listing_id: str
    route: str
    method: str
    resource_url: str
    amount_atoms: int
    pay_to: bytes
    asset: bytes
    chain_id: int
    receiver_authorizer: bytes
    token_name: str
    token_version: str
    description: str | None = None
    mime_type: str | None = None
    withdraw_delay_seconds: int = 86_400
    max_timeout_seconds: int = 60
    min_deposit_atoms: int = 0
    suggested_deposit_atoms: int = 0
    schemes: tuple[str, ...] = (BATCH_SETTLEMENT_SCHEME, EXACT)
    extensions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> str:
        """CAIP-2 id of the chain."""
        return f"eip155:{self.chain_id}"

    @property
    def token_domain(self) -> bytes:
        """EIP-712 domain separator of the token."""
        return domain_separator(self.token_name, self.token_version, self.chain_id, self.asset)


@dataclass(frozen=True, slots=True)
class Offer:
    """The terms of one route, and the 402 answer that shows them, ready to send."""

    terms: Terms
    expected: Mapping[str, Requirements]
    header: bytes
    body: bytes

    @classmethod
    def build(cls, terms: Terms) -> Self:
        """Encode the answer to an unpaid request once."""
        expected = {scheme: _requirements(terms, scheme) for scheme in terms.schemes}
        required = _required(terms, list(expected.values()), _PAYMENT_REQUIRED_ERROR)
        return cls(terms, expected, _header(required), _ENCODER.encode(required))

    def required_header(
        self,
        error: str | None = None,
        channel_state: ChannelState | None = None,
        voucher_state: VoucherState | None = None,
    ) -> bytes:
        """PAYMENT-REQUIRED, with the reason of a refusal; with states it is corrective
        (scheme_batch_settlement_evm, "Corrective 402")."""
        if error is None and channel_state is None and voucher_state is None:
            return self.header
        return _header(self._refusal(error, channel_state, voucher_state))

    def required_body(
        self,
        error: str | None = None,
        channel_state: ChannelState | None = None,
        voucher_state: VoucherState | None = None,
    ) -> bytes:
        """The JSON body that says the same as `required_header`."""
        if error is None and channel_state is None and voucher_state is None:
            return self.body
        return _ENCODER.encode(self._refusal(error, channel_state, voucher_state))

    def check_accepted(self, payment: Payment) -> None:
        """Compare what the client says it accepted with our terms; raise PaymentRefused.

        `extra` may carry channel state from a corrective 402, so only the terms in
        it count.
        """
        accepted = payment.accepted
        expected = self.expected.get(accepted.scheme)
        if expected is None:
            message = "This route is not sold by that payment scheme."
            raise PaymentRefused(message, codes.UNSUPPORTED_SCHEME)
        # Nearly every client echoes the requirements as they were sent.
        if accepted != expected:
            _compare(accepted, expected)
        resource = payment.resource
        if resource is not None and resource.url != self.terms.resource_url:
            message = "The payment was made for another resource."
            raise PaymentRefused(message, codes.INVALID_REQUIREMENTS)

    def _refusal(
        self,
        error: str | None,
        channel_state: ChannelState | None,
        voucher_state: VoucherState | None,
    ) -> PaymentRequired:
        states = states_wire(channel_state, voucher_state)
        accepts = [
            msgspec.structs.replace(entry, extra={**entry.extra, **states})
            if states and scheme == BATCH_SETTLEMENT_SCHEME
            else entry
            for scheme, entry in self.expected.items()
        ]
        return _required(self.terms, accepts, error or _PAYMENT_REQUIRED_ERROR)


def _requirements(terms: Terms, scheme: str) -> Requirements:
    return Requirements(
        scheme,
        terms.network,
        text.checksum(terms.asset),
        str(terms.amount_atoms),
        text.checksum(terms.pay_to),
        terms.max_timeout_seconds,
        _extra(terms, scheme),
    )


def _extra(terms: Terms, scheme: str) -> dict[str, Any]:
    extra: dict[str, Any] = {"name": terms.token_name, "version": terms.token_version}
    if scheme == BATCH_SETTLEMENT_SCHEME:
        extra["receiverAuthorizer"] = text.checksum(terms.receiver_authorizer)
        extra["withdrawDelay"] = terms.withdraw_delay_seconds
        # The official clients deposit exactly what stands here, so the least that is
        # accepted would be a deposit per call.
        if announced := max(terms.min_deposit_atoms, terms.suggested_deposit_atoms):
            extra["minDeposit"] = str(announced)
    return extra


def _required(terms: Terms, accepts: list[Requirements], error: str) -> PaymentRequired:
    resource = ResourceInfo(terms.resource_url, terms.description, terms.mime_type)
    return PaymentRequired(accepts, error, resource, dict(terms.extensions) or None)


def _header(required: PaymentRequired) -> bytes:
    """The header; where it would be too long, the body alone has what describes the API."""
    header = wrap(_ENCODER.encode(required))
    if len(header) > _MAX_HEADER_BYTES and required.extensions:
        rest = {key: value for key, value in required.extensions.items() if key != BAZAAR}
        required = msgspec.structs.replace(required, extensions=rest or None)
        header = wrap(_ENCODER.encode(required))
    if len(header) > _MAX_HEADER_BYTES and required.resource:
        bare = msgspec.structs.replace(required.resource, description=None)
        header = wrap(_ENCODER.encode(msgspec.structs.replace(required, resource=bare)))
    return header


def _compare(accepted: Requirements, expected: Requirements) -> None:
    batch = expected.scheme == BATCH_SETTLEMENT_SCHEME
    if accepted.network != expected.network:
        code = codes.BATCH_NETWORK_MISMATCH if batch else codes.EXACT_NETWORK_MISMATCH
        raise PaymentRefused("The payment is for another network.", code)
    if accepted.pay_to.lower() != expected.pay_to.lower():
        code = codes.RECEIVER_MISMATCH if batch else codes.EXACT_RECIPIENT_MISMATCH
        raise PaymentRefused("The payment is for another receiver.", code)
    if accepted.asset.lower() != expected.asset.lower():
        code = codes.TOKEN_MISMATCH if batch else codes.INVALID_REQUIREMENTS
        raise PaymentRefused("The payment is in another token.", code)
    if accepted.amount != expected.amount:
        code = codes.INVALID_REQUIREMENTS if batch else codes.EXACT_VALUE_MISMATCH
        raise PaymentRefused("The payment accepts another price.", code)
    if accepted.max_timeout_seconds != expected.max_timeout_seconds:
        message = "The payment accepts another time limit."
        raise PaymentRefused(message, codes.INVALID_REQUIREMENTS)
    _compare_extra(accepted.extra, expected)


def _compare_extra(extra: dict[str, Any], expected: Requirements) -> None:
    for name in _EXTRA_TERMS[expected.scheme]:
        ours, theirs = expected.extra[name], extra.get(name)
        if theirs == ours and type(theirs) is type(ours):
            continue
        if name == "receiverAuthorizer":
            if isinstance(theirs, str) and theirs.lower() == ours.lower():
                continue
            message = "The payment names another receiver authorizer."
            raise PaymentRefused(message, codes.RECEIVER_AUTHORIZER_MISMATCH)
        if name == "withdrawDelay":
            message = "The payment accepts another withdraw delay."
            raise PaymentRefused(message, codes.WITHDRAW_DELAY_MISMATCH)
        message = "The payment is for another EIP-712 domain of the token."
        raise PaymentRefused(message, codes.INVALID_REQUIREMENTS)
