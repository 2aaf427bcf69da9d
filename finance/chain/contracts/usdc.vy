# pragma version 0.4.3
# pragma evm-version cancun
"""
@title USDC for the development chain
@notice EIP-20, EIP-2612 and EIP-3009 with the selectors, events, revert sentences
        and EIP-712 domain of Circle's FiatTokenV2_2. No constructor and no
        immutables, so that the runtime code can be placed anywhere as it is.
        Blacklist, pause and upgrade are left out.
"""

import calldata

event Transfer:
    sender: indexed(address)
    to: indexed(address)
    value: uint256

event Approval:
    owner: indexed(address)
    spender: indexed(address)
    value: uint256

event AuthorizationUsed:
    authorizer: indexed(address)
    nonce: indexed(bytes32)

event AuthorizationCanceled:
    authorizer: indexed(address)
    nonce: indexed(bytes32)

event Mint:
    minter: indexed(address)
    to: indexed(address)
    amount: uint256

struct Authorization:
    sender: address
    to: address
    value: uint256
    valid_after: uint256
    valid_before: uint256
    nonce: bytes32

struct Permit:
    owner: address
    spender: address
    value: uint256
    deadline: uint256

name: public(constant(String[8])) = "USD Coin"
symbol: public(constant(String[4])) = "USDC"
version: public(constant(String[1])) = "2"
currency: public(constant(String[3])) = "USD"
decimals: public(constant(uint8)) = 6

# Account 9 of the development mnemonic: the only minter.
MINTER: constant(address) = 0xa0Ee7A142d267C1f36714E4a8F75612F20a79720

