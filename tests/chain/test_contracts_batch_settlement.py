"""BatchSettlement: channels are opened, claimed, settled, refunded and withdrawn from.

The semantics are those of x402BatchSettlement.sol (x402-foundation/x402).
"""

from typing import Any

import pytest
from eth_account import Account

from finance.chain.addresses import ERC3009_COLLECTOR_ADDRESS, USDC_ADDRESS
from tests.chain.world import World, malleable, random_nonce

ZERO = "0x" + "00" * 20


# Identity


def test_digests_and_channel_ids_equal_the_sdk(world: World) -> None:
    views = world.settlement.functions
    config = world.config()
    channel = world.channel_id(config)
    assert views.getChannelId(config).call() == channel
    assert views.getVoucherDigest(channel, 7).call() == world.digest(
        "Voucher", {"channelId": channel, "maxClaimableAmount": 7}
    )
    assert views.getRefundDigest(channel, 3, 9).call() == world.digest(
        "Refund", {"channelId": channel, "nonce": 3, "amount": 9}
    )
    claims = [world.claim(world.config(), total, 50) for total in (1, 2, 3)]
    entries = [
        {
            "channelId": world.channel_id(config),
            "maxClaimableAmount": ceiling,
            "totalClaimed": total,
        }
        for (config, ceiling), _, total in claims
    ]
    expected = world.digest("ClaimBatch", {"claims": entries})
    assert views.getClaimBatchDigest(claims).call() == expected


def test_limits_and_domain_are_the_original_ones(world: World) -> None:
    views = world.settlement.functions
    assert views.MIN_WITHDRAW_DELAY().call() == 900
    assert views.MAX_WITHDRAW_DELAY().call() == 30 * 24 * 3600
    _, name, version, chain_id, contract, _, _ = views.eip712Domain().call()
    domain = world.settlement_domain()
    assert (name, version) == (domain["name"], domain["version"])
    assert (chain_id, contract) == (domain["chainId"], domain["verifyingContract"])


# Deposit


def test_deposit_opens_a_channel_and_a_second_one_tops_it_up(world: World) -> None:
    config = world.config()
    channel = world.channel_id(config)
    before = world.balance(world.payer.address)
    opened = world.send(world.relay, world.deposit(config, 700))
    topped = world.send(world.relay, world.deposit(config, 300))
    assert world.channel(config) == (1000, 0)
    assert world.balance(world.payer.address) == before - 1000
    (created,) = world.events(world.settlement, "ChannelCreated", opened)
    assert created["channelId"] == channel
    assert tuple(created["config"].values()) == config
    assert world.events(world.settlement, "ChannelCreated", topped) == []
    assert world.events(world.settlement, "Deposited", topped) == [
        {"channelId": channel, "sender": world.relay.address, "amount": 300, "newBalance": 1000}
    ]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"payer": ZERO}, "InvalidChannel"),
        ({"receiver": ZERO}, "InvalidChannel"),
        ({"receiverAuthorizer": ZERO}, "InvalidChannel"),
        ({"token": ZERO}, "InvalidChannel"),
        ({"withdrawDelay": 899}, "WithdrawDelayOutOfRange"),
        ({"withdrawDelay": 2_592_001}, "WithdrawDelayOutOfRange"),
    ],
)
def test_deposit_refuses_an_unusable_config(
    world: World, changed: dict[str, Any], reason: str
) -> None:
    config = world.config(**changed)
    call = world.settlement.functions.deposit(config, 1, ERC3009_COLLECTOR_ADDRESS, b"")
    assert world.refusal(world.relay, call) == reason


def test_deposit_refuses_nothing_no_collector_and_too_much(world: World) -> None:
    deposit = world.settlement.functions.deposit
    config = world.config()
    assert world.refusal(world.relay, deposit(config, 0, ERC3009_COLLECTOR_ADDRESS, b"")) == (
        "ZeroDeposit"
    )
    assert world.refusal(world.relay, deposit(config, 1, ZERO, b"")) == "InvalidCollector"
    opened = world.open(1)
    most = 2**128 - 1
    assert world.refusal(world.relay, world.deposit(opened, most)) == "DepositOverflow"


