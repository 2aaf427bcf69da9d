"""Whatever arrives as a payment header, it is refused in words or it is the payment signed."""

from __future__ import annotations

import base64
import copy
import json
import random
from typing import Any

from msgspec.structs import replace

from finance.errors import PaymentMalformed, PaymentRefused
from finance.x402 import digest, exact, vouchers, wire
from finance.x402.extensions import payment_identifier_extension
from finance.x402.offers import Offer
from finance.x402.values import DepositPayment, RefundPayment, TransferAuthorization, VoucherPayment
from tests.unit.x402.cases import CHAIN_ID, HEADERS, NOW, PAYER_KEY, channel, terms

CHARGED, BALANCE, CLAIMED = 4000, 9000, 3000
ROUTE = terms(extensions=payment_identifier_extension())
OFFER = Offer.build(ROUTE)

HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 900.5, 10**30, -(10**30), 2**63, 2**64, 2**128, 2**256,
    "", "0", "-1", "1.5", "1e9", "٣٤", "²", "０", "NaN", "0x", "0X" + "0" * 64, "0x" + "g" * 64,
    "0x" + "00" * 20, "0x" + "ff" * 32, "0x" + "0" * 63, "0x" + " 0" * 32, "9" * 78, "9" * 5000,
    str(2**128), str(2**256), "\ud800", "\x00", "💸" * 40, "voucher", "deposit", "refund", "exact",
    "batch-settlement", "upto", "eip155:1", "eip155:", "solana:main", [], {}, [[]], [1], {"a": 1},
    {"erc3009Authorization": None}, {"permit2Authorization": {}}, {"info": {"required": 1}},
]  # fmt: skip
TEXTS = ["NaN", "-Infinity", "1e999", "1" + "0" * 5000, "-0", "0.1e-400", '"\\ud800"', "[" * 3000]
TEXTS += ['{"a":' * 1500, '"\\u0000"', '"' + "A" * 9000 + '"', "tru", "{", '"', "1,2", '"a":1']


def signed_payments() -> list[tuple[wire.Payload, bytes]]:
    """One honest payment of every kind, with its header."""
    config = channel(ROUTE)
    channel_id = digest.channel_id(config, CHAIN_ID)
    total = CHARGED + ROUTE.amount_atoms
    signature = vouchers.sign_voucher(PAYER_KEY, channel_id, total, CHAIN_ID)
    still = vouchers.sign_voucher(PAYER_KEY, channel_id, CHARGED, CHAIN_ID)
    deposit = DepositPayment(config, channel_id, total, signature, 5000, 0, NOW + 600, 77, b"")
    transfer = TransferAuthorization(
        config.payer, ROUTE.pay_to, ROUTE.amount_atoms, 0, NOW + 600, b"\x08" * 32
    )
    payloads: list[wire.Payload] = [
        VoucherPayment(config, channel_id, total, signature),
        vouchers.sign_deposit(PAYER_KEY, deposit, ROUTE.token_domain),
        RefundPayment(config, channel_id, CHARGED, still, 100),
        exact.sign_authorization(PAYER_KEY, transfer, ROUTE.token_domain),
    ]
    return [(payload, header_of(payload)) for payload in payloads]


def header_of(payload: wire.Payload) -> bytes:
    scheme = wire.EXACT if isinstance(payload, wire.ExactPayment) else wire.BATCH_SETTLEMENT_SCHEME
    extension = payment_identifier_extension()
    extension["payment-identifier"]["info"]["id"] = "pay_0123456789abcdef"
    resource = wire.ResourceInfo(ROUTE.resource_url)
    return wire.encode_payment(OFFER.expected[scheme], payload, resource, extension)


def admit(header: bytes) -> wire.Payload:
    """All checks that need no chain, as a gateway runs them; raise PaymentRefused."""
    payment = wire.decode_payment(header)
    OFFER.check_accepted(payment)
    payload = payment.payload
    match payload:
        case wire.ExactPayment():
            asks_code = exact.check_authorization(payload, ROUTE, NOW)
        case VoucherPayment():
            vouchers.check_config(payload.config, payload.channel_id, ROUTE)
            vouchers.check_voucher(payload, ROUTE, CHARGED, BALANCE, CLAIMED)
            asks_code = vouchers.check_voucher_signature(payload, ROUTE)
        case DepositPayment():
            asks_code = vouchers.check_deposit(payload, ROUTE, NOW, CHARGED, BALANCE, CLAIMED)
            asks_code |= vouchers.needs_contract_check(payload.config)
        case RefundPayment():
            vouchers.check_refund(payload, ROUTE, CHARGED, BALANCE, CLAIMED)
            asks_code = vouchers.check_voucher_signature(payload, ROUTE)
    if asks_code:
        # The payer has no code in this test: EIP-1271 says no.
        raise PaymentRefused("No code at the payer.")
    return payload


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON document."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[tuple[Any, Any]] = []
    for key, entry in entries:
        found.append((value, key))
        if isinstance(entry, dict | list):
            found += places(entry)
    return found


