"""Both directions of every header, against the SDK's own codecs."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from x402.http import utils as sdk_http
from x402.mechanisms.evm.batch_settlement import types as sdk
from x402.mechanisms.evm.types import ExactEIP3009Payload
from x402.schemas import PaymentPayload, PaymentRequired, ResourceInfo, SettleResponse

from finance.errors import PaymentMalformed
from finance.x402 import codes, text, wire
from finance.x402.offers import Offer
from tests.unit.x402.cases import (
    addresses,
    authorizations,
    batch,
    configs,
    equal_to_sdk,
    sdk_requirements,
    terms,
    uints,
    words,
)

signatures = st.binary(max_size=80)
voucher_fields = (configs, words, uints(128), signatures)
payloads = st.one_of(
    st.builds(wire.ExactPayment, authorizations, signatures),
    st.builds(wire.VoucherPayment, *voucher_fields),
    st.builds(
        wire.DepositPayment,
        *voucher_fields,
        uints(128),
        uints(256),
        uints(256),
        uints(256),
        signatures,
    ),
    st.builds(wire.RefundPayment, *voucher_fields, st.none() | uints(128)),
)
characters = st.characters(codec="utf-8", exclude_characters="\0")
words_of_text = st.text(characters, max_size=20)
json_values = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | words_of_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words_of_text, inner, max_size=3),
    max_leaves=6,
)
extras = st.dictionaries(words_of_text, json_values, max_size=4)
requirements = st.builds(
    wire.Requirements,
    st.sampled_from(["exact", "batch-settlement", "upto"]),
    words_of_text,
    words_of_text,
    uints(256).map(str),
    words_of_text,
    st.integers(0, 2**31),
    extras,
)
optional_text = st.none() | words_of_text
resources = st.builds(
    wire.ResourceInfo,
    words_of_text,
    optional_text,
    optional_text,
    optional_text,
    st.none() | st.lists(words_of_text, max_size=3),
    optional_text,
)
channel_states = st.builds(
    wire.ChannelState,
    words,
    uints(128),
    uints(128),
    uints(40),
    uints(256),
    st.none() | uints(128),
)
voucher_states = st.builds(wire.VoucherState, uints(128), signatures)


def document(header: bytes | str) -> dict[str, Any]:
    return json.loads(base64.b64decode(header))


def scheme_of(payload: wire.Payload) -> str:
    return "exact" if isinstance(payload, wire.ExactPayment) else "batch-settlement"


def sdk_payload(payload: dict[str, Any]) -> dict[str, Any]:
    """The payload read and written by the SDK's own types."""
    kinds = {"voucher": sdk.VoucherPayload, "deposit": sdk.DepositPayload}
    kind = kinds.get(payload.get("type", ""), sdk.RefundPayload)
    if "type" not in payload:
        return ExactEIP3009Payload.from_dict(payload).to_dict()
    return kind.from_dict(payload).to_dict()


@equal_to_sdk
@given(payloads, requirements, st.none() | resources)
def test_the_sdk_reads_our_payments_and_we_read_its(
    payload: wire.Payload, accepted: wire.Requirements, resource: wire.ResourceInfo | None
) -> None:
    accepted = replace(accepted, scheme=scheme_of(payload))
    ours = wire.encode_payment(accepted, payload, resource)
    theirs = sdk_http.decode_payment_signature_header(ours.decode())
    assert sdk_payload(theirs.payload) == theirs.payload or not payload.signature
    assert theirs.accepted == sdk_requirements(accepted)

    back = sdk_http.encode_payment_signature_header(theirs)
    assert document(back) == document(ours)
    payment = wire.decode_payment(back)
    assert (payment.payload, payment.accepted, payment.resource) == (payload, accepted, resource)
    assert payment.raw_digest == hashlib.sha256(back.encode()).digest()


@equal_to_sdk
@given(st.lists(requirements, max_size=3), optional_text, st.none() | resources)
def test_the_sdk_reads_our_offers_and_we_read_its(
    accepts: list[wire.Requirements], error: str | None, resource: wire.ResourceInfo | None
) -> None:
    required = wire.PaymentRequired(accepts, error, resource, {"payment-identifier": {"a": 1}})
    theirs = sdk_http.decode_payment_required_header(wire.encode_required(required).decode())
    assert isinstance(theirs, PaymentRequired)
    assert theirs.accepts == [sdk_requirements(entry) for entry in accepts]
    assert wire.decode_required(sdk_http.encode_payment_required_header(theirs)) == required


