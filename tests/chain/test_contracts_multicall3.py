"""Multicall3: many calls in one, each with its own end; and what settlement costs in gas."""

from typing import Any

from eth_account import Account

from finance.chain.addresses import USDC_ADDRESS
from tests.chain.world import World, split


def _payment(world: World, **changed: Any) -> Any:
    message = world.authorization(**changed)
    signature = world.sign_usdc(world.payer, "TransferWithAuthorization", message)
    function = world.usdc.get_function_by_signature(
        "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,"
        "uint8,bytes32,bytes32)"
    )
    return function(*message.values(), *split(signature))


def _encoded(call: Any) -> str:
    return str(call._encode_transaction_data())


def test_one_failing_call_leaves_the_others_standing(world: World) -> None:
    good, bad = _payment(world), _payment(world, value=10**18)
    calls = [(USDC_ADDRESS, True, _encoded(each)) for each in (good, bad, _payment(world))]
    aggregate = world.multicall3.functions.aggregate3(calls)
    results = aggregate.call()
    assert [each[0] for each in results] == [True, False, True]
    assert b"transfer amount exceeds balance" in results[1][1]
    before = world.balance(world.seller.address)
    receipt = world.send(world.relay, aggregate)
    assert world.balance(world.seller.address) == before + 10
    assert len(world.events(world.usdc, "AuthorizationUsed", receipt)) == 2


def test_one_that_must_not_fail_undoes_all(world: World) -> None:
    calls = [
        (USDC_ADDRESS, True, _encoded(_payment(world))),
        (USDC_ADDRESS, False, _encoded(_payment(world, value=10**18))),
    ]
    aggregate = world.multicall3.functions.aggregate3(calls)
    assert world.refusal(world.relay, aggregate) == "Multicall3: call failed"
    tried = world.multicall3.functions.tryAggregate(True, [(c[0], c[2]) for c in calls])
    assert world.refusal(world.relay, tried) == "Multicall3: call failed"


def test_try_aggregate_reads_many_answers(world: World) -> None:
    balance = world.usdc.functions.balanceOf(world.payer.address)
    name = world.usdc.functions.name()
    calls = [
        (USDC_ADDRESS, _encoded(balance)),
        (USDC_ADDRESS, _encoded(name)),
        (USDC_ADDRESS, "0x"),
    ]
    results = world.multicall3.functions.tryAggregate(False, calls).call()
    assert [each[0] for each in results] == [True, True, False]
    assert int.from_bytes(results[0][1], "big") == balance.call()
    assert b"USD Coin" in results[1][1]


def test_views_answer_about_the_chain(world: World) -> None:
    views = world.multicall3.functions
    assert views.getChainId().call() == world.chain.chain_id
    assert views.getBlockNumber().call() >= world.w3.eth.block_number
    assert views.getCurrentBlockTimestamp().call() >= world.now()
    address = world.other.address
    assert views.getEthBalance(address).call() == world.w3.eth.get_balance(address)


def test_value_travels_with_its_call(world: World) -> None:
    first, second = (Account.create().address for _ in range(2))
    calls = [(first, False, 3, "0x"), (second, False, 4, "0x")]
    world.send(world.relay, world.multicall3.functions.aggregate3Value(calls), value=7)
    assert [world.w3.eth.get_balance(each) for each in (first, second)] == [3, 4]


def test_large_calls_go_through(world: World) -> None:
    claims = [world.claim(world.open(100), 40) for _ in range(10)]
    settle = world.settlement.functions.settle(world.receiver.address, USDC_ADDRESS)
    target = world.settlement.address
    batch = _encoded(world.claim_with_signature(claims))
    calls = [(target, False, batch), (target, False, _encoded(settle))]
    before = world.balance(world.receiver.address)
    world.send(world.relay, world.multicall3.functions.aggregate3(calls))
    assert world.balance(world.receiver.address) == before + 400


def test_nothing_to_call_is_no_error(world: World) -> None:
    assert world.multicall3.functions.aggregate3([]).call() == []


# Gas


def test_claim_and_sweep_of_ten_channels_costs_under_400_gas_a_call(world: World) -> None:
    calls = 1000
    claims = [world.claim(world.open(1000), 100) for _ in range(10)]
    encoded = [
        _encoded(world.claim_with_signature(claims)),
        _encoded(world.settlement.functions.settle(world.receiver.address, USDC_ADDRESS)),
    ]
    receipt = world.send(world.relay, world.settlement.functions.multicall(encoded))
    per_call = receipt["gasUsed"] / calls
    print(f"claim of 10 channels + settle: {receipt['gasUsed']} gas, {per_call:.0f} a call")
    assert per_call <= 400


def test_twenty_exact_payments_together_cost_at_most_070_of_one_each(world: World) -> None:
    world.send(world.relay, _payment(world))
    single = world.send(world.relay, _payment(world))["gasUsed"]
    calls = [(USDC_ADDRESS, True, _encoded(_payment(world))) for _ in range(20)]
    receipt = world.send(world.relay, world.multicall3.functions.aggregate3(calls))
    assert len(world.events(world.usdc, "AuthorizationUsed", receipt)) == 20
    each = receipt["gasUsed"] / 20
    print(f"exact: {single} gas alone, {each:.0f} in a batch of 20, ratio {each / single:.2f}")
    assert each <= 0.7 * single


def test_claim_and_settle_cost_near_what_the_originals_do(world: World) -> None:
    """The originals' execution gas is in their X402BatchSettlementGasTest.json."""
    config = world.open(1000)
    settle = world.settlement.functions.settle(world.receiver.address, USDC_ADDRESS)
    for total in (1, 2):  # the first time fills empty slots
        claim = world.settlement.functions.claim([world.claim(config, total)])
        claimed = world.send(world.receiver, claim)["gasUsed"] - 21_000
        settled = world.send(world.relay, settle)["gasUsed"] - 21_000
    print(f"claim {claimed} gas (original 40252), settle {settled} gas (original 31204)")
    assert claimed <= 1.1 * 40_252
    assert settled <= 1.1 * 31_204