def test_deposit_refuses_a_collector_that_brings_nothing(world: World) -> None:
    # An address whose code is a single STOP accepts `collect` and does nothing.
    idle = Account.create().address
    world.chain.rpc("anvil_setCode", idle, "0x00")
    call = world.settlement.functions.deposit(world.config(), 5, idle, b"")
    assert world.refusal(world.relay, call) == "DepositCollectionFailed"


def test_deposit_signed_by_another_or_sent_twice_is_refused_by_usdc(world: World) -> None:
    config = world.config()
    assert world.refusal(world.relay, world.deposit(config, 5, world.other)) == (
        "FiatTokenV2: invalid signature"
    )
    deposit = world.deposit(config, 5)
    world.send(world.relay, deposit)
    assert world.refusal(world.relay, deposit) == ("FiatTokenV2: authorization is used or canceled")


def test_collector_serves_only_batch_settlement(world: World) -> None:
    collector = world.collector.functions
    assert collector.x402BatchSettlement().call() == world.settlement.address
    call = collector.collect(world.payer.address, USDC_ADDRESS, 1, random_nonce(), b"")
    assert world.refusal(world.relay, call) == "OnlyX402BatchSettlement"


# Claim and settle


def test_receiver_or_authorizer_claims_and_settle_pays_the_receiver_once(world: World) -> None:
    config = world.open(1000)
    claim = world.settlement.functions.claim
    claimed = world.send(world.receiver, claim([world.claim(config, 400)]))
    assert world.events(world.settlement, "Claimed", claimed) == [
        {
            "channelId": world.channel_id(config),
            "sender": world.receiver.address,
            "claimAmount": 400,
            "newTotalClaimed": 400,
        }
    ]
    world.send(world.authorizer, claim([world.claim(config, 650)]))
    assert world.channel(config) == (1000, 650)
    pair = (world.receiver.address, USDC_ADDRESS)
    assert world.settlement.functions.receivers(*pair).call() == [650, 0]

    before = world.balance(world.receiver.address)
    settled = world.send(world.relay, world.settlement.functions.settle(*pair))
    assert world.balance(world.receiver.address) == before + 650
    assert world.events(world.settlement, "Settled", settled) == [
        {
            "receiver": world.receiver.address,
            "token": USDC_ADDRESS,
            "sender": world.relay.address,
            "amount": 650,
        }
    ]
    assert world.settlement.functions.receivers(*pair).call() == [650, 650]
    again = world.send(world.relay, world.settlement.functions.settle(*pair))
    assert again["logs"] == []
    assert world.balance(world.receiver.address) == before + 650


def test_claiming_the_same_or_less_again_changes_nothing(world: World) -> None:
    config = world.open(1000)
    claim = world.claim(config, 400)
    world.send(world.relay, world.claim_with_signature([claim]))
    again = world.send(world.relay, world.claim_with_signature([claim]))
    lower = world.send(world.relay, world.claim_with_signature([world.claim(config, 100)]))
    assert again["logs"] == lower["logs"] == []
    assert world.channel(config) == (1000, 400)


def test_claim_may_stay_below_the_voucher_but_never_pass_it_or_the_balance(world: World) -> None:
    config = world.open(1000)
    refusal = lambda claim: world.refusal(world.relay, world.claim_with_signature([claim]))  # noqa: E731
    assert refusal(world.claim(config, 501, 500)) == "ClaimExceedsCeiling"
    assert refusal(world.claim(config, 1001, 2000)) == "ClaimExceedsBalance"
    world.send(world.relay, world.claim_with_signature([world.claim(config, 300, 2000)]))
    assert world.channel(config) == (1000, 300)


