# pragma version 0.4.3
# pragma evm-version cancun
"""
@title Payment channels of the x402 `batch-settlement` scheme
@notice ABI, EIP-712, events and error selectors of x402BatchSettlement. A channel is
        one deposit (`balance`) against which cumulative vouchers are claimed
        (`totalClaimed`); claimed money is swept to the receiver by `settle`. No
        constructor and no immutables, so that the runtime code can be placed as it is.
"""

import calldata

interface Collector:
    def collect(
        payer: address, token: address, amount: uint256, channelId: bytes32, data: Bytes[MAX_COLLECTOR_DATA]
    ): nonpayable

interface Token:
    def balanceOf(account: address) -> uint256: view
    def transfer(to: address, amount: uint256) -> bool: nonpayable

struct ChannelConfig:
    payer: address
    payerAuthorizer: address
    receiver: address
    receiverAuthorizer: address
    token: address
    withdrawDelay: uint40
    salt: bytes32

# The head of a `VoucherClaim` as it stands in calldata.
struct ClaimRow:
    channel: ChannelConfig
    maxClaimableAmount: uint128
    signatureOffset: uint256
    totalClaimed: uint128

event ChannelCreated:
    channelId: indexed(bytes32)
    config: ChannelConfig

event ChannelClosed:
    channelId: indexed(bytes32)
    config: ChannelConfig

event Deposited:
    channelId: indexed(bytes32)
    sender: indexed(address)
    amount: uint128
    newBalance: uint128

event Claimed:
    channelId: indexed(bytes32)
    sender: indexed(address)
    claimAmount: uint128
    newTotalClaimed: uint128

event Settled:
    receiver: indexed(address)
    token: indexed(address)
    sender: indexed(address)
    amount: uint128

event Refunded:
    channelId: indexed(bytes32)
    sender: indexed(address)
    amount: uint128

event WithdrawInitiated:
    channelId: indexed(bytes32)
    amount: uint128
    finalizeAfter: uint40

event WithdrawFinalized:
    channelId: indexed(bytes32)
    sender: indexed(address)
    amount: uint128

MAX_COLLECTOR_DATA: constant(uint256) = 4096
MAX_CLAIMS: constant(uint256) = 256
MAX_CALLS: constant(uint256) = 32
MAX_RESULT: constant(uint256) = 64
MAX_RESULTS: constant(uint256) = 64 + MAX_CALLS * (64 + MAX_RESULT)
# Half the order of secp256k1: a signature with a higher s is refused.
HALF_ORDER: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168

MIN_WITHDRAW_DELAY: public(constant(uint40)) = 900
MAX_WITHDRAW_DELAY: public(constant(uint40)) = 2_592_000

DOMAIN_TYPEHASH: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
CHANNEL_CONFIG_TYPEHASH: public(constant(bytes32)) = keccak256(
    "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
)
VOUCHER_TYPEHASH: public(constant(bytes32)) = keccak256(
    "Voucher(bytes32 channelId,uint128 maxClaimableAmount)"
)
REFUND_TYPEHASH: public(constant(bytes32)) = keccak256(
    "Refund(bytes32 channelId,uint256 nonce,uint128 amount)"
)
CLAIM_ENTRY_TYPEHASH: public(constant(bytes32)) = keccak256(
    "ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
)
CLAIM_BATCH_TYPEHASH: public(constant(bytes32)) = keccak256(
    "ClaimBatch(ClaimEntry[] claims)ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
)

# Two uint128 in a word, as the original packs them: one storage write per claim.
_channels: HashMap[bytes32, uint256]  # balance, totalClaimed
_withdrawals: HashMap[bytes32, uint256]  # amount, initiatedAt
_receivers: HashMap[address, HashMap[address, uint256]]  # totalClaimed, totalSettled
refundNonce: public(HashMap[bytes32, uint256])


# Views

@view
@external
def channels(channelId: bytes32) -> (uint128, uint128):
    return self._unpack(self._channels[channelId])


@view
@external
def pendingWithdrawals(channelId: bytes32) -> (uint128, uint40):
    amount: uint128 = 0
    initiated_at: uint128 = 0
    amount, initiated_at = self._unpack(self._withdrawals[channelId])
    return amount, convert(initiated_at, uint40)


@view
@external
def receivers(receiver: address, token: address) -> (uint128, uint128):
    return self._unpack(self._receivers[receiver][token])


