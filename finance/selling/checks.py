"""What only the chain knows about a payment, asked before the upstream is called.

Checks of one moment share a Multicall3 read. Payers that are contracts (or whose
signature does not recover) are tried out in a read of their own, so that their
code cannot spoil the others' answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS
from finance.chain.rpc import Rpc
from finance.errors import (
    AuthorizationReused,
    CallReverted,
    FinanceError,
    PaymentRefused,
    RpcRefused,
    RpcUnavailable,
)
from finance.models import PaymentKind
from finance.selling.mirror import OnchainState, read_state, state_calls
from finance.selling.reasons import DEPOSIT_BALANCE, EXACT_BALANCE, simulation_code
from finance.x402 import codes, digest, exact, vouchers
from finance.x402.abi import calldata
from finance.x402.offers import Terms
from finance.x402.text import to_hex
from finance.x402.values import DepositPayment, ExactPayment, TransferAuthorization, VoucherPayment

WINDOW_SECONDS = 0.005
# Ours on the development chain takes 128 calls; a deposit needs five.
CALLS_PER_READ = 120

_MAGIC = bytes.fromhex("1626ba7e")  # EIP-1271
_FORGED = {PaymentKind.EXACT: codes.EXACT_SIGNATURE, PaymentKind.DEPOSIT: codes.DEPOSIT_SIGNATURE}
_POOR = {PaymentKind.EXACT: EXACT_BALANCE, PaymentKind.DEPOSIT: DEPOSIT_BALANCE}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about one payment. `recovers`: its signature is the payer's own key's."""

    kind: PaymentKind
    authorization: TransferAuthorization
    recovers: bool
    token: str
    attempt: tuple[str, bytes]
    channel_id: str | None = None

    def reads(self) -> list[tuple[str, bytes]]:
        """The views, in the order `judge` reads them."""
        authorization = self.authorization
        state = ("address", "bytes32")
        used = calldata(
            "authorizationState", state, authorization.from_address, authorization.nonce
        )
        balance = calldata("balanceOf", ("address",), authorization.from_address)
        channel = state_calls(self.channel_id) if self.channel_id else []
        return [(self.token, used), (self.token, balance), *channel]


@dataclass(frozen=True, slots=True)
class Answer:
    """The chain's: one result per read, and the payer's code."""

    results: Sequence[tuple[bool, bytes]]
    code: bytes


@dataclass(slots=True)
class _Window:
    """Questions of one moment, and who waits for their answers."""

    questions: list[tuple[Question, asyncio.Future[Answer]]] = field(default_factory=list)


