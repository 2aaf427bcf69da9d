"""USDC: EIP-20, EIP-2612 and EIP-3009 as Circle's FiatTokenV2_2 does them."""

from typing import Any

import pytest
from eth_account.signers.local import LocalAccount

from finance.chain.addresses import USDC_ADDRESS
from tests.chain.world import FOREVER, World, malleable, random_nonce, split

ZERO = "0x" + "00" * 20
_TERMS = "address,address,uint256,uint256,uint256,bytes32"
FORMS = pytest.mark.parametrize("form", ["uint8,bytes32,bytes32", "bytes"])


def _authorized(
    world: World, name: str, message: dict[str, Any], signature: bytes, form: str
) -> Any:
    """Return the call of an EIP-3009 function in one of its two signature forms."""
    types = "address,bytes32" if name == "cancelAuthorization" else _TERMS
    function = world.usdc.get_function_by_signature(f"{name}({types},{form})")
    parts = (signature,) if form == "bytes" else split(signature)
    return function(*message.values(), *parts)


def _transfer(world: World, form: str, signer: LocalAccount | None = None, **changed: Any) -> Any:
    message = world.authorization(**changed)
    signature = world.sign_usdc(signer or world.payer, "TransferWithAuthorization", message)
    return _authorized(world, "transferWithAuthorization", message, signature, form)


def _permit(world: World, form: str, deadline: int, signer: LocalAccount, value: int) -> Any:
    message = {
        "owner": world.payer.address,
        "spender": world.relay.address,
        "value": value,
        "nonce": world.usdc.functions.nonces(world.payer.address).call(),
        "deadline": deadline,
    }
    signature = world.sign_usdc(signer, "Permit", message)
    function = world.usdc.get_function_by_signature(
        f"permit(address,address,uint256,uint256,{form})"
    )
    del message["nonce"]
    parts = (signature,) if form == "bytes" else split(signature)
    return function(*message.values(), *parts)


# EIP-20


def test_it_calls_itself_usd_coin_version_2_with_6_decimals(world: World) -> None:
    views = world.usdc.functions
    answers = [
        each().call()
        for each in (views.name, views.symbol, views.version, views.decimals, views.currency)
    ]
    assert answers == ["USD Coin", "USDC", "2", 6, "USD"]
    assert views.totalSupply().call() == 10 * 10**12


def test_transfer_moves_money_and_says_so(world: World) -> None:
    before = world.balance(world.seller.address)
    receipt = world.send(world.payer, world.usdc.functions.transfer(world.seller.address, 7))
    assert world.balance(world.seller.address) == before + 7
    assert world.events(world.usdc, "Transfer", receipt) == [
        {"from": world.payer.address, "to": world.seller.address, "value": 7}
    ]


def test_transfer_to_oneself_creates_nothing(world: World) -> None:
    before = world.balance(world.payer.address)
    world.send(world.payer, world.usdc.functions.transfer(world.payer.address, 7))
    assert world.balance(world.payer.address) == before


def test_transfer_refuses_more_than_is_held_and_the_zero_address(world: World) -> None:
    transfer = world.usdc.functions.transfer
    assert world.refusal(world.payer, transfer(world.seller.address, 10**18)) == (
        "ERC20: transfer amount exceeds balance"
    )
    assert world.refusal(world.payer, transfer(ZERO, 1)) == "ERC20: transfer to the zero address"
    assert world.refusal(ZERO, transfer(world.seller.address, 0)) == (
        "ERC20: transfer from the zero address"
    )


def test_allowance_is_spent_and_never_passed(world: World) -> None:
    functions = world.usdc.functions
    pair = (world.payer.address, world.relay.address)
    approved = world.send(world.payer, functions.approve(world.relay.address, 10))
    assert world.events(world.usdc, "Approval", approved) == [
        {"owner": pair[0], "spender": pair[1], "value": 10}
    ]
    spend = functions.transferFrom(world.payer.address, world.seller.address, 6)
    world.send(world.relay, spend)
    assert functions.allowance(*pair).call() == 4
    assert world.refusal(world.relay, spend) == "ERC20: transfer amount exceeds allowance"
    world.send(world.payer, functions.increaseAllowance(world.relay.address, 3))
    world.send(world.payer, functions.decreaseAllowance(world.relay.address, 2))
    assert functions.allowance(*pair).call() == 5
    assert world.refusal(world.payer, functions.decreaseAllowance(world.relay.address, 6)) == (
        "ERC20: decreased allowance below zero"
    )
    assert world.refusal(world.payer, functions.approve(ZERO, 1)) == (
        "ERC20: approve to the zero address"
    )
    assert world.refusal(ZERO, functions.approve(world.relay.address, 1)) == (
        "ERC20: approve from the zero address"
    )