DOMAIN_TYPEHASH: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
PERMIT_TYPEHASH: public(constant(bytes32)) = keccak256(
    "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
)
TRANSFER_WITH_AUTHORIZATION_TYPEHASH: public(constant(bytes32)) = keccak256(
    "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
RECEIVE_WITH_AUTHORIZATION_TYPEHASH: public(constant(bytes32)) = keccak256(
    "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
CANCEL_AUTHORIZATION_TYPEHASH: public(constant(bytes32)) = keccak256(
    "CancelAuthorization(address authorizer,bytes32 nonce)"
)
# Half the order of secp256k1: a signature with a higher s is refused.
HALF_ORDER: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168

# `totalSupply` is slot 0 and `balanceOf` slot 1: finance.chain.contracts writes them.
totalSupply: public(uint256)
balanceOf: public(HashMap[address, uint256])
allowance: public(HashMap[address, HashMap[address, uint256]])
nonces: public(HashMap[address, uint256])
authorizationState: public(HashMap[address, HashMap[bytes32, bool]])


# EIP-20

@external
def transfer(to: address, amount: uint256) -> bool:
    self._transfer(msg.sender, to, amount)
    return True


@external
def approve(spender: address, amount: uint256) -> bool:
    self._approve(msg.sender, spender, amount)
    return True


@external
def transferFrom(sender: address, to: address, amount: uint256) -> bool:
    allowed: uint256 = self.allowance[sender][msg.sender]
    assert amount <= allowed, "ERC20: transfer amount exceeds allowance"
    self._transfer(sender, to, amount)
    if allowed != max_value(uint256):
        self.allowance[sender][msg.sender] = allowed - amount
    return True


@external
def increaseAllowance(spender: address, increment: uint256) -> bool:
    self._approve(msg.sender, spender, self.allowance[msg.sender][spender] + increment)
    return True


@external
def decreaseAllowance(spender: address, decrement: uint256) -> bool:
    allowed: uint256 = self.allowance[msg.sender][spender]
    assert decrement <= allowed, "ERC20: decreased allowance below zero"
    self._approve(msg.sender, spender, allowed - decrement)
    return True


@view
@external
def isMinter(account: address) -> bool:
    return account == MINTER


@external
def mint(to: address, amount: uint256) -> bool:
    assert msg.sender == MINTER, "FiatToken: caller is not a minter"
    assert to != empty(address), "FiatToken: mint to the zero address"
    assert amount > 0, "FiatToken: mint amount not greater than 0"
    self.totalSupply += amount
    self.balanceOf[to] += amount
    log Mint(minter=msg.sender, to=to, amount=amount)
    log Transfer(sender=empty(address), to=to, value=amount)
    return True


# EIP-2612 and EIP-3009, signature as v, r, s

@view
@external
def DOMAIN_SEPARATOR() -> bytes32:
    return self._domain()


@external
def permit(owner: address, spender: address, amount: uint256, deadline: uint256, v: uint8, r: bytes32, s: bytes32):
    self._permit(Permit(owner=owner, spender=spender, value=amount, deadline=deadline), self._join(v, r, s))


@external
def transferWithAuthorization(
    sender: address, to: address, amount: uint256, validAfter: uint256, validBefore: uint256,
    nonce: bytes32, v: uint8, r: bytes32, s: bytes32,
):
    self._authorized_transfer(
        TRANSFER_WITH_AUTHORIZATION_TYPEHASH,
        Authorization(
            sender=sender, to=to, value=amount,
            valid_after=validAfter, valid_before=validBefore, nonce=nonce,
        ),
        self._join(v, r, s),
    )


@external
def receiveWithAuthorization(
    sender: address, to: address, amount: uint256, validAfter: uint256, validBefore: uint256,
    nonce: bytes32, v: uint8, r: bytes32, s: bytes32,
):
    assert to == msg.sender, "FiatTokenV2: caller must be the payee"
    self._authorized_transfer(
        RECEIVE_WITH_AUTHORIZATION_TYPEHASH,
        Authorization(
            sender=sender, to=to, value=amount,
            valid_after=validAfter, valid_before=validBefore, nonce=nonce,
        ),
        self._join(v, r, s),
    )


@external
def cancelAuthorization(authorizer: address, nonce: bytes32, v: uint8, r: bytes32, s: bytes32):
    self._cancel(authorizer, nonce, self._join(v, r, s))


# The same four with the signature as bytes: overloads, which Vyper does not know.

@external
def __default__():
    selector: Bytes[4] = slice(msg.data, 0, 4)
    if selector == method_id(
        "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)"
    ):
        self._authorized_transfer(
            TRANSFER_WITH_AUTHORIZATION_TYPEHASH,
            abi_decode(slice(msg.data, 4, 192), Authorization),
            self._signature_argument(6),
        )
    elif selector == method_id(
        "receiveWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)"
    ):
        terms: Authorization = abi_decode(slice(msg.data, 4, 192), Authorization)
        assert terms.to == msg.sender, "FiatTokenV2: caller must be the payee"
        self._authorized_transfer(
            RECEIVE_WITH_AUTHORIZATION_TYPEHASH, terms, self._signature_argument(6)
        )
    elif selector == method_id("cancelAuthorization(address,bytes32,bytes)"):
        authorizer: address = empty(address)
        nonce: bytes32 = empty(bytes32)
        authorizer, nonce = abi_decode(slice(msg.data, 4, 64), (address, bytes32))
        self._cancel(authorizer, nonce, self._signature_argument(2))
    elif selector == method_id("permit(address,address,uint256,uint256,bytes)"):
        self._permit(
            abi_decode(slice(msg.data, 4, 128), Permit), self._signature_argument(4)
        )
    else:
        raw_revert(b"")


# Inside

@internal
def _transfer(sender: address, to: address, amount: uint256):
    assert sender != empty(address), "ERC20: transfer from the zero address"
    assert to != empty(address), "ERC20: transfer to the zero address"
    held: uint256 = self.balanceOf[sender]
    assert amount <= held, "ERC20: transfer amount exceeds balance"
    self.balanceOf[sender] = held - amount
    self.balanceOf[to] += amount
    log Transfer(sender=sender, to=to, value=amount)


@internal
def _approve(owner: address, spender: address, amount: uint256):
    assert owner != empty(address), "ERC20: approve from the zero address"
    assert spender != empty(address), "ERC20: approve to the zero address"
    self.allowance[owner][spender] = amount
    log Approval(owner=owner, spender=spender, value=amount)


@internal
def _permit(terms: Permit, signature: Bytes[calldata.MAX_BYTES]):
    assert terms.deadline >= block.timestamp, "FiatTokenV2: permit is expired"
    nonce: uint256 = self.nonces[terms.owner]
    self.nonces[terms.owner] = nonce + 1
    content: bytes32 = keccak256(
        abi_encode(PERMIT_TYPEHASH, terms.owner, terms.spender, terms.value, nonce, terms.deadline)
    )
    assert self._signed(terms.owner, content, signature), "EIP2612: invalid signature"
    self._approve(terms.owner, terms.spender, terms.value)


@internal
def _authorized_transfer(
    typehash: bytes32, terms: Authorization, signature: Bytes[calldata.MAX_BYTES]
):
    assert block.timestamp > terms.valid_after, "FiatTokenV2: authorization is not yet valid"
    assert block.timestamp < terms.valid_before, "FiatTokenV2: authorization is expired"
    self._require_unused(terms.sender, terms.nonce)
    content: bytes32 = keccak256(abi_encode(typehash, terms))
    assert self._signed(terms.sender, content, signature), "FiatTokenV2: invalid signature"
    self.authorizationState[terms.sender][terms.nonce] = True
    log AuthorizationUsed(authorizer=terms.sender, nonce=terms.nonce)
    self._transfer(terms.sender, terms.to, terms.value)


@internal
def _cancel(authorizer: address, nonce: bytes32, signature: Bytes[calldata.MAX_BYTES]):
    self._require_unused(authorizer, nonce)
    content: bytes32 = keccak256(abi_encode(CANCEL_AUTHORIZATION_TYPEHASH, authorizer, nonce))
    assert self._signed(authorizer, content, signature), "FiatTokenV2: invalid signature"
    self.authorizationState[authorizer][nonce] = True
    log AuthorizationCanceled(authorizer=authorizer, nonce=nonce)


@view
@internal
def _require_unused(authorizer: address, nonce: bytes32):
    assert not self.authorizationState[authorizer][nonce], "FiatTokenV2: authorization is used or canceled"


@view
@internal
def _signed(signer: address, content: bytes32, signature: Bytes[calldata.MAX_BYTES]) -> bool:
    digest: bytes32 = keccak256(concat(x"1901", self._domain(), content))
    if signer.is_contract:
        return calldata._contract_accepts(signer, digest, signature)
    return self._recover(digest, signature) == signer


@pure
@internal
def _recover(digest: bytes32, signature: Bytes[calldata.MAX_BYTES]) -> address:
    assert len(signature) == 65, "ECRecover: invalid signature length"
    s: uint256 = convert(slice(signature, 32, 32), uint256)
    v: uint256 = convert(slice(signature, 64, 1), uint256)
    assert s <= HALF_ORDER, "ECRecover: invalid signature 's' value"
    assert v == 27 or v == 28, "ECRecover: invalid signature 'v' value"
    signer: address = ecrecover(digest, v, convert(slice(signature, 0, 32), uint256), s)
    assert signer != empty(address), "ECRecover: invalid signature"
    return signer


@pure
@internal
def _join(v: uint8, r: bytes32, s: bytes32) -> Bytes[65]:
    return concat(r, s, convert(v, bytes1))


@view
@internal
def _signature_argument(index: uint256) -> Bytes[calldata.MAX_BYTES]:
    return calldata._bytes(4 + calldata._word(4 + 32 * index))


@view
@internal
def _domain() -> bytes32:
    return keccak256(
        abi_encode(DOMAIN_TYPEHASH, keccak256("USD Coin"), keccak256("2"), chain.id, self)
    )
