# pragma version 0.4.3
# pragma evm-version cancun
"""
@title Multicall3
@notice `aggregate3`, `aggregate3Value`, `tryAggregate` and the cheap views of the
        well-known Multicall3. The calls are read from calldata: up to 128 of
        them, 64 KiB together once one passes 2 KiB, each answer cut at 256 bytes.
"""

import calldata

struct Result:
    success: bool
    returnData: Bytes[MAX_RESULT]

MAX_CALLS: constant(uint256) = 128
MAX_RESULT: constant(uint256) = 256
MAX_CALLDATA: constant(uint256) = 65536
IDENTITY: constant(address) = 0x0000000000000000000000000000000000000004


@payable
@external
@raw_return
def __default__() -> Bytes[64 + MAX_CALLS * (128 + MAX_RESULT)]:
    selector: Bytes[4] = slice(msg.data, 0, 4)
    array: uint256 = 4 + calldata._word(4)
    words: uint256 = 3  # of one call's head, the offset of its data the last
    strict: bool = False
    if selector == method_id("tryAggregate(bool,(address,bytes)[])"):
        array = 4 + calldata._word(36)
        words = 2
        strict = calldata._word(4) != 0
    elif selector == method_id("aggregate3Value((address,bool,uint256,bytes)[])"):
        words = 4
    elif selector != method_id("aggregate3((address,bool,bytes)[])"):
        raw_revert(b"")

    results: DynArray[Result, MAX_CALLS] = []
    for i: uint256 in range(calldata._word(array), bound=MAX_CALLS):
        at: uint256 = array + 32 + calldata._word(array + 32 + 32 * i)
        target: address = convert(calldata._word(at), address)
        paid: uint256 = calldata._word(at + 64) if words == 4 else 0
        may_fail: bool = not strict if words == 2 else calldata._word(at + 32) != 0
        data_at: uint256 = at + calldata._word(at + 32 * (words - 1))
        size: uint256 = calldata._word(data_at)
        result: Result = empty(Result)
        if size <= calldata.MAX_WORDS * 32:
            result.success, result.returnData = raw_call(
                target, calldata._bytes(data_at),
                value=paid, max_outsize=MAX_RESULT, revert_on_failure=False,
            )
        else:
            # The last variable of the frame: its memory is paid for only when used.
            whole: Bytes[MAX_CALLDATA] = raw_call(
                IDENTITY, msg.data, max_outsize=MAX_CALLDATA, is_static_call=True
            )
            result.success, result.returnData = raw_call(
                target, slice(whole, data_at + 32, size),
                value=paid, max_outsize=MAX_RESULT, revert_on_failure=False,
            )
        assert result.success or may_fail, "Multicall3: call failed"
        results.append(result)
    return abi_encode(results)


@view
@external
def getBlockNumber() -> uint256:
    return block.number


@view
@external
def getCurrentBlockTimestamp() -> uint256:
    return block.timestamp


@view
@external
def getChainId() -> uint256:
    return chain.id


@view
@external
def getBasefee() -> uint256:
    return block.basefee


@view
@external
def getEthBalance(account: address) -> uint256:
    return account.balance