@view
@external
def getChannelId(config: ChannelConfig) -> bytes32:
    return self._channel_id(config, self._domain())


@view
@external
def getVoucherDigest(channelId: bytes32, maxClaimableAmount: uint128) -> bytes32:
    return self._voucher_digest(channelId, maxClaimableAmount, self._domain())


@view
@external
def getRefundDigest(channelId: bytes32, nonce: uint256, amount: uint128) -> bytes32:
    return self._refund_digest(channelId, nonce, amount)


@view
@external
def eip712Domain() -> (bytes1, String[21], String[1], uint256, address, bytes32, DynArray[uint256, 1]):
    return 0x0f, "x402 Batch Settlement", "1", chain.id, self, empty(bytes32), []


# Deposit, settle, withdraw, refund

@external
@nonreentrant
def deposit(config: ChannelConfig, amount: uint128, collector: address, collectorData: Bytes[MAX_COLLECTOR_DATA]):
    self._require_deposit(config, amount, collector)
    channel_id: bytes32 = self._channel_id(config, self._domain())
    balance: uint128 = 0
    claimed: uint128 = 0
    balance, claimed = self._unpack(self._channels[channel_id])
    if amount > max_value(uint128) - balance:
        raw_revert(method_id("DepositOverflow()"))
    balance += amount
    self._channels[channel_id] = self._pack(balance, claimed)

    pulled: uint256 = convert(amount, uint256)
    before: uint256 = staticcall Token(config.token).balanceOf(self)
    extcall Collector(collector).collect(
        config.payer, config.token, pulled, channel_id, collectorData
    )
    if staticcall Token(config.token).balanceOf(self) != before + pulled:
        raw_revert(method_id("DepositCollectionFailed()"))

    if balance == amount and claimed == 0:
        log ChannelCreated(channelId=channel_id, config=config)
    log Deposited(channelId=channel_id, sender=msg.sender, amount=amount, newBalance=balance)


@external
@nonreentrant
def settle(receiver: address, token: address):
    claimed: uint128 = 0
    settled: uint128 = 0
    claimed, settled = self._unpack(self._receivers[receiver][token])
    amount: uint128 = claimed - settled
    if amount == 0:
        return
    self._receivers[receiver][token] = self._pack(claimed, claimed)
    self._send(token, receiver, amount)
    log Settled(receiver=receiver, token=token, sender=msg.sender, amount=amount)


@external
@nonreentrant
def initiateWithdraw(config: ChannelConfig, amount: uint128):
    if not self._is_payer_side(config):
        raw_revert(method_id("InvalidChannel()"))
    if amount == 0:
        raw_revert(method_id("NothingToWithdraw()"))
    channel_id: bytes32 = self._channel_id(config, self._domain())
    if self._withdrawals[channel_id] != 0:
        raw_revert(method_id("WithdrawalAlreadyPending()"))
    balance: uint128 = 0
    claimed: uint128 = 0
    balance, claimed = self._unpack(self._channels[channel_id])
    if amount > balance - claimed:
        raw_revert(method_id("WithdrawAmountExceedsAvailable()"))
    self._withdrawals[channel_id] = self._pack(amount, convert(block.timestamp, uint128))
    log WithdrawInitiated(
        channelId=channel_id,
        amount=amount,
        finalizeAfter=convert(block.timestamp, uint40) + config.withdrawDelay,
    )


@external
@nonreentrant
def finalizeWithdraw(config: ChannelConfig):
    if not self._is_payer_side(config):
        raw_revert(method_id("NotAuthorizedToFinalizeWithdraw()"))
    channel_id: bytes32 = self._channel_id(config, self._domain())
    requested: uint128 = 0
    initiated_at: uint128 = 0
    requested, initiated_at = self._unpack(self._withdrawals[channel_id])
    if initiated_at == 0:
        raw_revert(method_id("WithdrawalNotPending()"))
    if block.timestamp < convert(initiated_at, uint256) + convert(config.withdrawDelay, uint256):
        raw_revert(method_id("WithdrawDelayNotElapsed()"))
    balance: uint128 = 0
    claimed: uint128 = 0
    balance, claimed = self._unpack(self._channels[channel_id])
    amount: uint128 = min(requested, balance - claimed)
    balance -= amount
    self._withdrawals[channel_id] = 0
    self._channels[channel_id] = self._pack(balance, claimed)
    log WithdrawFinalized(channelId=channel_id, sender=msg.sender, amount=amount)
    if balance == 0 and claimed == 0:
        log ChannelClosed(channelId=channel_id, config=config)
    if amount > 0:
        self._send(config.token, config.payer, amount)


