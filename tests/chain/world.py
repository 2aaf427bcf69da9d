"""What the contract tests act with: accounts, contracts, signatures, channels.

Signatures are made over the SDK's own EIP-712 definitions, never over ours.
"""

import secrets
from pathlib import Path
from typing import Any

from eth_abi.abi import decode
from eth_account import Account
from eth_account.signers.local import LocalAccount
from web3 import Web3
from web3.contract import Contract
from web3.exceptions import ContractLogicError
from web3.logs import DISCARD
from x402.mechanisms.evm.batch_settlement.constants import (
    CLAIM_BATCH_TYPES,
    RECEIVE_AUTHORIZATION_TYPES,
    REFUND_TYPES,
    VOUCHER_TYPES,
)
from x402.mechanisms.evm.batch_settlement.encoding import (
    build_erc3009_collector_data,
    build_erc3009_deposit_nonce,
)
from x402.mechanisms.evm.batch_settlement.types import ChannelConfig
from x402.mechanisms.evm.batch_settlement.utils import (
    compute_channel_id,
    get_batch_settlement_eip712_domain,
)

from finance.chain.abi import (
    BATCH_SETTLEMENT_ABI,
    COLLECTOR_ABI,
    ERROR_NAMES,
    MULTICALL3_ABI,
    USDC_ABI,
)
from finance.chain.addresses import (
    BATCH_SETTLEMENT_ADDRESS,
    ERC3009_COLLECTOR_ADDRESS,
    MULTICALL3_ADDRESS,
    USDC_ADDRESS,
)
from finance.chain.contracts import compile_vyper, usdc_balance_slot
from tests.chain_fixtures import ChainProcess

FOREVER = 2**48
GAS = 20_000_000
_TRANSFER_TYPES = {
    "TransferWithAuthorization": [
        {"name": "from", "type": "address"},
        {"name": "to", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "validAfter", "type": "uint256"},
        {"name": "validBefore", "type": "uint256"},
        {"name": "nonce", "type": "bytes32"},
    ]
}
_CANCEL_TYPES = {
    "CancelAuthorization": [
        {"name": "authorizer", "type": "address"},
        {"name": "nonce", "type": "bytes32"},
    ]
}
_PERMIT_TYPES = {
    "Permit": [
        {"name": "owner", "type": "address"},
        {"name": "spender", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "nonce", "type": "uint256"},
        {"name": "deadline", "type": "uint256"},
    ]
}
TYPES: dict[str, dict[str, Any]] = {
    "Voucher": VOUCHER_TYPES,
    "Refund": REFUND_TYPES,
    "ClaimBatch": CLAIM_BATCH_TYPES,
    "ReceiveWithAuthorization": RECEIVE_AUTHORIZATION_TYPES,
    "TransferWithAuthorization": _TRANSFER_TYPES,
    "CancelAuthorization": _CANCEL_TYPES,
    "Permit": _PERMIT_TYPES,
}

Config = tuple[str, str, str, str, str, int, bytes]
Claim = tuple[tuple[Config, int], bytes, int]


def random_nonce() -> bytes:
    return secrets.token_bytes(32)


def split(signature: bytes) -> tuple[int, bytes, bytes]:
    """Return v, r, s of a 65-byte signature."""
    return signature[64], signature[:32], signature[32:64]


def malleable(signature: bytes) -> bytes:
    """Return the other signature of the same message: high s, flipped v."""
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    high = order - int.from_bytes(signature[32:64], "big")
    return signature[:32] + high.to_bytes(32, "big") + bytes([55 - signature[64]])