@equal_to_sdk
@given(
    st.booleans(),
    words_of_text,
    words_of_text,
    st.none() | uints(256),
    st.none() | uints(128),
    st.none() | channel_states,
    st.none() | voucher_states,
    st.none() | st.text(characters, min_size=1, max_size=20),
    st.none() | addresses,
)
def test_the_sdk_reads_our_receipts_and_we_read_its(
    success: bool,
    transaction: str,
    network: str,
    amount: int | None,
    charged: int | None,
    channel: wire.ChannelState | None,
    voucher: wire.VoucherState | None,
    reason: str | None,
    payer: bytes | None,
) -> None:
    payer_hex = None if payer is None else text.checksum(payer)
    receipt = wire.Receipt(
        success, transaction, network, payer_hex, amount, reason, reason, charged, channel, voucher
    )
    theirs = sdk_http.decode_payment_response_header(wire.encode_response(receipt).decode())
    extra = sdk.PaymentResponseExtra.from_dict(theirs.extra or {})
    assert extra.charged_amount == (None if charged is None else str(charged))
    assert extra.to_dict() == (theirs.extra or {})
    assert wire.decode_response(sdk_http.encode_payment_response_header(theirs)) == receipt
    lower = replace(receipt, payer=payer_hex and payer_hex.lower())
    assert wire.encode_response(lower) == wire.encode_response(receipt)


@equal_to_sdk
@given(configs)
def test_a_channel_configuration_survives_the_wire(config: wire.ChannelConfig) -> None:
    assert wire.ChannelConfig.from_wire(config.wire()) == config
    assert sdk.ChannelConfig.from_dict(config.wire()).to_dict() == config.wire()


@equal_to_sdk
@given(channel_states, voucher_states)
def test_the_state_in_a_corrective_402_is_the_sdks(
    channel: wire.ChannelState, voucher: wire.VoucherState
) -> None:
    header = Offer.build(terms()).required_header(codes.CUMULATIVE_MISMATCH, channel, voucher)
    extra = wire.decode_required(header).accepts[0].extra
    assert wire.read_states(extra) == (channel, voucher)
    theirs = sdk.PaymentRequirementsExtra.from_dict(extra)
    assert theirs.channel_state is not None and theirs.voucher_state is not None
    assert theirs.to_dict() == extra
    assert theirs.channel_state.balance == str(channel.balance)


def test_the_answer_to_a_voucher_has_an_empty_amount_and_transaction() -> None:
    state = wire.ChannelState(b"\x01" * 32, 5000, 0, charged_cumulative_amount=1000)
    receipt = wire.Receipt(True, "", "eip155:8453", charged_amount=1000, channel_state=state)
    sdk_answer = SettleResponse(
        success=True,
        transaction="",
        network="eip155:8453",
        amount="",
        extra={
            "channelState": {
                "channelId": "0x" + "01" * 32,
                "balance": "5000",
                "totalClaimed": "0",
                "withdrawRequestedAt": 0,
                "refundNonce": "0",
                "chargedCumulativeAmount": "1000",
            },
            "chargedAmount": "1000",
        },
    )
    header = wire.encode_response(receipt)
    assert document(header) == document(sdk_http.encode_payment_response_header(sdk_answer))
    assert wire.decode_response(header) == receipt


def payment_document(**changes: Any) -> dict[str, Any]:
    voucher = {"channelId": "0x" + "11" * 32, "maxClaimableAmount": "7", "signature": "0x12"}
    config = wire.ChannelConfig(*[b"\x01" * 20] * 5, 900, b"\x02" * 32).wire()
    payload = {"type": "voucher", "channelConfig": config, "voucher": voucher}
    accepted = sdk_requirements(batch(terms()))
    whole = PaymentPayload(payload=payload, accepted=accepted, resource=ResourceInfo(url="u"))
    return {**json.loads(whole.model_dump_json(by_alias=True, exclude_none=True)), **changes}


def encode(data: Any) -> bytes:
    return base64.b64encode(json.dumps(data).encode())


def refusal(header: bytes | str) -> str:
    with pytest.raises(PaymentMalformed) as caught:
        wire.decode_payment(header)
    assert str(caught.value)
    return caught.value.code


@pytest.mark.parametrize(
    "amount",
    [
        *("-1", "1.0", "1e3", "٣", "²", " 7", "7 ", "+7", "07", "0x7", "", "1_0", "7\n"),
        *("9" * 5000, str(2**128), 7, 7.0, True, None, [], {}),
    ],
)
def test_an_amount_that_is_no_plain_decimal_is_refused(amount: Any) -> None:
    data = payment_document()
    data["payload"]["voucher"]["maxClaimableAmount"] = amount
    assert refusal(encode(data)) == codes.VOUCHER_PAYLOAD