@external
@nonreentrant
def refund(config: ChannelConfig, amount: uint128):
    if not self._is_receiver_side(config):
        raw_revert(method_id("NotAuthorizedToRefund()"))
    self._refund(config, self._channel_id(config, self._domain()), amount)


@external
@nonreentrant
def refundWithSignature(
    config: ChannelConfig, amount: uint128, nonce: uint256,
    receiverAuthorizerSignature: Bytes[calldata.MAX_BYTES],
):
    channel_id: bytes32 = self._channel_id(config, self._domain())
    if nonce != self.refundNonce[channel_id]:
        raw_revert(method_id("InvalidRefundNonce()"))
    digest: bytes32 = self._refund_digest(channel_id, nonce, amount)
    self._require_signed(config.receiverAuthorizer, digest, receiverAuthorizerSignature)
    self._refund(config, channel_id, amount)


# Claims, their digest, and multicall: array arguments, read in place (calldata.vy)

@external
@raw_return
def __default__() -> Bytes[MAX_RESULTS]:
    selector: Bytes[4] = slice(msg.data, 0, 4)
    if selector == method_id("multicall(bytes[])"):
        return self._multicall(4 + calldata._word(4))
    if selector == method_id(
        "getClaimBatchDigest((((address,address,address,address,address,uint40,bytes32),uint128),bytes,uint128)[])"
    ):
        return abi_encode(self._claim_batch_digest(4 + calldata._word(4), self._domain()))
    if not self._claimed(selector, 4):
        raw_revert(b"")
    return b""


@internal
def _claimed(selector: Bytes[4], at: uint256) -> bool:
    """
    @notice Runs `claim` or `claimWithSignature` on the arguments encoded at `at`; False
            when the selector is another.
    """
    if selector == method_id(
        "claim((((address,address,address,address,address,uint40,bytes32),uint128),bytes,uint128)[])"
    ):
        self._claim(at + calldata._word(at))
        return True
    if selector == method_id(
        "claimWithSignature((((address,address,address,address,address,uint40,bytes32),uint128),bytes,uint128)[],bytes)"
    ):
        signature: Bytes[calldata.MAX_BYTES] = calldata._bytes(at + calldata._word(at + 32))
        self._claim_with_signature(at + calldata._word(at), signature)
        return True
    return False


@internal
@nonreentrant
def _claim(array: uint256):
    count: uint256 = self._require_claims(array)
    domain: bytes32 = self._domain()
    for i: uint256 in range(count, bound=MAX_CLAIMS):
        at: uint256 = self._element(array, i)
        row: ClaimRow = self._claim_row(at)
        if not self._is_receiver_side(row.channel):
            raw_revert(method_id("NotAuthorizedToClaim()"))
        self._apply_claim(at, row, domain)


@internal
@nonreentrant
def _claim_with_signature(array: uint256, signature: Bytes[calldata.MAX_BYTES]):
    count: uint256 = self._require_claims(array)
    domain: bytes32 = self._domain()
    first: ClaimRow = self._claim_row(self._element(array, 0))
    authorizer: address = first.channel.receiverAuthorizer
    self._require_signed(authorizer, self._claim_batch_digest(array, domain), signature)
    for i: uint256 in range(count, bound=MAX_CLAIMS):
        at: uint256 = self._element(array, i)
        row: ClaimRow = self._claim_row(at)
        if row.channel.receiverAuthorizer != authorizer:
            raw_revert(method_id("NotReceiverAuthorizer()"))
        self._apply_claim(at, row, domain)


@internal
def _multicall(array: uint256) -> Bytes[MAX_RESULTS]:
    """
    @notice Runs each element as a call of this contract by the same sender. Claims may
            be of any size and are read in place, all others are copied.
    """
    results: DynArray[Bytes[MAX_RESULT], MAX_CALLS] = []
    for i: uint256 in range(calldata._word(array), bound=MAX_CALLS):
        at: uint256 = self._element(array, i)
        if self._claimed(slice(msg.data, at + 32, 4), at + 36):
            results.append(b"")
        else:
            results.append(
                raw_call(
                    self,
                    calldata._bytes(at),
                    max_outsize=MAX_RESULT,
                    is_delegate_call=True,
                )
            )
    return abi_encode(results)


