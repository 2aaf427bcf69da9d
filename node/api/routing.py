"""Endpoints of the JSON API, each with the one permission it asks for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field

from node.accounts.access import Identity, Permission
from node.accounts.errors import Forbidden, SignInRequired
from node.accounts.service import Accounts
from node.private import session_token

_BEARER = HTTPBearer(auto_error=False, description="An API token from Settings > Security.")

F = TypeVar("F", bound=Callable[..., Any])


class FieldProblem(BaseModel):
    """One field that cannot be accepted."""

    field: str
    message: str


class Problem(BaseModel):
    """An error (RFC 9457). `code` is stable; `detail` says what to do."""

    type: str
    title: str
    status: int
    code: str
    detail: str = ""
    errors: list[FieldProblem] = Field(default_factory=list)


async def identify(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
) -> Identity:
    """Whoever asks: by bearer token, or, only to read, by the console's session."""
    accounts: Accounts = request.app.state.accounts
    address, now = request.client.host if request.client else "", int(time.time())
    if bearer is not None:
        found = await accounts.identify_token(bearer.credentials, address, now)
        if found is None:
            raise SignInRequired("The token is wrong, expired or revoked.")
        return found
    token = session_token(request)
    session = await accounts.identify_session(token, address, now) if token else None
    if session is None:
        raise SignInRequired("Send an API token: Authorization: Bearer fbt_…")
    if session[0].restricted:
        raise Forbidden("Choose a password of your own in the console first.")
    if request.method not in ("GET", "HEAD"):
        raise Forbidden("A session may only read here. Send an API token to change something.")
    return session[0]


Caller = Annotated[Identity, Depends(identify)]


class _Allowed:
    """Lets a caller through who has the permission."""

    def __init__(self, permission: Permission) -> None:
        self.permission = permission

    async def __call__(self, request: Request, identity: Caller) -> None:
        identity.require(self.permission)
        _refuse_unknown(request)


def _refuse_unknown(request: Request) -> None:
    """A filter that is misspelled would be taken for one that was left out, also where things
    are deleted."""
    route = request.scope["route"]
    if not request.query_params or not isinstance(route, APIRoute):
        return
    known = _query_names(route.dependant)
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise RequestValidationError(
            [{"type": "extra_forbidden", "loc": ("query", name), "msg": ""} for name in unknown]
        )


def _query_names(dependant: Dependant) -> set[str]:
    own = {field.alias for field in dependant.query_params}
    return own.union(*(_query_names(each) for each in dependant.dependencies))


class Endpoints:
    """The endpoints of one area. `permissions` says what each (method, path) asks for."""

    def __init__(self, prefix: str, tags: Sequence[str]) -> None:
        self.router = APIRouter(prefix=f"/api{prefix}", tags=list(tags))
        self.permissions: dict[tuple[str, str], Permission] = {}

    def get(self, path: str, permission: Permission, **options: Any) -> Callable[[F], F]:
        """Read."""
        return self._add("GET", path, permission, options)

    def post(self, path: str, permission: Permission, **options: Any) -> Callable[[F], F]:
        """Make something (`status_code=201`), or do something."""
        return self._add("POST", path, permission, options)

    def put(self, path: str, permission: Permission, **options: Any) -> Callable[[F], F]:
        """Replace."""
        return self._add("PUT", path, permission, options)

    def patch(self, path: str, permission: Permission, **options: Any) -> Callable[[F], F]:
        """Change the fields that are sent."""
        return self._add("PATCH", path, permission, options)

    def delete(self, path: str, permission: Permission, **options: Any) -> Callable[[F], F]:
        """Remove; 204 unless told otherwise."""
        return self._add("DELETE", path, permission, {"status_code": 204, **options})

    def _add(
        self, method: str, path: str, permission: Permission, options: dict[str, Any]
    ) -> Callable[[F], F]:
        self.permissions[method, self.router.prefix + path] = permission
        return self.router.api_route(
            path,
            methods=[method],
            dependencies=[Depends(_Allowed(permission))],
            openapi_extra={"x-permission": permission.value},
            responses={
                status: {"description": words, "content": _PROBLEM}
                for status, words in _REFUSALS.items()
            },
            **options,
        )


# By name: as a model of each of eight answers it would be read eight times for every endpoint.
_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_REFUSALS: dict[int | str, str] = {
    400: "The request cannot be read",
    401: "No valid token or session",
    403: "The role may not do this",
    404: "There is no such thing",
    409: "Not possible as things stand",
    413: "The body is too large",
    422: "A field cannot be accepted",
    503: "The chain cannot be asked at the moment",
}
