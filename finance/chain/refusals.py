"""What a refused broadcast says about the transaction, in the words nodes use."""

from __future__ import annotations

from enum import Enum, auto

from finance.chain.rpc import Broadcast
from finance.errors import RpcRefused


class Refusal(Enum):
    """Whether the transaction may be on its way, and if not, why not."""

    OPEN = auto()  # it was taken, or may have been: only the chain can tell
    NONCE = auto()  # not taken: the nonce went to another transaction
    FEES = auto()  # not taken: it offers too little
    FINAL = auto()  # not taken, and would not be


_WORDS = {
    "nonce too low": Refusal.NONCE,
    "oldnonce": Refusal.NONCE,
    "replacement transaction underpriced": Refusal.NONCE,
    "underpriced": Refusal.FEES,
    "less than block base fee": Refusal.FEES,
    "feetoolow": Refusal.FEES,
    "insufficient funds": Refusal.FINAL,
    "intrinsic gas too low": Refusal.FINAL,
    "exceeds block gas limit": Refusal.FINAL,
    "gas limit too high": Refusal.FINAL,
    "invalid sender": Refusal.FINAL,
    "invalid chain id": Refusal.FINAL,
}


def read_refusal(result: Broadcast) -> Refusal:
    """What is certain about a broadcast. In doubt it may have been taken.

    When no endpoint could even be connected to, that is FINAL without refusals.
    """
    if result.accepted or result.uncertain:
        return Refusal.OPEN
    kinds = {_one(each) for each in result.refusals}
    for kind in (Refusal.OPEN, Refusal.NONCE, Refusal.FEES):
        if kind in kinds:
            return kind
    return Refusal.FINAL


def _one(error: RpcRefused) -> Refusal:
    message = str(error).lower()
    return next((kind for words, kind in _WORDS.items() if words in message), Refusal.OPEN)