def test_unlimited_allowance_stays(world: World) -> None:
    functions = world.usdc.functions
    world.send(world.payer, functions.approve(world.relay.address, 2**256 - 1))
    world.send(world.relay, functions.transferFrom(world.payer.address, world.seller.address, 6))
    assert functions.allowance(world.payer.address, world.relay.address).call() == 2**256 - 1


def test_only_the_minter_mints(world: World) -> None:
    mint = world.usdc.functions.mint
    supply = world.usdc.functions.totalSupply().call()
    receipt = world.send(world.minter, mint(world.seller.address, 9))
    assert world.usdc.functions.totalSupply().call() == supply + 9
    assert world.events(world.usdc, "Mint", receipt)[0]["amount"] == 9
    assert world.usdc.functions.isMinter(world.minter.address).call()
    assert world.refusal(world.payer, mint(world.payer.address, 1)) == (
        "FiatToken: caller is not a minter"
    )
    assert world.refusal(world.minter, mint(ZERO, 1)) == "FiatToken: mint to the zero address"
    assert world.refusal(world.minter, mint(world.payer.address, 0)) == (
        "FiatToken: mint amount not greater than 0"
    )


# EIP-2612


@FORMS
def test_permit_approves_with_a_signature_once(world: World, form: str) -> None:
    permit = _permit(world, form, FOREVER, world.payer, 11)
    world.send(world.relay, permit)
    views = world.usdc.functions
    assert views.allowance(world.payer.address, world.relay.address).call() == 11
    assert views.nonces(world.payer.address).call() == 1
    assert world.refusal(world.relay, permit) == "EIP2612: invalid signature"


@FORMS
def test_permit_refuses_another_signer_and_a_past_deadline(world: World, form: str) -> None:
    foreign = _permit(world, form, FOREVER, world.other, 1)
    assert world.refusal(world.relay, foreign) == "EIP2612: invalid signature"
    late = _permit(world, form, world.now() - 1, world.payer, 1)
    assert world.refusal(world.relay, late) == "FiatTokenV2: permit is expired"


# EIP-3009


@FORMS
def test_authorization_pays_once_by_anyone(world: World, form: str) -> None:
    before = world.balance(world.seller.address)
    nonce = random_nonce()
    call = _transfer(world, form, nonce=nonce)
    state = world.usdc.functions.authorizationState(world.payer.address, nonce)
    assert not state.call()
    receipt = world.send(world.relay, call)
    assert state.call()
    assert world.balance(world.seller.address) == before + 5
    assert world.events(world.usdc, "AuthorizationUsed", receipt) == [
        {"authorizer": world.payer.address, "nonce": nonce}
    ]
    assert world.events(world.usdc, "Transfer", receipt)[0]["value"] == 5
    assert world.refusal(world.relay, call) == "FiatTokenV2: authorization is used or canceled"


@FORMS
def test_authorization_holds_only_in_its_time(world: World, form: str) -> None:
    early = _transfer(world, form, validAfter=world.now() + 1000)
    assert world.refusal(world.relay, early) == "FiatTokenV2: authorization is not yet valid"
    late = _transfer(world, form, validBefore=world.now())
    assert world.refusal(world.relay, late) == "FiatTokenV2: authorization is expired"


@FORMS
def test_authorization_of_another_or_of_other_terms_is_refused(world: World, form: str) -> None:
    assert world.refusal(world.relay, _transfer(world, form, world.other)) == (
        "FiatTokenV2: invalid signature"
    )
    message = world.authorization()
    signature = world.sign_usdc(world.payer, "TransferWithAuthorization", message)
    altered = message | {"value": 6}
    call = _authorized(world, "transferWithAuthorization", altered, signature, form)
    assert world.refusal(world.relay, call) == "FiatTokenV2: invalid signature"
    receive = _authorized(
        world, "receiveWithAuthorization", message | {"to": world.relay.address}, signature, form
    )
    assert world.refusal(world.relay, receive) == "FiatTokenV2: invalid signature"


