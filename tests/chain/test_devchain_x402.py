"""The official x402 facilitator and clients, unchanged, on the development chain."""

from collections.abc import Iterator
from typing import Any

import pytest
from eth_account import Account
from web3 import Web3
from x402.mechanisms.evm.batch_settlement.authorizer_signer import LocalAuthorizerSigner
from x402.mechanisms.evm.batch_settlement.client.scheme import BatchSettlementEvmScheme
from x402.mechanisms.evm.batch_settlement.client.voucher import sign_voucher
from x402.mechanisms.evm.batch_settlement.facilitator import BatchSettlementEvmFacilitator
from x402.mechanisms.evm.batch_settlement.types import (
    ChannelConfig,
    ClaimPayload,
    EnrichedRefundPayload,
    SettlePayload,
    VoucherClaim,
    VoucherFields,
)
from x402.mechanisms.evm.exact.client import ExactEvmScheme as ExactClient
from x402.mechanisms.evm.exact.facilitator import ExactEvmScheme as ExactFacilitator
from x402.mechanisms.evm.signers import EthAccountSigner, FacilitatorWeb3Signer
from x402.schemas import PaymentPayload, PaymentRequirements

from finance.chain.abi import BATCH_SETTLEMENT_ABI, USDC_ABI
from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS, USDC_ADDRESS
from tests.chain_fixtures import DevchainProcess


class Market:
    """One chain, a payer's and a facilitator's signer, the seller's terms."""

    def __init__(self, chain: DevchainProcess) -> None:
        self.network = f"eip155:{chain.chain_id}"
        self.payer = EthAccountSigner(Account.from_key(chain.keys[0]))
        self.authorizer = LocalAuthorizerSigner(chain.keys[2])
        self.facilitator_signer = FacilitatorWeb3Signer(chain.keys[3], chain.rpc_url)
        self.pay_to = Account.create().address
        w3 = Web3(Web3.HTTPProvider(chain.rpc_url))
        self._usdc = w3.eth.contract(Web3.to_checksum_address(USDC_ADDRESS), abi=USDC_ABI)
        self._settlement = w3.eth.contract(
            Web3.to_checksum_address(BATCH_SETTLEMENT_ADDRESS), abi=BATCH_SETTLEMENT_ABI
        )

    def requirements(self, scheme: str, amount: int) -> PaymentRequirements:
        extra: dict[str, Any] = {"name": "USD Coin", "version": "2"}
        if scheme == "batch-settlement":
            extra |= {"receiverAuthorizer": self.authorizer.address, "withdrawDelay": 900}
        return PaymentRequirements(
            scheme=scheme,
            network=self.network,
            asset=USDC_ADDRESS,
            amount=str(amount),
            pay_to=self.pay_to,
            max_timeout_seconds=600,
            extra=extra,
        )

    def earned(self) -> int:
        return int(self._usdc.functions.balanceOf(self.pay_to).call())

    def channel(self, channel_id: str) -> tuple[int, int]:
        return tuple(self._settlement.functions.channels(channel_id).call())


@pytest.fixture(scope="module", params=[31337, 84532])
def market(request: pytest.FixtureRequest) -> Iterator[Market]:
    with DevchainProcess(chain_id=request.param) as chain:
        yield Market(chain)


def test_exact_payment_is_verified_and_settled_once(market: Market) -> None:
    terms = market.requirements("exact", 1234)
    inner = ExactClient(market.payer).create_payment_payload(terms)
    payload = PaymentPayload(payload=inner, accepted=terms)
    facilitator = ExactFacilitator(market.facilitator_signer)
    verified = facilitator.verify(payload, terms)
    assert verified.is_valid, verified.invalid_reason
    before = market.earned()
    settled = facilitator.settle(payload, terms)
    assert settled.success, settled.error_message
    assert market.earned() == before + 1234
    again = ExactFacilitator(market.facilitator_signer)
    assert again.verify(payload, terms).invalid_reason == "invalid_exact_evm_nonce_already_used"
    assert not again.settle(payload, terms).success
    assert market.earned() == before + 1234


def test_channel_is_opened_claimed_settled_and_refunded(market: Market) -> None:
    terms = market.requirements("batch-settlement", 1000)
    facilitator = BatchSettlementEvmFacilitator(market.facilitator_signer, market.authorizer)

    def settle(payload: dict[str, Any]) -> Any:
        result = facilitator.settle(PaymentPayload(payload=payload, accepted=terms), terms)
        assert result.success, (result.error_reason, result.error_message)
        return result

    opened = BatchSettlementEvmScheme(market.payer).create_payment_payload(terms)
    payload = PaymentPayload(payload=opened, accepted=terms)
    verified = facilitator.verify(payload, terms)
    assert verified.is_valid, verified.invalid_reason
    settle(opened)
    config = ChannelConfig.from_dict(opened["channelConfig"])
    channel_id = opened["voucher"]["channelId"]
    deposit = int(opened["deposit"]["amount"])
    assert market.channel(channel_id) == (deposit, 0)

    voucher = sign_voucher(market.payer, channel_id, 3000, market.network)
    later = {
        "type": "voucher",
        "channelConfig": opened["channelConfig"],
        "voucher": voucher.to_dict(),
    }
    verified = facilitator.verify(PaymentPayload(payload=later, accepted=terms), terms)
    assert verified.is_valid, verified.invalid_reason

    before = market.earned()
    settle(ClaimPayload(claims=[_row(config, voucher, 2000)]).to_dict())
    settle(SettlePayload(receiver=market.pay_to, token=USDC_ADDRESS).to_dict())
    assert market.earned() == before + 2000

    refund = EnrichedRefundPayload(
        amount=str(deposit), refund_nonce="0", claims=[_row(config, voucher, 3000)]
    )
    refund.channel_config, refund.voucher = config, voucher
    answer = settle(refund.to_dict())
    assert answer.amount == str(deposit - 3000)
    assert market.channel(channel_id) == (3000, 3000)


def _row(config: ChannelConfig, voucher: VoucherFields, total: int) -> VoucherClaim:
    return VoucherClaim(
        channel=config,
        max_claimable_amount=voucher.max_claimable_amount,
        signature=voucher.signature,
        total_claimed=str(total),
    )
