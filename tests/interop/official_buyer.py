"""Buyers made of the `x402` package and nothing else.

Spend controls are off because the package knows no default asset on a development chain;
everything else is as its documentation shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
from eth_account import Account
from eth_account.signers.local import LocalAccount
from x402 import x402Client, x402ClientSync
from x402.http.utils import (
    decode_payment_required_header,
    decode_payment_response_header,
    encode_payment_signature_header,
)
from x402.mechanisms.evm.batch_settlement.client import (
    BatchSettlementEvmScheme,
    BatchSettlementEvmSchemeOptions,
)
from x402.mechanisms.evm.exact import ExactEvmScheme
from x402.mechanisms.evm.signers import EthAccountSigner, EthAccountSignerWithRPC
from x402.schemas import PaymentPayload, PaymentRequired, SettleResponse

from finance.chain.contracts import compile_vyper
from tests.interop.seller_node import ROOT, SellerNode

NETWORK = "eip155:31337"
FUNDS = 1_000_000
NOBODY = "0x" + "00" * 20


class ContractSigner(EthAccountSigner):
    """A smart wallet's signer, as the package's protocol wants one: the wallet's address,
    its owner's signature."""

    def __init__(self, wallet: str, owner: LocalAccount) -> None:
        super().__init__(owner)
        self._wallet = wallet

    @property
    def address(self) -> str:
        return self._wallet


def new_account(node: SellerNode, atoms: int = FUNDS) -> LocalAccount:
    """Somebody new with USDC and no ETH."""
    account: LocalAccount = Account.create()
    node.fund(account.address, atoms)
    return account


def new_contract_signer(node: SellerNode, atoms: int = FUNDS) -> ContractSigner:
    """A new EIP-1271 wallet with USDC."""
    owner, wallet = Account.create(), Account.create().address
    code = compile_vyper(ROOT / "tests" / "chain" / "wallet1271.vy")
    node.chain.rpc("anvil_setCode", wallet, "0x" + code.hex())
    word = "0x" + owner.address[2:].lower().rjust(64, "0")
    node.chain.rpc("anvil_setStorageAt", wallet, "0x0", word)
    node.fund(wallet, atoms)
    return ContractSigner(wallet, owner)


def plain(account: LocalAccount) -> EthAccountSigner:
    return EthAccountSigner(account)


def with_rpc(account: LocalAccount, node: SellerNode) -> EthAccountSignerWithRPC:
    return EthAccountSignerWithRPC(account, node.chain.rpc_url)


def batch_scheme(signer: Any, **options: Any) -> BatchSettlementEvmScheme:
    return BatchSettlementEvmScheme(signer, BatchSettlementEvmSchemeOptions(**options))


def exact_scheme(signer: Any) -> ExactEvmScheme:
    return ExactEvmScheme(signer)


def client(*schemes: Any, network: str = NETWORK) -> x402Client:
    made = x402Client().set_spend_controls(False)
    for scheme in schemes:
        made.register(network, scheme)
    return made


def sync_client(*schemes: Any) -> x402ClientSync:
    made = x402ClientSync().set_spend_controls(False)
    for scheme in schemes:
        made.register(NETWORK, scheme)
    return made


def offer_of(answer: httpx.Response) -> PaymentRequired:
    """What a 402 asks for, read by the package."""
    assert answer.status_code == 402, answer.text
    required = decode_payment_required_header(answer.headers["PAYMENT-REQUIRED"])
    assert isinstance(required, PaymentRequired)
    return required


def receipt_of(answer: Any) -> SettleResponse:
    return decode_payment_response_header(answer.headers["PAYMENT-RESPONSE"])


def header_of(payload: PaymentPayload) -> dict[str, str]:
    return {"PAYMENT-SIGNATURE": encode_payment_signature_header(payload)}


def statuses(answers: Sequence[Any]) -> list[int]:
    return [answer.status_code for answer in answers]