@pytest.mark.parametrize(
    "channel",
    [
        *("0x", "11" * 32, "0x" + "11" * 31, "0x" + "11" * 33, "0X" + "11" * 32),
        *("0x" + "1 " * 32, "0x" + "zz" * 32, "0x" + "１" * 64),
    ],
)
def test_a_channel_id_in_another_form_is_refused(channel: str) -> None:
    data = payment_document()
    data["payload"]["voucher"]["channelId"] = channel
    assert refusal(encode(data)) == codes.CHANNEL_ID_INVALID


@pytest.mark.parametrize("delay", [-1, 2**40, 900.5, "900", True, None, 10**400])
def test_a_withdraw_delay_that_is_no_uint40_is_refused(delay: Any) -> None:
    data = payment_document()
    data["payload"]["channelConfig"]["withdrawDelay"] = delay
    assert refusal(encode(data)) in (codes.VOUCHER_PAYLOAD, codes.INVALID_PAYLOAD)
    with pytest.raises(PaymentMalformed):
        wire.ChannelConfig.from_wire(data["payload"]["channelConfig"])


@pytest.mark.parametrize(
    "header", ["", "e30=", "!!!", "é", b"\xff", "W10=", b"A" * 20_000, "bnVsbA=="]
)
def test_a_header_that_is_no_payment_is_refused(header: bytes | str) -> None:
    assert refusal(header) == codes.INVALID_PAYLOAD


def test_what_is_wrong_with_a_payment_is_said_by_its_code() -> None:
    data = payment_document()
    assert refusal(encode({**data, "x402Version": 1})) == codes.INVALID_VERSION
    assert refusal(encode({**data, "payload": {"type": "gift"}})) == codes.PAYLOAD_TYPE
    assert refusal(encode({**data, "payload": {"type": "deposit"}})) == codes.DEPOSIT_PAYLOAD
    assert refusal(encode({**data, "payload": []})) == codes.INVALID_PAYLOAD
    upto = {**data["accepted"], "scheme": "upto"}
    assert refusal(encode({**data, "accepted": upto})) == codes.UNSUPPORTED_SCHEME
    permit2 = {"amount": "1", "authorization": {"permit2Authorization": {}}}
    deposit = {**data["payload"], "type": "deposit", "deposit": permit2}
    assert refusal(encode({**data, "payload": deposit})) == codes.ERC3009_REQUIRED
    refund = {**data["payload"], "type": "refund", "amount": "-5"}
    assert refusal(encode({**data, "payload": refund})) == codes.REFUND_AMOUNT_INVALID


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_a_nested_bomb_is_refused(opening: str) -> None:
    bomb = (opening * 4000)[:11_000]
    assert refusal(base64.b64encode(bomb.encode())) == codes.INVALID_PAYLOAD
    whole = json.dumps(payment_document())[:-1] + ', "extensions": {"x": ' + bomb[:10_000]
    assert refusal(base64.b64encode(whole.encode())) == codes.INVALID_PAYLOAD


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "1" + "0" * 5000])
def test_numbers_that_are_none_are_refused(number: str) -> None:
    body = json.dumps({**payment_document(), "extensions": {"x": 12345}}).replace("12345", number)
    assert refusal(base64.b64encode(body.encode())) == codes.INVALID_PAYLOAD


def test_a_payment_identifier_is_read_and_a_bare_echo_is_none() -> None:
    from x402.extensions.payment_identifier import (
        append_payment_identifier_to_extensions,
        declare_payment_identifier_extension,
    )

    declared = {"payment-identifier": declare_payment_identifier_extension()}
    echoed = wire.decode_payment(encode(payment_document(extensions=declared)))
    assert echoed.payment_identifier is None and echoed.extensions == declared
    named = append_payment_identifier_to_extensions(dict(declared), "pay_0123456789abcdef")
    payment = wire.decode_payment(encode(payment_document(extensions=named)))
    assert payment.payment_identifier == "pay_0123456789abcdef"


@pytest.mark.parametrize(
    "name", ["short", "x" * 129, "sixteen letters!", "é" * 20, "a" * 16 + "\n", 7]
)
def test_a_payment_identifier_in_another_form_is_refused(name: Any) -> None:
    extensions = {"payment-identifier": {"info": {"required": False, "id": name}}}
    header = encode(payment_document(extensions=extensions))
    assert refusal(header) == codes.INVALID_PAYMENT_IDENTIFIER


def test_a_receipt_that_is_none_is_refused() -> None:
    for body in ({}, {"success": "yes"}, {"success": True, "transaction": "", "network": 1}):
        with pytest.raises(PaymentMalformed):
            wire.decode_response(encode(body))


def test_addresses_are_shown_with_their_checksum() -> None:
    shown = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
    assert text.checksum(bytes.fromhex(shown[2:])) == shown
