"""What we rely on in eth-account and eth-abi."""

from __future__ import annotations

import pytest
from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_account import Account
from eth_utils.crypto import keccak

_KEY = bytes.fromhex("4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318")
_TRANSACTION = {
    "type": 2,
    "chainId": 31337,
    "nonce": 0,
    "to": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
    "value": 0,
    "data": "0x",
    "gas": 21000,
    "maxFeePerGas": 2,
    "maxPriorityFeePerGas": 1,
}


def test_signing_the_same_transaction_again_gives_the_same_bytes() -> None:
    first, second = (Account.sign_transaction(dict(_TRANSACTION), _KEY) for _ in range(2))
    assert bytes(first.raw_transaction) == bytes(second.raw_transaction)


def test_the_hash_is_that_of_the_raw_bytes() -> None:
    signed = Account.sign_transaction(dict(_TRANSACTION), _KEY)
    assert bytes(signed.hash) == keccak(bytes(signed.raw_transaction))


def test_a_keystore_with_one_more_member_opens_as_before() -> None:
    document = Account.encrypt(_KEY, "passphrase", kdf="pbkdf2", iterations=1000)
    assert bytes(Account.decrypt({**document, "farebox": {"version": 1}}, "passphrase")) == _KEY


def test_a_wrong_passphrase_is_told_by_the_mac() -> None:
    document = Account.encrypt(_KEY, "passphrase", kdf="pbkdf2", iterations=1000)
    with pytest.raises(ValueError, match="MAC mismatch"):
        Account.decrypt(document, "wrong")


def test_data_that_is_too_short_does_not_decode() -> None:
    with pytest.raises(DecodingError):
        decode(["uint256", "bytes"], bytes(32))