def mutate_document(rng: random.Random, document: Any) -> bytes:
    document = copy.deepcopy(document)
    for _ in range(rng.randint(1, 3)):
        container, key = rng.choice(places(document))
        match rng.randrange(5):
            case 0:
                del container[key]
            case 1 if isinstance(container[key], str) and container[key]:
                text, at = container[key], rng.randrange(len(container[key]))
                container[key] = (
                    text[:at] + rng.choice("0 9aF-x٣\n") + text[at + rng.randint(0, 1) :]
                )
            case 2 if isinstance(container, dict):
                container[rng.choice(["type", "extra", "__proto__", "x402Version", "é"])] = 1
            case 3:
                container[key] = "@@"
            case _:
                container[key] = rng.choice(HOSTILE)
        if not document:
            break
    text = json.dumps(document)
    while '"@@"' in text:
        text = text.replace('"@@"', rng.choice(TEXTS), 1)
    return base64.b64encode(text.encode("utf-8", "surrogatepass"))


def mutate_bytes(rng: random.Random, header: bytes) -> bytes:
    raw = bytearray(header if rng.random() < 0.5 else base64.b64decode(header))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(raw))
        match rng.randrange(4):
            case 0:
                raw[at] = rng.randrange(256)
            case 1:
                del raw[at : at + rng.randint(1, 40)]
            case 2:
                raw[at:at] = rng.randbytes(rng.randint(1, 8))
            case _:
                raw[at:at] = raw[max(0, at - rng.randint(1, 80)) : at]
        if not raw:
            break
    return bytes(raw) if rng.random() < 0.5 else base64.b64encode(bytes(raw))


def test_a_mutated_header_is_refused_or_still_the_payment_that_was_signed() -> None:
    rng = random.Random(402)
    honest = signed_payments()
    documents = [json.loads(base64.b64decode(header)) for _, header in honest]
    admitted = refused = 0
    for round_ in range(HEADERS):
        index = round_ % len(honest)
        payload, header = honest[index]
        if rng.random() < 0.7:
            bad = mutate_document(rng, documents[index])
        else:
            bad = mutate_bytes(rng, header)
        try:
            found = admit(bad)
        except PaymentRefused as error:
            assert error.code and str(error)
            refused += 1
            continue
        if isinstance(found, RefundPayment):
            # A refund's amount is the payer's wish, not part of what he signed.
            found = replace(found, amount=100)
        assert found == payload
        admitted += 1
    assert refused > admitted


def test_the_buyers_decoders_survive_the_same_mutations() -> None:
    rng = random.Random(2_402)
    state = wire.ChannelState(b"\x01" * 32, 9, 1, 2, 3, 4)
    receipt = wire.Receipt(True, "", "eip155:1", "0x" + "11" * 20, 7, "a", "b", 5, state)
    seeds = [
        (wire.decode_required, OFFER.required_header("e", state, wire.VoucherState(5, b"\x01"))),
        (wire.decode_response, wire.encode_response(receipt)),
    ]
    for round_ in range(HEADERS // 2):
        decoder, header = seeds[round_ % 2]
        document = json.loads(base64.b64decode(header))
        bad = (mutate_document(rng, document), mutate_bytes(rng, header))[rng.random() < 0.3]
        try:
            found = decoder(bad)
            if isinstance(found, wire.PaymentRequired):
                for entry in found.accepts:
                    wire.read_states(entry.extra)
                    assert entry.amount_atoms >= 0 and entry.chain_id >= 0
                    assert len(entry.asset_bytes) == len(entry.pay_to_bytes) == 20
        except PaymentMalformed as error:
            assert error.code and str(error)


def test_honest_payments_pass() -> None:
    for payload, header in signed_payments():
        assert admit(header) == payload