@view
@internal
def _element(array: uint256, index: uint256) -> uint256:
    """
    @notice Where the dynamic element `index` of the array at `array` begins.
    """
    return array + 32 + calldata._word(array + 32 + 32 * index)


@view
@internal
def _claim_row(at: uint256) -> ClaimRow:
    return abi_decode(slice(msg.data, at, 320), ClaimRow)


@view
@internal
def _require_claims(array: uint256) -> uint256:
    count: uint256 = calldata._word(array)
    if count == 0:
        raw_revert(method_id("EmptyBatch()"))
    return count


@internal
def _apply_claim(at: uint256, row: ClaimRow, domain: bytes32):
    """
    @notice Raises `totalClaimed` of one channel; an old total changes nothing.
    """
    channel_id: bytes32 = self._channel_id(row.channel, domain)
    balance: uint128 = 0
    claimed: uint128 = 0
    balance, claimed = self._unpack(self._channels[channel_id])
    if row.totalClaimed <= claimed:
        return
    if row.totalClaimed > row.maxClaimableAmount:
        raw_revert(method_id("ClaimExceedsCeiling()"))
    if row.totalClaimed > balance:
        raw_revert(method_id("ClaimExceedsBalance()"))

    digest: bytes32 = self._voucher_digest(channel_id, row.maxClaimableAmount, domain)
    signature: Bytes[calldata.MAX_BYTES] = calldata._bytes(at + row.signatureOffset)
    if row.channel.payerAuthorizer == empty(address):
        self._require_signed(row.channel.payer, digest, signature)
    elif self._recover(digest, signature) != row.channel.payerAuthorizer:
        raw_revert(method_id("InvalidSignature()"))

    delta: uint128 = row.totalClaimed - claimed
    self._channels[channel_id] = self._pack(balance, row.totalClaimed)
    total: uint128 = 0
    settled: uint128 = 0
    total, settled = self._unpack(self._receivers[row.channel.receiver][row.channel.token])
    self._receivers[row.channel.receiver][row.channel.token] = self._pack(total + delta, settled)
    log Claimed(
        channelId=channel_id, sender=msg.sender, claimAmount=delta, newTotalClaimed=row.totalClaimed
    )


@view
@internal
def _claim_batch_digest(array: uint256, domain: bytes32) -> bytes32:
    count: uint256 = calldata._word(array)
    entries: DynArray[bytes32, MAX_CLAIMS] = []
    for i: uint256 in range(count, bound=MAX_CLAIMS):
        row: ClaimRow = self._claim_row(self._element(array, i))
        entries.append(
            keccak256(
                abi_encode(
                    CLAIM_ENTRY_TYPEHASH,
                    self._channel_id(row.channel, domain),
                    row.maxClaimableAmount,
                    row.totalClaimed,
                )
            )
        )
    root: bytes32 = keccak256(slice(abi_encode(entries), 64, 32 * count))
    return self._typed(keccak256(abi_encode(CLAIM_BATCH_TYPEHASH, root)), domain)


# Inside

@pure
@internal
def _require_deposit(config: ChannelConfig, amount: uint128, collector: address):
    if (
        config.payer == empty(address)
        or config.receiver == empty(address)
        or config.receiverAuthorizer == empty(address)
        or config.token == empty(address)
    ):
        raw_revert(method_id("InvalidChannel()"))
    if config.withdrawDelay < MIN_WITHDRAW_DELAY or config.withdrawDelay > MAX_WITHDRAW_DELAY:
        raw_revert(method_id("WithdrawDelayOutOfRange()"))
    if amount == 0:
        raw_revert(method_id("ZeroDeposit()"))
    if collector == empty(address):
        raw_revert(method_id("InvalidCollector()"))


@internal
def _refund(config: ChannelConfig, channel_id: bytes32, amount: uint128):
    """
    @notice Returns up to `amount` of the unclaimed balance to the payer. The nonce
            advances even when nothing is left to return.
    """
    if amount == 0:
        raw_revert(method_id("ZeroRefund()"))
    self.refundNonce[channel_id] += 1
    balance: uint128 = 0
    claimed: uint128 = 0
    balance, claimed = self._unpack(self._channels[channel_id])
    refunded: uint128 = min(amount, balance - claimed)
    if refunded == 0:
        return
    balance -= refunded
    self._channels[channel_id] = self._pack(balance, claimed)
    self._shrink_withdrawal(channel_id, refunded)
    log Refunded(channelId=channel_id, sender=msg.sender, amount=refunded)
    if balance == 0 and claimed == 0:
        log ChannelClosed(channelId=channel_id, config=config)
    self._send(config.token, config.payer, refunded)


