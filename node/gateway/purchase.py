"""One call and the authorization that pays for it on the chain."""

from __future__ import annotations

from dataclasses import dataclass

from finance.selling.answers import fingerprint
from finance.selling.channels import Channel
from finance.selling.reservations import Authorization
from finance.x402.offers import Terms
from finance.x402.receipt import encode_response
from finance.x402.values import ChannelState, DepositPayment, ExactPayment, Payment, Receipt
from node.gateway.desk import Desk
from node.gateway.match import Match
from node.gateway.request import Call
from node.gateway.spool import Spool


@dataclass(frozen=True, slots=True)
class Purchase:
    """One on-chain payment for one call; `amount_atoms` is what the call costs."""

    call: Call
    match: Match
    payment: Payment
    authorization: Authorization
    scheme: str
    amount_atoms: int
    spool: Spool
    channel: Channel | None = None

    @property
    def payload(self) -> ExactPayment | DepositPayment:
        assert isinstance(self.payment.payload, ExactPayment | DepositPayment)
        return self.payment.payload

    @property
    def terms(self) -> Terms:
        assert self.match.route is not None and self.match.route.offer is not None
        return self.match.route.offer.terms

    def asked(self) -> str:
        """Fingerprint of the call; its body must have been read."""
        call = self.call
        digest = self.payment.raw_digest
        return fingerprint(call.method, call.target, call.body_digest, digest)


async def receipt_of(desk: Desk, purchase: Purchase, tx_hash: str) -> bytes:
    """PAYMENT-RESPONSE of a purchase whose money has arrived."""
    terms, payload = purchase.terms, purchase.payload
    if isinstance(payload, ExactPayment):
        return encode_response(
            Receipt(
                success=True,
                transaction=tx_hash,
                network=terms.network,
                payer=purchase.authorization.payer,
                amount=purchase.amount_atoms,
            )
        )
    channel = await desk.seller.channels.get(payload.channel_id)
    state = None
    if channel is not None:
        state = ChannelState(
            channel.id,
            channel.balance,
            channel.total_claimed,
            channel.withdraw_requested_at,
            channel.refund_nonce,
            payload.max_claimable,
        )
    return encode_response(
        Receipt(
            success=True,
            transaction=tx_hash,
            network=terms.network,
            payer=purchase.authorization.payer,
            amount=payload.deposit_amount,
            charged_amount=purchase.amount_atoms,
            channel_state=state,
        )
    )