class World:
    """One chain with its four contracts and the people of a sale."""

    def __init__(self, chain: ChainProcess) -> None:
        self.chain = chain
        self.w3 = Web3(Web3.HTTPProvider(chain.rpc_url))
        self.payer, self.authorizer, self.receiver, self.seller, self.relay, self.other = (
            Account.from_key(key) for key in chain.keys[:6]
        )
        self.minter: LocalAccount = Account.from_key(chain.keys[9])
        self.usdc = self._contract(USDC_ADDRESS, USDC_ABI)
        self.settlement = self._contract(BATCH_SETTLEMENT_ADDRESS, BATCH_SETTLEMENT_ABI)
        self.collector = self._contract(ERC3009_COLLECTOR_ADDRESS, COLLECTOR_ABI)
        self.multicall3 = self._contract(MULTICALL3_ADDRESS, MULTICALL3_ABI)

    # Transactions

    def send(self, sender: LocalAccount, call: Any, value: int = 0) -> Any:
        """Send a call in a transaction that must succeed; returns its receipt."""
        transaction = call.build_transaction(
            {
                "from": sender.address,
                "nonce": self.w3.eth.get_transaction_count(sender.address, "pending"),
                "gas": GAS,
                "value": value,
                "maxFeePerGas": 10**10,
                "maxPriorityFeePerGas": 10**9,
            }
        )
        signed = sender.sign_transaction(transaction)
        sent = self.w3.eth.send_raw_transaction(signed.raw_transaction)
        receipt = self.w3.eth.wait_for_transaction_receipt(sent, poll_latency=0.01)
        assert receipt["status"] == 1
        return receipt

    def refusal(self, sender: LocalAccount | str, call: Any) -> str:
        """Return why a call reverts: the sentence, or the name of the error."""
        address = sender if isinstance(sender, str) else sender.address
        try:
            call.call({"from": address, "gas": GAS})
        except ContractLogicError as error:
            data = bytes.fromhex(str(error.data).removeprefix("0x"))
            if data[:4] == bytes.fromhex("08c379a0"):
                return str(decode(["string"], data[4:])[0])
            return ERROR_NAMES.get(data[:4], f"unknown {data.hex()}")
        raise AssertionError("the call went through")

    def events(self, contract: Contract, name: str, receipt: Any) -> list[dict[str, Any]]:
        """Return the arguments of every such event in a receipt."""
        found = contract.events[name]().process_receipt(receipt, errors=DISCARD)
        return [dict(each["args"]) for each in found]

    def forward(self, seconds: int) -> None:
        """Let time pass and a block be mined."""
        self.chain.rpc("evm_increaseTime", seconds)
        self.chain.rpc("evm_mine")

    def now(self) -> int:
        return int(self.w3.eth.get_block("latest")["timestamp"])

    def balance(self, address: str) -> int:
        return int(self.usdc.functions.balanceOf(address).call())

    def fund(self, address: str, atoms: int) -> None:
        self.chain.rpc(
            "anvil_setStorageAt",
            USDC_ADDRESS,
            f"0x{usdc_balance_slot(address):064x}",
            f"0x{atoms:064x}",
        )

    def contract_wallet(self, owner: LocalAccount, atoms: int = 0) -> str:
        """Place an EIP-1271 wallet at a fresh address."""
        address = Account.create().address
        code = compile_vyper(Path(__file__).parent / "wallet1271.vy")
        self.chain.rpc("anvil_setCode", address, "0x" + code.hex())
        word = "0x" + owner.address[2:].rjust(64, "0")
        self.chain.rpc("anvil_setStorageAt", address, "0x0", word)
        self.fund(address, atoms)
        return str(address)

    # Signatures

    def usdc_domain(self) -> dict[str, Any]:
        return {
            "name": "USD Coin",
            "version": "2",
            "chainId": self.chain.chain_id,
            "verifyingContract": USDC_ADDRESS,
        }

    def settlement_domain(self) -> dict[str, Any]:
        return get_batch_settlement_eip712_domain(self.chain.chain_id)

    def sign_usdc(self, signer: LocalAccount, kind: str, message: dict[str, Any]) -> bytes:
        return bytes(signer.sign_typed_data(self.usdc_domain(), TYPES[kind], message).signature)

    def sign(self, signer: LocalAccount, kind: str, message: dict[str, Any]) -> bytes:
        """Sign for BatchSettlement."""
        signed = signer.sign_typed_data(self.settlement_domain(), TYPES[kind], message)
        return bytes(signed.signature)

    def digest(self, kind: str, message: dict[str, Any]) -> bytes:
        """Return the EIP-712 digest of a BatchSettlement message over the SDK's types."""
        signed = self.other.sign_typed_data(self.settlement_domain(), TYPES[kind], message)
        return bytes(signed.message_hash)

    def authorization(self, **changed: Any) -> dict[str, Any]:
        """Return an EIP-3009 message: 5 USDC atoms from payer to seller, valid now."""
        usual = {
            "from": self.payer.address,
            "to": self.seller.address,
            "value": 5,
            "validAfter": 0,
            "validBefore": FOREVER,
            "nonce": random_nonce(),
        }
        return usual | changed

    # Channels

    def config(self, **changed: Any) -> Config:
        """Return a channel's config as the contract takes it, with a fresh salt."""
        usual = {
            "payer": self.payer.address,
            "payerAuthorizer": self.payer.address,
            "receiver": self.receiver.address,
            "receiverAuthorizer": self.authorizer.address,
            "token": USDC_ADDRESS,
            "withdrawDelay": 900,
            "salt": random_nonce(),
        }
        return tuple((usual | changed).values())

    def channel_id(self, config: Config) -> bytes:
        """Return the SDK's id of a channel."""
        return bytes.fromhex(compute_channel_id(_sdk(config), self.chain.chain_id)[2:])

    def collector_data(self, config: Config, amount: int, signer: LocalAccount) -> bytes:
        """Return what the collector needs to pull `amount`, signed."""
        salt = "0x" + random_nonce().hex()
        message = {
            "from": config[0],
            "to": ERC3009_COLLECTOR_ADDRESS,
            "value": amount,
            "validAfter": 0,
            "validBefore": FOREVER,
            "nonce": build_erc3009_deposit_nonce(self.channel_id(config).hex(), salt),
        }
        signature = self.sign_usdc(signer, "ReceiveWithAuthorization", message)
        return build_erc3009_collector_data("0", str(FOREVER), salt, signature.hex())

    def deposit(self, config: Config, amount: int, signer: LocalAccount | None = None) -> Any:
        """Return the call that deposits into a channel with the payer's signature."""
        data = self.collector_data(config, amount, signer or self.payer)
        return self.settlement.functions.deposit(config, amount, ERC3009_COLLECTOR_ADDRESS, data)

    def open(self, amount: int = 1000, **changed: Any) -> Config:
        """Open a channel and return its config."""
        config = self.config(**changed)
        self.send(self.relay, self.deposit(config, amount))
        return config

    def claim(
        self,
        config: Config,
        total: int,
        ceiling: int | None = None,
        signer: LocalAccount | None = None,
    ) -> Claim:
        """Return a claim row with its voucher signed, by the payer if not said otherwise."""
        most = total if ceiling is None else ceiling
        message = {"channelId": self.channel_id(config), "maxClaimableAmount": most}
        return ((config, most), self.sign(signer or self.payer, "Voucher", message), total)

    def claim_with_signature(self, claims: list[Claim], signer: LocalAccount | None = None) -> Any:
        """Return the call that claims with the receiver authorizer's signature."""
        entries = [
            {
                "channelId": self.channel_id(config),
                "maxClaimableAmount": ceiling,
                "totalClaimed": total,
            }
            for (config, ceiling), _, total in claims
        ]
        signature = self.sign(signer or self.authorizer, "ClaimBatch", {"claims": entries})
        return self.settlement.functions.claimWithSignature(claims, signature)

    def refund_with_signature(
        self, config: Config, amount: int, nonce: int, signer: LocalAccount | None = None
    ) -> Any:
        """Return the call that refunds with the receiver authorizer's signature."""
        message = {"channelId": self.channel_id(config), "nonce": nonce, "amount": amount}
        signature = self.sign(signer or self.authorizer, "Refund", message)
        return self.settlement.functions.refundWithSignature(config, amount, nonce, signature)

    def channel(self, config: Config) -> tuple[int, int]:
        """Return balance and total claimed."""
        return tuple(self.settlement.functions.channels(self.channel_id(config)).call())

    def _contract(self, address: str, abi: Any) -> Contract:
        return self.w3.eth.contract(Web3.to_checksum_address(address), abi=abi)


def _sdk(config: Config) -> ChannelConfig:
    payer, payer_authorizer, receiver, receiver_authorizer, token, delay, salt = config
    return ChannelConfig(
        payer=payer,
        payer_authorizer=payer_authorizer,
        receiver=receiver,
        receiver_authorizer=receiver_authorizer,
        token=token,
        withdraw_delay=delay,
        salt="0x" + salt.hex(),
    )