@internal
def _shrink_withdrawal(channel_id: bytes32, refunded: uint128):
    requested: uint128 = 0
    initiated_at: uint128 = 0
    requested, initiated_at = self._unpack(self._withdrawals[channel_id])
    if initiated_at == 0:
        return
    if refunded >= requested:
        self._withdrawals[channel_id] = 0
    else:
        self._withdrawals[channel_id] = self._pack(requested - refunded, initiated_at)


@internal
def _send(token: address, to: address, amount: uint128):
    sent: bool = extcall Token(token).transfer(
        to, convert(amount, uint256), default_return_value=True
    )
    if not sent:
        raw_revert(abi_encode(token, method_id=method_id("SafeERC20FailedOperation(address)")))


@view
@internal
def _is_payer_side(config: ChannelConfig) -> bool:
    return msg.sender == config.payer or msg.sender == config.payerAuthorizer


@view
@internal
def _is_receiver_side(config: ChannelConfig) -> bool:
    return msg.sender == config.receiverAuthorizer or msg.sender == config.receiver


@view
@internal
def _require_signed(signer: address, digest: bytes32, signature: Bytes[calldata.MAX_BYTES]):
    accepted: bool = False
    if signer.is_contract:
        accepted = calldata._contract_accepts(signer, digest, signature)
    elif len(signature) == 65 and convert(slice(signature, 32, 32), uint256) <= HALF_ORDER:
        recovered: address = self._ecrecover(digest, signature)
        accepted = recovered == signer and recovered != empty(address)
    if not accepted:
        raw_revert(method_id("InvalidSignature()"))


@pure
@internal
def _recover(digest: bytes32, signature: Bytes[calldata.MAX_BYTES]) -> address:
    """
    @notice As OpenZeppelin's `ECDSA.recover`, with its errors.
    """
    if len(signature) != 65:
        raw_revert(
            abi_encode(
                len(signature), method_id=method_id("ECDSAInvalidSignatureLength(uint256)")
            )
        )
    s: uint256 = convert(slice(signature, 32, 32), uint256)
    if s > HALF_ORDER:
        raw_revert(abi_encode(s, method_id=method_id("ECDSAInvalidSignatureS(bytes32)")))
    recovered: address = self._ecrecover(digest, signature)
    if recovered == empty(address):
        raw_revert(method_id("ECDSAInvalidSignature()"))
    return recovered


@pure
@internal
def _ecrecover(digest: bytes32, signature: Bytes[calldata.MAX_BYTES]) -> address:
    return ecrecover(
        digest,
        convert(slice(signature, 64, 1), uint256),
        convert(slice(signature, 0, 32), uint256),
        convert(slice(signature, 32, 32), uint256),
    )


@pure
@internal
def _channel_id(config: ChannelConfig, domain: bytes32) -> bytes32:
    return self._typed(keccak256(abi_encode(CHANNEL_CONFIG_TYPEHASH, config)), domain)


@pure
@internal
def _voucher_digest(channel_id: bytes32, ceiling: uint128, domain: bytes32) -> bytes32:
    return self._typed(keccak256(abi_encode(VOUCHER_TYPEHASH, channel_id, ceiling)), domain)


@view
@internal
def _refund_digest(channel_id: bytes32, nonce: uint256, amount: uint128) -> bytes32:
    content: bytes32 = keccak256(abi_encode(REFUND_TYPEHASH, channel_id, nonce, amount))
    return self._typed(content, self._domain())


@pure
@internal
def _typed(content: bytes32, domain: bytes32) -> bytes32:
    return keccak256(concat(x"1901", domain, content))


@view
@internal
def _domain() -> bytes32:
    return keccak256(
        abi_encode(
            DOMAIN_TYPEHASH, keccak256("x402 Batch Settlement"), keccak256("1"), chain.id, self
        )
    )


@pure
@internal
def _pack(low: uint128, high: uint128) -> uint256:
    return convert(low, uint256) | (convert(high, uint256) << 128)


@pure
@internal
def _unpack(packed: uint256) -> (uint128, uint128):
    return convert(packed & convert(max_value(uint128), uint256), uint128), convert(packed >> 128, uint128)
