# pragma version 0.4.3
# pragma evm-version cancun
"""
@title Deposit collector for EIP-3009 tokens
@notice Pulls a channel's deposit with the payer's `receiveWithAuthorization`, whose
        nonce is keccak256(channelId, salt), and hands it on to BatchSettlement.
"""

interface Token:
    def transfer(to: address, amount: uint256) -> bool: nonpayable

MAX_COLLECTOR_DATA: constant(uint256) = 4096
BATCH_SETTLEMENT: constant(address) = 0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003


@pure
@external
def x402BatchSettlement() -> address:
    return BATCH_SETTLEMENT


@external
def collect(
    payer: address, token: address, amount: uint256, channelId: bytes32, collectorData: Bytes[MAX_COLLECTOR_DATA]
):
    """
    @param collectorData abi.encode(validAfter, validBefore, salt, signature)
    """
    if msg.sender != BATCH_SETTLEMENT:
        raw_revert(method_id("OnlyX402BatchSettlement()"))
    valid_after: uint256 = 0
    valid_before: uint256 = 0
    salt: uint256 = 0
    signature: Bytes[2048] = b""
    valid_after, valid_before, salt, signature = abi_decode(
        collectorData, (uint256, uint256, uint256, Bytes[2048])
    )
    raw_call(
        token,
        abi_encode(
            payer, self, amount, valid_after, valid_before,
            keccak256(abi_encode(channelId, salt)), signature,
            method_id=method_id(
                "receiveWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)"
            ),
        ),
    )
    assert extcall Token(token).transfer(BATCH_SETTLEMENT, amount, default_return_value=True)