def test_claims_need_someone_who_may_claim(world: World) -> None:
    config = world.open()
    claim = world.claim(config, 10)
    functions = world.settlement.functions
    assert world.refusal(world.other, functions.claim([claim])) == "NotAuthorizedToClaim"
    assert world.refusal(world.payer, functions.claim([claim])) == "NotAuthorizedToClaim"
    assert world.refusal(world.relay, world.claim_with_signature([claim], world.other)) == (
        "InvalidSignature"
    )
    foreign = world.claim(world.open(receiverAuthorizer=world.other.address), 10)
    assert world.refusal(world.relay, world.claim_with_signature([claim, foreign])) == (
        "NotReceiverAuthorizer"
    )
    assert world.refusal(world.receiver, functions.claim([])) == "EmptyBatch"
    assert world.refusal(world.relay, functions.claimWithSignature([], b"")) == "EmptyBatch"


def test_vouchers_need_the_payer_authorizers_signature(world: World) -> None:
    config = world.open(payerAuthorizer=world.other.address)
    claim = world.settlement.functions.claim
    row = world.claim(config, 10, signer=world.other)
    refusal = lambda changed: world.refusal(world.receiver, claim([(row[0], changed, 10)]))  # noqa: E731
    assert refusal(world.claim(config, 10)[1]) == "InvalidSignature"
    assert refusal(row[1][:64]) == "ECDSAInvalidSignatureLength"
    assert refusal(row[1] + b"\0" * 40) == "ECDSAInvalidSignatureLength"
    assert refusal(malleable(row[1])) == "ECDSAInvalidSignatureS"
    assert refusal(row[1][:64] + b"\x05") == "ECDSAInvalidSignature"
    world.send(world.receiver, claim([row]))
    assert world.channel(config) == (1000, 10)


def test_one_transaction_claims_a_hundred_channels_and_settles(world: World) -> None:
    configs = [world.open(100) for _ in range(100)]
    claims = [world.claim(config, 40) for config in configs]
    batch = world.claim_with_signature(claims)
    encoded = [
        batch._encode_transaction_data(),
        world.settlement.functions.settle(
            world.receiver.address, USDC_ADDRESS
        )._encode_transaction_data(),
    ]
    before = world.balance(world.receiver.address)
    receipt = world.send(world.relay, world.settlement.functions.multicall(encoded))
    assert world.balance(world.receiver.address) == before + 4000
    assert len(world.events(world.settlement, "Claimed", receipt)) == 100
    assert receipt["gasUsed"] < 3_000_000


# Contract wallets (EIP-1271)


def test_contract_wallet_pays_through_a_channel_of_its_own(world: World) -> None:
    wallet = world.contract_wallet(world.other, atoms=1000)
    config = world.config(payer=wallet, payerAuthorizer=ZERO)
    world.send(world.relay, world.deposit(config, 1000, world.other))
    refused = world.settlement.functions.claim([world.claim(config, 10, signer=world.payer)])
    assert world.refusal(world.receiver, refused) == "InvalidSignature"
    (voucher, signature, total) = world.claim(config, 10, signer=world.other)
    long_form = (voucher, signature + b"\x07" * 700, total)
    world.send(world.receiver, world.settlement.functions.claim([long_form]))
    assert world.channel(config) == (1000, 10)


def test_plain_payer_without_authorizer_signs_its_own_vouchers(world: World) -> None:
    config = world.open(payerAuthorizer=ZERO)
    claim = world.settlement.functions.claim
    assert world.refusal(world.receiver, claim([world.claim(config, 10, signer=world.other)])) == (
        "InvalidSignature"
    )
    row = world.claim(config, 10)
    assert world.refusal(world.receiver, claim([(row[0], malleable(row[1]), 10)])) == (
        "InvalidSignature"
    )
    world.send(world.receiver, claim([row]))


def test_contract_wallet_authorizes_claims_and_refunds(world: World) -> None:
    wallet = world.contract_wallet(world.other)
    config = world.open(receiverAuthorizer=wallet)
    world.send(world.relay, world.claim_with_signature([world.claim(config, 10)], world.other))
    world.send(world.relay, world.refund_with_signature(config, 90, 0, world.other))
    assert world.channel(config) == (910, 10)


# Refund


