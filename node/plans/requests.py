"""What customers ask of the seller, and the answers: both sides keep the record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, select, update
from sqlmodel import col

from catalog.characters import cut, is_readable
from node.accounts.audit import Actor, record
from node.db.engine import writer
from node.plans.errors import PlanInvalid, PlanUnknown, RequestClosed
from node.plans.models import RequestState, SubscriptionRequest
from node.plans.subscribers import SUBJECT
from node.usage.overrides import MOST_CHARACTERS as MOST_REASON
from node.usage.overrides import grant_in
from node.usage.quotas import Meter

MOST_OPEN: Final = 20  # of one subscription, at a time
MOST_CHARACTERS: Final = 1_000
MOST_SHOWN: Final = 200


@dataclass(frozen=True, slots=True)
class Request:
    """`kind` override or support. An override asks for `cap` calls or seconds a month until
    `until` (None: no end)."""

    id: int
    subscription_id: str
    kind: str
    meter: str | None
    cap: int | None
    until: int | None
    text: str
    asked_at: int
    state: RequestState
    answer: str
    answered_by: str
    answered_at: int | None
    override_id: int | None


def read_requests(engine: Engine, subscription_id: str) -> list[Request]:
    """Of one subscription, the newest first (blocking)."""
    statement = _ALL.where(col(SubscriptionRequest.subscription_id) == subscription_id)
    newest = statement.order_by(col(SubscriptionRequest.id).desc()).limit(MOST_SHOWN)
    with engine.connect() as connection:
        return [_request(row) for row in connection.execute(newest).mappings()]


def count_open(engine: Engine, subscription_id: str) -> int:
    """Those nobody has answered (blocking)."""
    statement = select(func.count()).where(
        col(SubscriptionRequest.subscription_id) == subscription_id,
        col(SubscriptionRequest.state) == RequestState.OPEN,
    )
    with engine.connect() as connection:
        return int(connection.scalar(statement) or 0)


def open_by_subscription(engine: Engine) -> dict[str, int]:
    """How many each customer waits for (blocking)."""
    statement = (
        select(col(SubscriptionRequest.subscription_id), func.count())
        .where(col(SubscriptionRequest.state) == RequestState.OPEN)
        .group_by(col(SubscriptionRequest.subscription_id))
    )
    with engine.connect() as connection:
        return {row[0]: row[1] for row in connection.execute(statement)}


def grant(
    engine: Engine,
    request_id: int,
    cap: int | None,
    ends_at: int,
    answer: str,
    now: int,
    actor: Actor,
) -> int:
    """Lift the cap as asked, or otherwise; the override's id (blocking). Raises PlanUnknown,
    RequestClosed, PlanInvalid, AccountInvalid."""
    words = _words(answer)
    asked = _open(engine, request_id, "override")
    reason = cut(f"Request {asked.id}: {words or asked.text}", MOST_REASON)
    subject = SUBJECT + asked.subscription_id
    meter = Meter(asked.meter or "")
    with writer(engine).begin() as connection:
        _answer(connection, asked, RequestState.GRANTED, words, now, actor)
        made = grant_in(connection, meter, cap, ends_at, reason, now, actor, subject)
        noted = update(SubscriptionRequest).where(col(SubscriptionRequest.id) == request_id)
        connection.execute(noted.values(override_id=made))
    return made


def refuse(engine: Engine, request_id: int, answer: str, now: int, actor: Actor) -> None:
    """Say no to an override (blocking). Raises PlanUnknown, RequestClosed, PlanInvalid."""
    asked = _open(engine, request_id, "override")
    _close(engine, asked, RequestState.REFUSED, _words(answer), now, actor)


def answer_support(engine: Engine, request_id: int, answer: str, now: int, actor: Actor) -> None:
    """Answer a message (blocking). Raises PlanUnknown, RequestClosed, PlanInvalid."""
    words = _words(answer)
    if not words:
        raise PlanInvalid("answer", "Write an answer.")
    asked = _open(engine, request_id, "support")
    _close(engine, asked, RequestState.ANSWERED, words, now, actor)


def read_request(engine: Engine, request_id: int) -> Request:
    """One of them (blocking). Raises PlanUnknown."""
    statement = _ALL.where(col(SubscriptionRequest.id) == request_id)
    with engine.connect() as connection:
        row = connection.execute(statement).mappings().one_or_none()
    if row is None:
        raise PlanUnknown("There is no such request.")
    return _request(row)


def _open(engine: Engine, request_id: int, kind: str) -> Request:
    asked = read_request(engine, request_id)
    if asked.kind != kind:
        raise PlanInvalid("kind", "This request is of the other kind.")
    if asked.state is not RequestState.OPEN:
        raise RequestClosed("This request was answered already.")
    return asked


def _close(
    engine: Engine, asked: Request, state: RequestState, answer: str, now: int, actor: Actor
) -> None:
    with writer(engine).begin() as connection:
        _answer(connection, asked, state, answer, now, actor)


def _answer(
    connection: Connection,
    asked: Request,
    state: RequestState,
    answer: str,
    now: int,
    actor: Actor,
) -> None:
    closed = (
        update(SubscriptionRequest)
        .where(
            col(SubscriptionRequest.id) == asked.id,
            col(SubscriptionRequest.state) == RequestState.OPEN,
        )
        .values(state=state, answer=answer, answered_by=actor.name, answered_at=now)
    )
    if connection.execute(closed).rowcount != 1:
        raise RequestClosed("This request was answered already.")
    told = {"state": state.value, "answer": answer, "subscription": asked.subscription_id}
    record(connection, actor, "request.answer", f"request {asked.id}", now, after=told)


def _words(answer: str) -> str:
    words = answer.replace("\r\n", "\n").strip()
    if len(words) > MOST_CHARACTERS or not is_readable(words, "\n\t"):
        sentence = f"At most {MOST_CHARACTERS} characters, all of which can be seen."
        raise PlanInvalid("answer", sentence)
    return words


def _request(row: Any) -> Request:
    return Request(**{**row, "state": RequestState(row["state"])})


_ALL: Final[Any] = select(*(col(getattr(SubscriptionRequest, name)) for name in Request.__slots__))
