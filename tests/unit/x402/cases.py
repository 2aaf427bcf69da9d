"""Random channels, payments and keys, and the number of cases each promise is tried on."""

from __future__ import annotations

import os

import coincurve
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from x402.mechanisms.evm.batch_settlement import types as sdk
from x402.schemas import PaymentRequirements

from finance.x402 import digest, text
from finance.x402.offers import Offer, Terms
from finance.x402.values import ChannelConfig, Requirements, TransferAuthorization

SOAK = os.environ.get("FAREBOX_SOAK") == "1"
CASES = int(os.environ.get("FAREBOX_CASES", "10000" if SOAK else "300"))
HEADERS = int(os.environ.get("FAREBOX_HEADERS", "100000" if SOAK else "3000"))

equal_to_sdk = settings(
    max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

NOW = 1_900_000_000
CHAIN_ID = 8453
USDC = bytes.fromhex("833589fCD6eDb6E08f4c7C32D4f71b54bdA02913")
RECEIVER_KEY = coincurve.PrivateKey(b"\x07" * 32)
PAYER_KEY = coincurve.PrivateKey(b"\x09" * 32)


def uints(bits: int) -> st.SearchStrategy[int]:
    """Any value of the width, its edges more often."""
    edges = st.sampled_from([0, 1, 2 ** (bits - 1), 2**bits - 1])
    return st.one_of(edges, st.integers(0, 2**bits - 1))


addresses = st.binary(min_size=20, max_size=20)
words = st.binary(min_size=32, max_size=32)
chain_ids = st.sampled_from([1, 8453, 84532, 31337])
keys = st.integers(1, 2**250).map(lambda n: coincurve.PrivateKey(n.to_bytes(32, "big")))
configs = st.builds(
    ChannelConfig, addresses, addresses, addresses, addresses, addresses, uints(40), words
)
authorizations = st.builds(
    TransferAuthorization, addresses, addresses, uints(256), uints(256), uints(256), words
)


def terms(**changes: object) -> Terms:
    """A route for 1000 atoms on Base."""
    fields: dict[str, object] = {
        "listing_id": "weather",
        "route": "/now",
        "method": "GET",
        "resource_url": "https://node.example/v1/weather/now",
        "amount_atoms": 1000,
        "pay_to": b"\x02" * 20,
        "asset": USDC,
        "chain_id": CHAIN_ID,
        "receiver_authorizer": digest.address_of(RECEIVER_KEY),
        "token_name": "USD Coin",
        "token_version": "2",
    }
    return Terms(**{**fields, **changes})  # type: ignore[arg-type]


def channel(route: Terms, key: coincurve.PrivateKey = PAYER_KEY) -> ChannelConfig:
    """A channel of the key's owner that fits the terms."""
    payer = digest.address_of(key)
    return ChannelConfig(
        payer,
        payer,
        route.pay_to,
        route.receiver_authorizer,
        route.asset,
        route.withdraw_delay_seconds,
        b"\x05" * 32,
    )


def batch(route: Terms) -> Requirements:
    """What the route's offer expects of a voucher."""
    return Offer.build(route).expected["batch-settlement"]


def sdk_config(config: ChannelConfig) -> sdk.ChannelConfig:
    """The same channel as the SDK writes it."""
    return sdk.ChannelConfig.from_dict(config.wire())


def sdk_requirements(requirements: Requirements) -> PaymentRequirements:
    """The same requirements as the SDK writes them."""
    return PaymentRequirements(
        scheme=requirements.scheme,
        network=requirements.network,
        asset=requirements.asset,
        amount=requirements.amount,
        pay_to=requirements.pay_to,
        max_timeout_seconds=requirements.max_timeout_seconds,
        extra=dict(requirements.extra),
    )


def hex_key(key: coincurve.PrivateKey) -> str:
    """A private key as eth_account takes it."""
    return text.to_hex(key.secret)