def test_refund_returns_what_is_unclaimed_and_advances_the_nonce(world: World) -> None:
    config = world.open(1000)
    world.send(world.relay, world.claim_with_signature([world.claim(config, 300)]))
    before = world.balance(world.payer.address)
    part = world.send(world.receiver, world.settlement.functions.refund(config, 200))
    rest = world.send(world.authorizer, world.settlement.functions.refund(config, 10**6))
    assert world.balance(world.payer.address) == before + 700
    assert world.channel(config) == (300, 300)
    channel = world.channel_id(config)
    assert world.events(world.settlement, "Refunded", part) == [
        {"channelId": channel, "sender": world.receiver.address, "amount": 200}
    ]
    assert world.events(world.settlement, "Refunded", rest)[0]["amount"] == 500
    nothing = world.send(world.receiver, world.settlement.functions.refund(config, 5))
    assert nothing["logs"] == []
    assert world.settlement.functions.refundNonce(channel).call() == 3


def test_refund_of_an_unclaimed_channel_closes_it(world: World) -> None:
    config = world.open(1000)
    receipt = world.send(world.relay, world.refund_with_signature(config, 1000, 0))
    (closed,) = world.events(world.settlement, "ChannelClosed", receipt)
    assert closed["channelId"] == world.channel_id(config)
    assert tuple(closed["config"].values()) == config
    assert world.channel(config) == (0, 0)


def test_signed_refund_serves_once_and_only_with_the_authorizers_signature(world: World) -> None:
    config = world.open(1000)
    refusal = lambda call: world.refusal(world.relay, call)  # noqa: E731
    assert refusal(world.refund_with_signature(config, 10, 1)) == "InvalidRefundNonce"
    assert refusal(world.refund_with_signature(config, 10, 0, world.payer)) == "InvalidSignature"
    assert refusal(world.refund_with_signature(config, 0, 0)) == "ZeroRefund"
    signed = world.refund_with_signature(config, 10, 0)
    world.send(world.relay, signed)
    assert refusal(signed) == "InvalidRefundNonce"
    refund = world.settlement.functions.refund
    assert world.refusal(world.payer, refund(config, 1)) == "NotAuthorizedToRefund"
    assert world.refusal(world.receiver, refund(config, 0)) == "ZeroRefund"


def test_direct_refund_makes_a_signed_one_for_the_old_nonce_useless(world: World) -> None:
    config = world.open(1000)
    signed = world.refund_with_signature(config, 10, 0)
    world.send(world.receiver, world.settlement.functions.refund(config, 1))
    assert world.refusal(world.relay, signed) == "InvalidRefundNonce"


# Withdrawal


def test_payer_withdraws_after_the_delay_and_not_before(world: World) -> None:
    config = world.open(1000)
    functions = world.settlement.functions
    started = world.send(world.payer, functions.initiateWithdraw(config, 600))
    begun = world.w3.eth.get_block(started["blockNumber"])["timestamp"]
    channel = world.channel_id(config)
    assert world.events(world.settlement, "WithdrawInitiated", started) == [
        {"channelId": channel, "amount": 600, "finalizeAfter": begun + 900}
    ]
    assert functions.pendingWithdrawals(channel).call() == [600, begun]
    finalize = functions.finalizeWithdraw(config)
    world.forward(800)
    assert world.refusal(world.payer, finalize) == "WithdrawDelayNotElapsed"
    world.forward(101)
    before = world.balance(world.payer.address)
    done = world.send(world.payer, finalize)
    assert world.balance(world.payer.address) == before + 600
    assert world.events(world.settlement, "WithdrawFinalized", done) == [
        {"channelId": channel, "sender": world.payer.address, "amount": 600}
    ]
    assert functions.pendingWithdrawals(channel).call() == [0, 0]
    assert world.refusal(world.payer, finalize) == "WithdrawalNotPending"


