"""Keys that sign and never show themselves (law 10).

No representation, copy or pickle of these objects holds key material, so that no
log line, traceback or crash report can.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, NoReturn

import coincurve
from Crypto.Cipher import AES

from finance.errors import WalletError
from finance.x402.digest import address_of, sign_digest
from finance.x402.text import to_hex

_NONCE_BYTES = 12
_TAG_BYTES = 16


class _Hidden:
    """Base of everything that holds a secret: it can be used, not looked at or copied."""

    __slots__ = ()

    def __str__(self) -> str:
        return repr(self)

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise WalletError(f"A {type(self).__name__} holds a secret and cannot be copied or stored.")


class Signer(_Hidden):
    """One secp256k1 key; `address` is lower-case hex, `address_bytes` its 20 bytes."""

    __slots__ = ("_private", "address", "address_bytes")

    def __init__(self, private: coincurve.PrivateKey) -> None:
        self._private = private
        self.address_bytes = address_of(private)
        self.address = to_hex(self.address_bytes)

    @classmethod
    def from_hex(cls, key_hex: str) -> Signer:
        """A signer of 32 bytes in hex, with or without 0x; WalletError for anything else."""
        try:
            return cls(coincurve.PrivateKey(bytes.fromhex(key_hex.strip().removeprefix("0x"))))
        except ValueError:
            raise WalletError("This is not a private key: it has to be 64 hex digits.") from None

    @classmethod
    def random(cls) -> Signer:
        return cls(coincurve.PrivateKey())

    @property
    def private(self) -> coincurve.PrivateKey:
        """The key itself, for the paths that sign thousands of vouchers a second."""
        return self._private

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign 32 bytes; 65 bytes `r || s || v` with v 27 or 28."""
        return sign_digest(self._private, digest)

    def sign_transaction(self, transaction: Mapping[str, Any]) -> tuple[bytes, str]:
        """Sign an EIP-1559 transaction; (raw bytes, hash in hex)."""
        from eth_account import Account  # takes half a second to load

        signed = Account.sign_transaction(dict(transaction), self._private.secret)
        return bytes(signed.raw_transaction), to_hex(bytes(signed.hash))

    def __repr__(self) -> str:
        return f"Signer({self.address})"


class Keys(_Hidden):
    """The unlocked keys of a node, by power.

    `wallet` holds the money and pays gas, `voucher` signs for channels we bought
    (payerAuthorizer), `receiver` signs claims and refunds of channels we sold
    (receiverAuthorizer). `seal` keeps other parties' credentials.
    """

    __slots__ = ("_sealing_key", "receiver", "voucher", "wallet")

    def __init__(
        self, wallet: Signer, voucher: Signer, receiver: Signer, sealing_key: bytes
    ) -> None:
        self.wallet = wallet
        self.voucher = voucher
        self.receiver = receiver
        self._sealing_key = sealing_key

    def seal(self, secret: bytes) -> str:
        """Encrypt `secret` (AES-256-GCM); hex text for a database column."""
        return encrypt(self._sealing_key, secret).hex()

    def unseal(self, sealed: str) -> bytes:
        """The bytes that were sealed; WalletError if they were changed or sealed elsewhere."""
        try:
            return decrypt(self._sealing_key, bytes.fromhex(sealed))
        except ValueError:
            raise WalletError(
                "A stored credential cannot be decrypted: it is damaged, or was stored "
                "under another wallet directory. Enter it again."
            ) from None

    def __repr__(self) -> str:
        return f"Keys(wallet={self.wallet}, voucher={self.voucher}, receiver={self.receiver})"


def encrypt(key: bytes, content: bytes, label: bytes = b"") -> bytes:
    """AES-256-GCM: nonce, tag, ciphertext; `label` is authenticated with it."""
    cipher = AES.new(key, AES.MODE_GCM, nonce=secrets.token_bytes(_NONCE_BYTES))
    cipher.update(label)
    ciphertext, tag = cipher.encrypt_and_digest(content)
    return bytes(cipher.nonce) + tag + ciphertext


def decrypt(key: bytes, sealed: bytes, label: bytes = b"") -> bytes:
    """Undo `encrypt`; ValueError when key, label or content is not the same."""
    cipher = AES.new(key, AES.MODE_GCM, nonce=sealed[:_NONCE_BYTES])
    cipher.update(label)
    tag = sealed[_NONCE_BYTES : _NONCE_BYTES + _TAG_BYTES]
    return bytes(cipher.decrypt_and_verify(sealed[_NONCE_BYTES + _TAG_BYTES :], tag))
