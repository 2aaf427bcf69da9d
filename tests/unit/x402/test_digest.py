"""Our digests and signatures are the SDK's, to the byte: else a voucher buys nothing."""

from __future__ import annotations

import secrets

import coincurve
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st
from x402.mechanisms.evm.batch_settlement import authorizer_signer, encoding
from x402.mechanisms.evm.batch_settlement import types as sdk
from x402.mechanisms.evm.batch_settlement import utils as sdk_utils
from x402.mechanisms.evm.batch_settlement.client.voucher import sign_voucher as sdk_sign_voucher
from x402.mechanisms.evm.batch_settlement.constants import RECEIVE_AUTHORIZATION_TYPES
from x402.mechanisms.evm.eip712 import hash_domain, hash_eip3009_authorization
from x402.mechanisms.evm.signers import EthAccountSigner
from x402.mechanisms.evm.types import ExactEIP3009Authorization, TypedDataDomain
from x402.mechanisms.evm.verify import _hash_typed_data, verify_eoa_signature

from finance.x402 import digest, text, vouchers
from finance.x402.values import ChannelConfig, TransferAuthorization
from tests.unit.x402.cases import (
    addresses,
    authorizations,
    chain_ids,
    configs,
    equal_to_sdk,
    hex_key,
    keys,
    sdk_config,
    uints,
    words,
)

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@equal_to_sdk
@given(configs, chain_ids)
def test_a_channel_has_the_id_the_sdk_gives_it(config: ChannelConfig, chain_id: int) -> None:
    theirs = sdk_utils.compute_channel_id(sdk_config(config), chain_id)
    assert text.to_hex(digest.channel_id(config, chain_id)) == theirs


@equal_to_sdk
@given(keys, words, uints(128), chain_ids)
def test_a_voucher_is_signed_as_the_sdk_signs_it(
    key: coincurve.PrivateKey, channel: bytes, amount: int, chain_id: int
) -> None:
    signer = EthAccountSigner(Account.from_key(hex_key(key)))
    network = f"eip155:{chain_id}"
    theirs = sdk_sign_voucher(signer, text.to_hex(channel), amount, network).signature
    ours = vouchers.sign_voucher(key, channel, amount, chain_id)
    assert text.to_hex(ours) == theirs
    signed = digest.voucher_digest(channel, amount, chain_id)
    assert digest.recover_address(signed, ours) == digest.address_of(key)
    assert text.checksum(digest.address_of(key)) == signer.address


@equal_to_sdk
@given(keys, words, uints(256), uints(128), chain_ids)
def test_a_refund_is_signed_as_the_sdk_signs_it(
    key: coincurve.PrivateKey, channel: bytes, nonce: int, amount: int, chain_id: int
) -> None:
    signer = authorizer_signer.LocalAuthorizerSigner(hex_key(key))
    channel_hex, network = text.to_hex(channel), f"eip155:{chain_id}"
    theirs = authorizer_signer.sign_refund(signer, channel_hex, amount, nonce, network)
    assert text.to_hex(vouchers.sign_refund(key, channel, nonce, amount, chain_id)) == theirs


@equal_to_sdk
@given(keys, st.lists(st.tuples(configs, uints(128), uints(128)), max_size=4), chain_ids)
def test_a_claim_of_many_channels_is_signed_as_the_sdk_signs_it(
    key: coincurve.PrivateKey, rows: list[tuple[ChannelConfig, int, int]], chain_id: int
) -> None:
    claims = [sdk.VoucherClaim(sdk_config(c), str(m), "0x", str(t)) for c, m, t in rows]
    signer = authorizer_signer.LocalAuthorizerSigner(hex_key(key))
    theirs = authorizer_signer.sign_claim_batch(signer, claims, f"eip155:{chain_id}")
    entries = [(digest.channel_id(c, chain_id), m, t) for c, m, t in rows]
    assert text.to_hex(vouchers.sign_claim_batch(key, entries, chain_id)) == theirs