class ChainChecks:
    """Asks the chain about payments; refuses what it would refuse."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._window: _Window | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def check(
        self, payment: ExactPayment | DepositPayment | VoucherPayment, terms: Terms
    ) -> OnchainState | None:
        """Return a deposit's channel as it stands before the deposit (else None).

        Raises PaymentRefused (AuthorizationReused when the nonce is used) if the chain
        would not take the payment, RpcUnavailable if it could not be asked. A voucher is
        only looked at when its payer is a contract (EIP-1271).
        """
        if isinstance(payment, VoucherPayment):
            await self._check_voucher(payment, terms)
            return None
        question = question_of(payment, terms)
        answer = await self._ask(question)
        state = judge(question, answer)
        if answer.code:
            await self._try_out(question)
        if isinstance(payment, DepositPayment):
            await self._check_voucher(payment, terms)
        return state

    async def _ask(self, question: Question) -> Answer:
        if self._window is None:
            self._window = _Window()
            task = asyncio.create_task(self._answer_soon(self._window))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._window.questions.append((question, future))
        return await future

    async def _answer_soon(self, window: _Window) -> None:
        await asyncio.sleep(WINDOW_SECONDS)
        self._window = None
        try:
            answers = await self._read([question for question, _ in window.questions])
        except FinanceError as error:
            refusal = RpcUnavailable(f"the chain could not be asked: {error}")
            _answer(window, [refusal] * len(window.questions))
        except BaseException:
            _answer(window, [RpcUnavailable("the check was abandoned")] * len(window.questions))
            raise
        else:
            _answer(window, answers)

    async def _read(self, questions: Sequence[Question]) -> list[Answer]:
        reads = [question.reads() for question in questions]
        flat = [read for each in reads for read in each]
        parts = [flat[at : at + CALLS_PER_READ] for at in range(0, len(flat), CALLS_PER_READ)]
        codes_wanted = [
            ("eth_getCode", (to_hex(question.authorization.from_address), "latest"))
            for question in questions
        ]
        code, *results = await asyncio.gather(
            self._rpc.batch(codes_wanted), *(self._rpc.multicall(part) for part in parts)
        )
        joined = iter(result for part in results for result in part)
        return [
            Answer([next(joined) for _ in each], _code(payer_code))
            for each, payer_code in zip(reads, code, strict=True)
        ]

    async def _try_out(self, question: Question) -> None:
        """Run the settlement in a read: whether the payer's contract agrees to it."""
        try:
            await self._rpc.eth_call(*question.attempt)
        except CallReverted as error:
            data = _revert_data(error)
            message = f"The payer's contract does not agree: {error}"
            raise PaymentRefused(message, simulation_code(question.kind, data)) from error

    async def _check_voucher(self, payment: VoucherPayment | DepositPayment, terms: Terms) -> None:
        if not vouchers.needs_contract_check(payment.config):
            return
        signed = digest.voucher_digest(payment.channel_id, payment.max_claimable, terms.chain_id)
        ask = calldata("isValidSignature", ("bytes32", "bytes"), signed, payment.signature)
        try:
            answer = await self._rpc.eth_call(to_hex(payment.config.payer), ask)
        except CallReverted:
            answer = b""
        if answer[:4] != _MAGIC or len(answer) != 32:
            message = "The payer's contract does not accept the voucher's signature."
            raise PaymentRefused(message, codes.VOUCHER_SIGNATURE)


def question_of(payment: ExactPayment | DepositPayment, terms: Terms) -> Question:
    """What has to be asked about a payment under these terms."""
    token = to_hex(terms.asset)
    if isinstance(payment, ExactPayment):
        signed = exact.authorization_digest(payment, terms)
        authorization, signature = payment.authorization, payment.signature
        return Question(
            PaymentKind.EXACT,
            authorization,
            digest.recover_address(signed, signature) == authorization.from_address,
            token,
            (token, exact.transfer_calldata(payment)),
        )
    signed = vouchers.deposit_digest(payment, terms)
    return Question(
        PaymentKind.DEPOSIT,
        vouchers.deposit_authorization(payment),
        digest.recover_address(signed, payment.deposit_signature) == payment.config.payer,
        token,
        (BATCH_SETTLEMENT_ADDRESS, vouchers.deposit_calldata(payment)),
        to_hex(payment.channel_id),
    )


def judge(question: Question, answer: Answer) -> OnchainState | None:
    """Refuse a used nonce, an empty purse, a forged signature; a deposit's channel state."""
    used, balance = (_number(result) for result in answer.results[:2])
    if used:
        raise AuthorizationReused("The authorization was used or canceled on-chain.")
    if balance < question.authorization.value:
        message = "The payer does not hold enough of the token."
        raise PaymentRefused(message, _POOR[question.kind])
    if not question.recovers and not answer.code:
        raise PaymentRefused("The signature is not the payer's.", _FORGED[question.kind])
    return read_state(answer.results[2:], 0) if question.channel_id else None


def _number(result: tuple[bool, bytes]) -> int:
    succeeded, data = result
    if not succeeded or len(data) != 32:
        raise RpcUnavailable("the token answered nonsense")
    return int.from_bytes(data, "big")


def _code(answer: object) -> bytes:
    if isinstance(answer, RpcRefused) or not isinstance(answer, str):
        raise RpcUnavailable("the payer's code could not be read")
    try:
        return bytes.fromhex(answer.removeprefix("0x"))
    except ValueError as error:
        raise RpcUnavailable("the payer's code could not be read") from error


def _revert_data(error: CallReverted) -> bytes:
    data = error.data
    try:
        return bytes.fromhex(data[2:]) if isinstance(data, str) else b""
    except ValueError:
        return b""


def _answer(window: _Window, answers: Sequence[Answer | Exception]) -> None:
    for (_, future), answer in zip(window.questions, answers, strict=True):
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
