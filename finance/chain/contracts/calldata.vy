# pragma version 0.4.3
"""
@title Reading calldata in place, and asking a contract about a signature
@notice Vyper copies an array argument into memory at its largest size and knows
        no overloading. What the originals take as arrays or overload is read here
        straight from calldata instead; positions are byte offsets into `msg.data`.
"""

CHUNK: constant(uint256) = 512
MAX_WORDS: constant(uint256) = 64  # that `_bytes` copies: 2,048 bytes
MAX_BYTES: constant(uint256) = 2112  # as typed: the words, ABI-encoded
EIP1271_MAGIC: constant(bytes32) = 0x1626ba7e00000000000000000000000000000000000000000000000000000000


@view
@internal
def _word(at: uint256) -> uint256:
    return convert(slice(msg.data, at, 32), uint256)


@view
@internal
def _bytes(at: uint256) -> Bytes[MAX_BYTES]:
    """
    @notice The ABI `bytes` whose length word stands at `at`. One copy when calldata
            goes on for long enough behind it, else word by word.
    """
    size: uint256 = self._word(at)
    if size == 65:
        return slice(msg.data, at + 32, 65)
    if size <= CHUNK and at + 32 + CHUNK <= len(msg.data):
        return slice(slice(msg.data, at + 32, CHUNK), 0, size)
    words: DynArray[bytes32, MAX_WORDS] = []
    for i: uint256 in range((size + 31) // 32, bound=MAX_WORDS):
        words.append(convert(self._word(at + 32 + 32 * i), bytes32))
    return slice(abi_encode(words), 64, size)


@view
@internal
def _contract_accepts(signer: address, digest: bytes32, signature: Bytes[MAX_BYTES]) -> bool:
    """
    @notice EIP-1271: whether the contract `signer` calls the signature its own.
    """
    success: bool = False
    answer: Bytes[32] = b""
    success, answer = raw_call(
        signer,
        abi_encode(digest, signature, method_id=method_id("isValidSignature(bytes32,bytes)")),
        max_outsize=32,
        is_static_call=True,
        revert_on_failure=False,
    )
    return success and len(answer) == 32 and convert(answer, bytes32) == EIP1271_MAGIC
