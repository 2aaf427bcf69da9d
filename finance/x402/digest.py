"""EIP-712 digests and secp256k1 signatures of x402, as straight byte joins.

Every struct here has a fixed shape, so encoding is concatenation of 32-byte
words; property tests hold each digest equal to the `x402` package's. Addresses
are 20 bytes, digests and ids 32 bytes, signatures 65 bytes `r || s || v`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import coincurve
import sha3

from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS, ERC3009_COLLECTOR_ADDRESS
from finance.x402.values import ChannelConfig, TransferAuthorization

BATCH_SETTLEMENT = bytes.fromhex(BATCH_SETTLEMENT_ADDRESS[2:])
ERC3009_COLLECTOR = bytes.fromhex(ERC3009_COLLECTOR_ADDRESS[2:])


def keccak(data: bytes) -> bytes:
    """Keccak-256, 32 bytes."""
    return bytes(sha3.keccak_256(data).digest())


_DOMAIN = keccak(
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
_CHANNEL = keccak(
    b"ChannelConfig(address payer,address payerAuthorizer,address receiver,"
    b"address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
)
_VOUCHER = keccak(b"Voucher(bytes32 channelId,uint128 maxClaimableAmount)")
_REFUND = keccak(b"Refund(bytes32 channelId,uint256 nonce,uint128 amount)")
_ENTRY_TYPE = b"ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
_ENTRY = keccak(_ENTRY_TYPE)
_BATCH = keccak(b"ClaimBatch(ClaimEntry[] claims)" + _ENTRY_TYPE)
_AUTHORIZATION_FIELDS = (
    b"(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
_TRANSFER = keccak(b"TransferWithAuthorization" + _AUTHORIZATION_FIELDS)
_RECEIVE = keccak(b"ReceiveWithAuthorization" + _AUTHORIZATION_FIELDS)

_PAD = bytes(12)
# Half the order of secp256k1: OpenZeppelin's ECDSA and USDC refuse a higher s.
_HALF_ORDER = bytes.fromhex("7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0")
_RECOVERY_ID = {27: b"\x00", 28: b"\x01"}


@lru_cache(maxsize=1024)
def domain_separator(name: str, version: str, chain_id: int, contract: bytes) -> bytes:
    """EIP-712 domain separator of a contract; cached, a node knows a handful."""
    name_hash, version_hash = keccak(name.encode()), keccak(version.encode())
    return keccak(_DOMAIN + name_hash + version_hash + _word(chain_id) + _PAD + contract)


def channel_id(config: ChannelConfig, chain_id: int) -> bytes:
    """The channel's id: the EIP-712 digest of its configuration on one chain."""
    struct = (
        _CHANNEL,
        _PAD,
        config.payer,
        _PAD,
        config.payer_authorizer,
        _PAD,
        config.receiver,
        _PAD,
        config.receiver_authorizer,
        _PAD,
        config.token,
        _word(config.withdraw_delay),
        config.salt,
    )
    return keccak(_batch_prefix(chain_id) + keccak(b"".join(struct)))


def voucher_digest(channel_id: bytes, max_claimable: int, chain_id: int) -> bytes:
    """What the payer signs: the cumulative amount the receiver may claim."""
    struct = keccak(_VOUCHER + channel_id + _word(max_claimable))
    return keccak(_batch_prefix(chain_id) + struct)


def refund_digest(channel_id: bytes, nonce: int, amount: int, chain_id: int) -> bytes:
    """What the receiver's authorizer signs for a cooperative refund."""
    struct = keccak(_REFUND + channel_id + _word(nonce) + _word(amount))
    return keccak(_batch_prefix(chain_id) + struct)


def claim_batch_digest(entries: Sequence[tuple[bytes, int, int]], chain_id: int) -> bytes:
    """What the receiver's authorizer signs for `(channel_id, max_claimable, total_claimed)`s."""
    hashes = [
        keccak(_ENTRY + channel + _word(max_claimable) + _word(total_claimed))
        for channel, max_claimable, total_claimed in entries
    ]
    return keccak(_batch_prefix(chain_id) + keccak(_BATCH + keccak(b"".join(hashes))))


def transfer_authorization_digest(domain: bytes, auth: TransferAuthorization) -> bytes:
    """EIP-3009 TransferWithAuthorization under the token's `domain` separator."""
    return _authorization_digest(_TRANSFER, domain, auth)


def receive_authorization_digest(domain: bytes, auth: TransferAuthorization) -> bytes:
    """EIP-3009 ReceiveWithAuthorization under the token's `domain` separator."""
    return _authorization_digest(_RECEIVE, domain, auth)


def deposit_nonce(channel_id: bytes, salt: int) -> bytes:
    """The EIP-3009 nonce the deposit collector derives: keccak(abi.encode(channelId, salt))."""
    return keccak(channel_id + _word(salt))


def recover_address(digest: bytes, signature: bytes) -> bytes | None:
    """The signer's address, or None for anything the contracts would refuse.

    They take 65 bytes with v 27 or 28 and s in the lower half of the order;
    a laxer check here would serve a call whose voucher cannot be claimed.
    """
    if len(signature) != 65 or len(digest) != 32:
        return None
    recovery_id = _RECOVERY_ID.get(signature[64])
    if recovery_id is None or signature[32:64] > _HALF_ORDER:
        return None
    compact = signature[:64] + recovery_id
    try:
        key = coincurve.PublicKey.from_signature_and_message(compact, digest, hasher=None)
    except ValueError:
        return None
    return keccak(key.format(compressed=False)[1:])[12:]


def sign_digest(private_key: coincurve.PrivateKey, digest: bytes) -> bytes:
    """Sign deterministically (RFC 6979, low s); 65 bytes with v 27 or 28."""
    signature = private_key.sign_recoverable(digest, hasher=None)
    return signature[:64] + bytes((signature[64] + 27,))


def address_of(private_key: coincurve.PrivateKey) -> bytes:
    """The key's 20-byte address."""
    return keccak(private_key.public_key.format(compressed=False)[1:])[12:]


def _authorization_digest(typehash: bytes, domain: bytes, auth: TransferAuthorization) -> bytes:
    struct = (
        typehash,
        _PAD,
        auth.from_address,
        _PAD,
        auth.to,
        _word(auth.value),
        _word(auth.valid_after),
        _word(auth.valid_before),
        auth.nonce,
    )
    return keccak(b"\x19\x01" + domain + keccak(b"".join(struct)))


@lru_cache(maxsize=64)
def _batch_prefix(chain_id: int) -> bytes:
    domain = domain_separator("x402 Batch Settlement", "1", chain_id, BATCH_SETTLEMENT)
    return b"\x19\x01" + domain


def _word(number: int) -> bytes:
    return number.to_bytes(32, "big")