@FORMS
def test_malformed_signatures_are_named_as_usdc_names_them(world: World, form: str) -> None:
    message = world.authorization()
    signature = world.sign_usdc(world.payer, "TransferWithAuthorization", message)
    refusal = lambda changed: world.refusal(  # noqa: E731
        world.relay, _authorized(world, "transferWithAuthorization", message, changed, form)
    )
    assert refusal(malleable(signature)) == "ECRecover: invalid signature 's' value"
    assert refusal(signature[:64] + b"\x01") == "ECRecover: invalid signature 'v' value"
    assert refusal(b"\0" * 64 + b"\x1b") == "ECRecover: invalid signature"
    if form == "bytes":
        assert refusal(signature[:64]) == "ECRecover: invalid signature length"
        assert refusal(b"") == "ECRecover: invalid signature length"


@FORMS
def test_authorization_beyond_the_balance_is_refused(world: World, form: str) -> None:
    call = _transfer(world, form, value=10**18)
    assert world.refusal(world.relay, call) == "ERC20: transfer amount exceeds balance"


@FORMS
def test_receive_with_authorization_serves_only_the_payee(world: World, form: str) -> None:
    message = world.authorization()
    signature = world.sign_usdc(world.payer, "ReceiveWithAuthorization", message)
    call = _authorized(world, "receiveWithAuthorization", message, signature, form)
    assert world.refusal(world.relay, call) == "FiatTokenV2: caller must be the payee"
    before = world.balance(world.seller.address)
    world.send(world.seller, call)
    assert world.balance(world.seller.address) == before + 5
    assert world.refusal(world.seller, call) == "FiatTokenV2: authorization is used or canceled"


@FORMS
def test_cancelled_authorization_pays_nothing(world: World, form: str) -> None:
    nonce = random_nonce()
    message = {"authorizer": world.payer.address, "nonce": nonce}
    foreign = world.sign_usdc(world.other, "CancelAuthorization", message)
    refused = _authorized(world, "cancelAuthorization", message, foreign, form)
    assert world.refusal(world.relay, refused) == "FiatTokenV2: invalid signature"
    signature = world.sign_usdc(world.payer, "CancelAuthorization", message)
    cancel = _authorized(world, "cancelAuthorization", message, signature, form)
    receipt = world.send(world.relay, cancel)
    assert world.events(world.usdc, "AuthorizationCanceled", receipt) == [message]
    used = "FiatTokenV2: authorization is used or canceled"
    assert world.refusal(world.relay, cancel) == used
    assert world.refusal(world.relay, _transfer(world, form, nonce=nonce)) == used


def test_contract_wallet_pays_with_its_owners_signature(world: World) -> None:
    wallet = world.contract_wallet(world.other, atoms=100)
    message = world.authorization(**{"from": wallet})
    signature = world.sign_usdc(world.other, "TransferWithAuthorization", message)
    name = "transferWithAuthorization"
    foreign = world.sign_usdc(world.payer, "TransferWithAuthorization", message)
    refused = _authorized(world, name, message, foreign, "bytes")
    assert world.refusal(world.relay, refused) == "FiatTokenV2: invalid signature"
    long_form = signature + b"\x07" * 1000
    world.send(world.relay, _authorized(world, name, message, long_form, "bytes"))
    assert world.balance(wallet) == 95


def test_domain_separator_is_that_of_the_sdks_typed_data(world: World) -> None:
    from eth_account.messages import encode_typed_data

    signable = encode_typed_data(
        world.usdc_domain(),
        {"Any": [{"name": "value", "type": "uint256"}]},
        {"value": 1},
    )
    assert world.usdc.functions.DOMAIN_SEPARATOR().call() == signable.header
    assert world.usdc.address == USDC_ADDRESS


def test_unknown_function_reverts(world: World) -> None:
    for data in ("0x", "0x12345678", "0x12345678" + "00" * 64):
        with pytest.raises(Exception, match="revert"):
            world.chain.rpc("eth_call", {"to": USDC_ADDRESS, "data": data}, "latest")