@equal_to_sdk
@given(authorizations, st.text(max_size=12), st.text(max_size=4), chain_ids, addresses)
def test_a_transfer_has_the_digest_the_sdk_gives_it(
    authorization: TransferAuthorization, name: str, version: str, chain_id: int, token: bytes
) -> None:
    theirs = hash_eip3009_authorization(
        ExactEIP3009Authorization(
            text.checksum(authorization.from_address),
            text.checksum(authorization.to),
            str(authorization.value),
            str(authorization.valid_after),
            str(authorization.valid_before),
            text.to_hex(authorization.nonce),
        ),
        chain_id,
        text.checksum(token),
        name,
        version,
    )
    domain = digest.domain_separator(name, version, chain_id, token)
    assert digest.transfer_authorization_digest(domain, authorization) == theirs
    typed = TypedDataDomain(name, version, chain_id, text.checksum(token))
    assert domain == hash_domain(typed)


@equal_to_sdk
@given(authorizations, chain_ids)
def test_a_deposit_has_the_digest_the_sdk_checks(
    authorization: TransferAuthorization, chain_id: int
) -> None:
    token = b"\x33" * 20
    message = {
        "from": text.checksum(authorization.from_address),
        "to": text.checksum(authorization.to),
        "value": authorization.value,
        "validAfter": authorization.valid_after,
        "validBefore": authorization.valid_before,
        "nonce": authorization.nonce,
    }
    typed = TypedDataDomain("USDC", "2", chain_id, text.checksum(token))
    theirs = _hash_typed_data(
        typed, RECEIVE_AUTHORIZATION_TYPES, "ReceiveWithAuthorization", message
    )
    domain = digest.domain_separator("USDC", "2", chain_id, token)
    assert digest.receive_authorization_digest(domain, authorization) == theirs


@equal_to_sdk
@given(words, uints(256))
def test_a_deposit_uses_the_nonce_the_collector_derives(channel: bytes, salt: int) -> None:
    theirs = encoding.build_erc3009_deposit_nonce(text.to_hex(channel), f"0x{salt:064x}")
    assert text.to_hex(digest.deposit_nonce(channel, salt)) == theirs


@equal_to_sdk
@given(keys, words, st.data())
def test_a_signature_is_believed_only_if_the_sdk_believes_it(
    key: coincurve.PrivateKey, signed: bytes, data: st.DataObject
) -> None:
    signature = bytearray(digest.sign_digest(key, signed))
    for _ in range(data.draw(st.integers(0, 3))):
        signature[data.draw(st.integers(0, 64))] = data.draw(st.integers(0, 255))
    found = digest.recover_address(signed, bytes(signature))
    if found is not None:
        assert verify_eoa_signature(signed, bytes(signature), text.checksum(found))
    if found != digest.address_of(key) and signature[64] in (27, 28):
        address = text.checksum(digest.address_of(key))
        low_s = int.from_bytes(signature[32:64], "big") <= ORDER // 2
        assert not (low_s and verify_eoa_signature(signed, bytes(signature), address))


@equal_to_sdk
@given(st.binary(max_size=80), st.binary(max_size=40))
def test_garbage_recovers_to_nobody_and_raises_nothing(signature: bytes, signed: bytes) -> None:
    if len(signature) != 65 or len(signed) != 32:
        assert digest.recover_address(signed, signature) is None


def test_signatures_the_contracts_refuse_are_refused() -> None:
    key, signed = coincurve.PrivateKey(), secrets.token_bytes(32)
    good = digest.sign_digest(key, signed)
    r, s, v = good[:32], int.from_bytes(good[32:64], "big"), good[64]
    flipped = r + (ORDER - s).to_bytes(32, "big") + bytes((55 - v,))
    unshifted = good[:64] + bytes((v - 27,))
    bad = [
        flipped,
        unshifted,
        good + b"\x00",
        good[:64],
        bytes(64) + b"\x1b",
        r + bytes(32) + b"\x1b",
        b"\xff" * 32 + good[32:],
        b"",
    ]
    assert digest.recover_address(signed, good) == digest.address_of(key)
    assert all(digest.recover_address(signed, signature) is None for signature in bad)