def test_claim_during_the_delay_comes_before_the_withdrawal(world: World) -> None:
    config = world.open(1000, payerAuthorizer=world.other.address)
    functions = world.settlement.functions
    world.send(world.other, functions.initiateWithdraw(config, 1000))
    row = world.claim(config, 750, signer=world.other)
    world.send(world.relay, world.claim_with_signature([row]))
    world.forward(901)
    done = world.send(world.other, functions.finalizeWithdraw(config))
    assert world.events(world.settlement, "WithdrawFinalized", done)[0]["amount"] == 250
    assert world.channel(config) == (750, 750)
    assert world.events(world.settlement, "ChannelClosed", done) == []


def test_withdrawing_everything_closes_the_channel_and_late_claims_fail(world: World) -> None:
    config = world.open(1000)
    functions = world.settlement.functions
    world.send(world.payer, functions.initiateWithdraw(config, 1000))
    world.forward(901)
    done = world.send(world.payer, functions.finalizeWithdraw(config))
    assert len(world.events(world.settlement, "ChannelClosed", done)) == 1
    late = world.claim_with_signature([world.claim(config, 1)])
    assert world.refusal(world.relay, late) == "ClaimExceedsBalance"


def test_withdrawal_needs_the_payer_and_an_amount_that_is_there(world: World) -> None:
    config = world.open(1000)
    functions = world.settlement.functions
    start = functions.initiateWithdraw
    assert world.refusal(world.other, start(config, 1)) == "InvalidChannel"
    assert world.refusal(world.payer, start(config, 0)) == "NothingToWithdraw"
    assert world.refusal(world.payer, start(config, 1001)) == "WithdrawAmountExceedsAvailable"
    finalize = functions.finalizeWithdraw(config)
    assert world.refusal(world.other, finalize) == "NotAuthorizedToFinalizeWithdraw"
    assert world.refusal(world.payer, finalize) == "WithdrawalNotPending"
    world.send(world.payer, start(config, 1))
    assert world.refusal(world.payer, start(config, 1)) == "WithdrawalAlreadyPending"


def test_refund_shrinks_or_ends_a_pending_withdrawal(world: World) -> None:
    config = world.open(1000)
    functions = world.settlement.functions
    channel = world.channel_id(config)
    world.send(world.payer, functions.initiateWithdraw(config, 600))
    world.send(world.receiver, functions.refund(config, 100))
    assert functions.pendingWithdrawals(channel).call()[0] == 500
    world.send(world.receiver, functions.refund(config, 500))
    assert functions.pendingWithdrawals(channel).call() == [0, 0]


# Multicall


def test_multicall_runs_all_or_nothing_and_returns_the_answers(world: World) -> None:
    functions = world.settlement.functions
    config = world.open(1000)
    channel = world.channel_id(config)
    encode = lambda call: call._encode_transaction_data()  # noqa: E731
    claim = world.claim_with_signature([world.claim(config, 100)])
    refund = world.refund_with_signature(config, 900, 0)
    answers = functions.multicall(
        [encode(claim), encode(functions.channels(channel)), encode(refund)]
    ).call({"from": world.relay.address})
    assert answers == [b"", (1000).to_bytes(32, "big") + (100).to_bytes(32, "big"), b""]
    spoiled = functions.multicall(
        [encode(claim), encode(world.refund_with_signature(config, 1, 7))]
    )
    assert world.refusal(world.relay, spoiled) == "InvalidRefundNonce"
    world.send(world.relay, functions.multicall([encode(claim), encode(refund)]))
    assert world.channel(config) == (100, 100)


def test_multicall_acts_as_its_sender(world: World) -> None:
    functions = world.settlement.functions
    config = world.open(1000)
    calls = [functions.claim([world.claim(config, 5)]), functions.refund(config, 5)]
    call = functions.multicall([each._encode_transaction_data() for each in calls])
    assert world.refusal(world.other, call) == "NotAuthorizedToClaim"
    world.send(world.receiver, call)
    assert world.channel(config) == (995, 5)


def test_unknown_function_reverts(world: World) -> None:
    for data in ("0x", "0x12345678", "0x12345678" + "00" * 64):
        with pytest.raises(Exception, match="revert"):
            world.chain.rpc("eth_call", {"to": world.settlement.address, "data": data}, "latest")
