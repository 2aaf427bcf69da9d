# pragma version 0.4.3
# pragma evm-version cancun
"""
@title A contract wallet for tests
@notice EIP-1271: accepts what its owner signed, behind any number of extra bytes.
        The owner is slot 0, so that a test can set it with `anvil_setStorageAt`.
"""

owner: public(address)


@view
@external
def isValidSignature(digest: bytes32, signature: Bytes[2048]) -> bytes4:
    signer: address = ecrecover(
        digest,
        convert(slice(signature, 64, 1), uint256),
        convert(slice(signature, 0, 32), uint256),
        convert(slice(signature, 32, 32), uint256),
    )
    if signer != self.owner:
        return 0xffffffff
    return 0x1626ba7e
