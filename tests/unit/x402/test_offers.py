"""The 402: the SDK's client can pay it, and what it echoes is compared with our terms."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from eth_account import Account
from msgspec.structs import replace
from x402.extensions.bazaar import validate_discovery_extension, validate_discovery_extension_spec
from x402.extensions.bazaar.facilitator import validate_and_extract
from x402.extensions.payment_identifier import (
    declare_payment_identifier_extension,
    is_payment_identifier_extension,
    validate_payment_identifier,
)
from x402.http import utils as sdk_http
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme
from x402.mechanisms.evm.exact import ExactEvmScheme
from x402.schemas import PaymentPayload, PaymentRequired
from x402.server_base import _payment_requirements_match_accepted

from finance.errors import PaymentRefused
from finance.x402 import codes, wire
from finance.x402.offers import Offer, bazaar_extension, payment_identifier_extension
from tests.unit.x402.cases import PAYER_KEY, hex_key, sdk_requirements, terms

ROUTE = terms(min_deposit_atoms=10_000)
OFFER = Offer.build(ROUTE)
ACCOUNT = Account.from_key(hex_key(PAYER_KEY))
STATE = wire.ChannelState(b"\x01" * 32, 9000, 0, 0, 0, 4000)
HELD = wire.VoucherState(4000, b"\x02" * 65)


def pay(header: bytes, scheme: str) -> wire.Payment:
    """What the official client answers to a 402, decoded by us."""
    required = sdk_http.decode_payment_required_header(header.decode())
    assert isinstance(required, PaymentRequired)
    client = BatchSettlementEvmScheme(ACCOUNT) if scheme != "exact" else ExactEvmScheme(ACCOUNT)
    accepted = next(entry for entry in required.accepts if entry.scheme == scheme)
    payment = PaymentPayload(
        payload=client.create_payment_payload(accepted),
        accepted=accepted,
        resource=required.resource,
        extensions=required.extensions,
    )
    return wire.decode_payment(sdk_http.encode_payment_signature_header(payment))


@pytest.mark.parametrize("scheme", ["batch-settlement", "exact"])
def test_the_official_client_pays_our_offer(scheme: str) -> None:
    payment = pay(OFFER.required_header(), scheme)
    OFFER.check_accepted(payment)
    accepted = sdk_requirements(payment.accepted)
    ours = sdk_requirements(OFFER.expected[scheme])
    assert _payment_requirements_match_accepted(ours, accepted, [])


def test_the_official_client_deposits_for_as_many_calls_as_suggested() -> None:
    offer = Offer.build(terms(min_deposit_atoms=1, suggested_deposit_atoms=12_000))
    payment = pay(offer.required_header(), "batch-settlement")
    assert isinstance(payment.payload, wire.DepositPayment)
    assert payment.payload.deposit_amount == 12_000


def test_a_payment_of_a_corrective_402_echoes_its_states_and_is_taken() -> None:
    header = OFFER.required_header(codes.CUMULATIVE_MISMATCH, STATE, HELD)
    payment = pay(header, "batch-settlement")
    assert "channelState" in payment.accepted.extra
    OFFER.check_accepted(payment)


def test_batch_settlement_is_offered_first_and_the_body_says_what_the_header_says() -> None:
    required = wire.decode_required(OFFER.header)
    assert [entry.scheme for entry in required.accepts] == ["batch-settlement", "exact"]
    assert json.loads(OFFER.body) == json.loads(base64.b64decode(OFFER.header))
    assert OFFER.required_header() is OFFER.header and OFFER.required_body() is OFFER.body
    refused = OFFER.required_header(codes.VOUCHER_SIGNATURE)
    assert wire.decode_required(refused) == replace(required, error=codes.VOUCHER_SIGNATURE)
    assert json.loads(OFFER.required_body("e", STATE))["error"] == "e"


@pytest.mark.parametrize(
    ("scheme", "change", "code"),
    [
        ("batch-settlement", {"network": "eip155:1"}, codes.BATCH_NETWORK_MISMATCH),
        ("batch-settlement", {"amount": "999"}, codes.INVALID_REQUIREMENTS),
        ("batch-settlement", {"amount": "01000"}, codes.INVALID_REQUIREMENTS),
        ("batch-settlement", {"pay_to": "0x" + "0a" * 20}, codes.RECEIVER_MISMATCH),
        ("batch-settlement", {"asset": "0x" + "0a" * 20}, codes.TOKEN_MISMATCH),
        ("batch-settlement", {"max_timeout_seconds": 1}, codes.INVALID_REQUIREMENTS),
        ("batch-settlement", {"scheme": "upto"}, codes.UNSUPPORTED_SCHEME),
        ("exact", {"network": "eip155:1"}, codes.EXACT_NETWORK_MISMATCH),
        ("exact", {"amount": "999"}, codes.EXACT_VALUE_MISMATCH),
        ("exact", {"pay_to": ""}, codes.EXACT_RECIPIENT_MISMATCH),
        ("exact", {"asset": "0x" + "0a" * 20}, codes.INVALID_REQUIREMENTS),
        ("exact", {"extra": {}}, codes.INVALID_REQUIREMENTS),
    ],
)
def test_an_echo_of_other_terms_is_refused(scheme: str, change: dict[str, Any], code: str) -> None:
    payment = pay(OFFER.header, scheme)
    refuse(replace(payment, accepted=replace(payment.accepted, **change)), code)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("receiverAuthorizer", "0x" + "0a" * 20, codes.RECEIVER_AUTHORIZER_MISMATCH),
        ("receiverAuthorizer", None, codes.RECEIVER_AUTHORIZER_MISMATCH),
        ("withdrawDelay", 900, codes.WITHDRAW_DELAY_MISMATCH),
        ("withdrawDelay", "86400", codes.WITHDRAW_DELAY_MISMATCH),
        ("withdrawDelay", 86400.0, codes.WITHDRAW_DELAY_MISMATCH),
        ("name", "USDC", codes.INVALID_REQUIREMENTS),
        ("version", 2, codes.INVALID_REQUIREMENTS),
    ],
)
def test_an_echo_of_other_channel_terms_is_refused(name: str, value: Any, code: str) -> None:
    payment = pay(OFFER.header, "batch-settlement")
    extra = {**payment.accepted.extra, name: value, "more": 1}
    refuse(replace(payment, accepted=replace(payment.accepted, extra=extra)), code)


def test_a_payment_for_another_resource_is_refused_and_one_without_is_taken() -> None:
    payment = pay(OFFER.header, "exact")
    refuse(replace(payment, resource=wire.ResourceInfo("https://else")), codes.INVALID_REQUIREMENTS)
    OFFER.check_accepted(replace(payment, resource=None))


def test_addresses_are_compared_without_their_case() -> None:
    payment = pay(OFFER.header, "batch-settlement")
    lower = {"receiverAuthorizer": payment.accepted.extra["receiverAuthorizer"].lower()}
    accepted = replace(
        payment.accepted,
        pay_to=payment.accepted.pay_to.lower(),
        asset=payment.accepted.asset.lower(),
        extra={**payment.accepted.extra, **lower},
    )
    OFFER.check_accepted(replace(payment, accepted=accepted))


def refuse(payment: wire.Payment, code: str) -> None:
    with pytest.raises(PaymentRefused) as caught:
        OFFER.check_accepted(payment)
    assert caught.value.code == code


OPERATION: dict[str, Any] = {
    "parameters": [
        {"name": "city", "in": "path", "required": True, "schema": {"type": "string"},
         "example": "Oslo"},
        {"name": "days", "in": "query", "schema": {"type": "integer", "default": 3}},
        {"name": "unit", "in": "query", "schema": {"$ref": "https://evil.example/s.json"}},
        {"name": "trace", "in": "header", "schema": {"type": "string"}},
    ],
    "requestBody": {"content": {"application/json": {
        "schema": {"type": "object", "required": ["q"], "properties": {"q": {"type": "string"}}}}}},
    "responses": {"200": {"content": {"application/json": {
        "schema": {"type": "array", "items": {"type": "number"}}, "example": [1.5]}}}},
}  # fmt: skip


@pytest.mark.parametrize("method", ["get", "HEAD", "DELETE", "POST", "put", "PATCH"])
@pytest.mark.parametrize("operation", [OPERATION, {}, {"parameters": "x", "responses": {"2XX": 1}}])
def test_the_sdk_catalogs_what_we_declare(method: str, operation: dict[str, Any]) -> None:
    declared = bazaar_extension(method, operation, "/weather/:city")["bazaar"]
    for check in (validate_discovery_extension, validate_discovery_extension_spec):
        assert check(declared).errors == []
    extracted = validate_and_extract(declared)
    assert extracted.valid and extracted.info is not None
    assert extracted.info.input.method == method.upper()
    assert "evil" not in json.dumps(declared)


def test_examples_of_the_specification_reach_the_catalog() -> None:
    body = OPERATION["requestBody"]["content"]["application/json"] | {"example": {"q": "rain"}}
    operation = {**OPERATION, "requestBody": {"content": {"application/json": body}}}
    info = bazaar_extension("POST", operation)["bazaar"]["info"]
    assert info["input"]["body"] == {"q": "rain"}
    assert info["input"]["pathParams"] == {"city": "Oslo"}
    assert info["input"]["queryParams"] == {"days": 3}
    assert info["output"] == {"type": "json", "example": [1.5]}
    assert bazaar_extension("OPTIONS", operation) == {}


@pytest.mark.parametrize("required", [False, True])
def test_payment_identifiers_are_declared_as_the_sdk_declares_them(required: bool) -> None:
    declared = payment_identifier_extension(required)["payment-identifier"]
    assert declared == declare_payment_identifier_extension(required)
    assert is_payment_identifier_extension(declared)
    assert validate_payment_identifier(declared).valid


def test_a_long_declaration_stays_out_of_the_header_and_in_the_body() -> None:
    long = {f"p{n}": {"type": "string", "description": "x" * 90} for n in range(80)}
    parameters = [{"name": n, "in": "query", "schema": s} for n, s in long.items()]
    extensions = bazaar_extension("GET", {"parameters": parameters})
    extensions |= payment_identifier_extension()
    for description in ("Weather", "天気" * 250):
        offer = Offer.build(terms(extensions=extensions, description=description))
        assert len(offer.header) <= 3_000  # proxies in front pass on 4 KiB of all headers
        shown, whole = wire.decode_required(offer.header), json.loads(offer.body)
        assert shown.extensions is not None and list(shown.extensions) == ["payment-identifier"]
        assert shown.resource is not None
        assert shown.resource.description == (description if len(description) < 10 else None)
        assert "bazaar" in whole["extensions"] and whole["resource"]["description"] == description
