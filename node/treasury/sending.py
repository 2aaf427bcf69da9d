"""A confirmed withdrawal, with its place in the trail and the event log."""

from __future__ import annotations

from finance.money import Usdc, Wei
from finance.operations import Token
from finance.withdrawals import Requester, Withdrawals, WithdrawalView
from node.accounts.audit import Actor, audit_write
from node.usage.events import event


async def send_withdrawal(
    withdrawals: Withdrawals,
    withdrawal_id: str,
    token: Token,
    destination: str,
    amount: int,
    actor: Actor,
    now: int,
) -> WithdrawalView:
    """Send `amount` atoms or wei once per id. Raises WithdrawalRefused, ChainError; nothing
    was sent then."""
    kind = Usdc if token is Token.USDC else Wei
    what = {"token": token.value, "amount": str(kind(amount)), "destination": destination}
    sentence = f"{actor.name} withdraws {kind(amount)} {token} to {destination}."
    also = (
        audit_write(actor, "wallet.withdraw", withdrawal_id, now, None, what),
        event("withdrawal", "info", sentence, now),
    )
    requester = Requester(actor.id, actor.name)
    return await withdrawals.send(withdrawal_id, token, destination, amount, requester, also)
