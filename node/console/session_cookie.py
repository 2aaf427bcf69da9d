"""The cookie of a session, and where its requests come from."""

from __future__ import annotations

from starlette.responses import Response

from node.accounts.sessions import LONGEST_SECONDS, Client, NewSession, cookie_name
from node.console.visit import Guest
from node.private import session_token


def client_of(guest: Guest) -> Client:
    """Address and browser of a request."""
    return Client(guest.address, guest.request.headers.get("user-agent", ""))


def token_of(guest: Guest) -> str:
    """The session token the browser sent; empty when it has none."""
    return session_token(guest.request)


def give_session(guest: Guest, answer: Response, session: NewSession) -> Response:
    """Let the browser keep a session that was just begun."""
    answer.set_cookie(
        cookie_name(guest.request.url.port),
        session.token,
        max_age=LONGEST_SECONDS,
        path="/",
        secure=guest.secure,
        httponly=True,
        samesite="strict",
    )
    return answer


def take_session(guest: Guest, answer: Response) -> Response:
    """Make the browser forget its session."""
    name = cookie_name(guest.request.url.port)
    answer.delete_cookie(name, path="/", secure=guest.secure, httponly=True, samesite="strict")
    return answer
