"""Errors of the JSON API: RFC 9457, whatever went wrong."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from node.bodies import BodyTooLarge
from node.failures import DOMAIN_ERRORS, UNSTORABLE, Failure, explain

_TITLES = {
    400: "The request cannot be read",
    401: "Sign in",
    403: "Not allowed",
    404: "Not found",
    405: "Wrong method",
    409: "Not possible now",
    413: "Too large",
    422: "A field cannot be accepted",
    500: "Something went wrong here",
    503: "Not available now",
}
_ELSEWHERE = {
    404: (
        "no_such_resource",
        "There is nothing at this address. /api/openapi.json lists what there is.",
    ),
    405: (
        "wrong_method",
        "This address does not take that method. /api/openapi.json lists what it takes.",
    ),
}
_log = logging.getLogger("farebox.api")


def handle_errors(app: FastAPI) -> None:
    """Every exception becomes one JSON shape; none shows a traceback."""
    for kind in (*DOMAIN_ERRORS, *UNSTORABLE):
        app.add_exception_handler(kind, _domain)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(BodyTooLarge, _too_large)
    app.add_exception_handler(Exception, _unexpected)


def answer(failure: Failure, errors: list[dict[str, str]] | None = None) -> Response:
    """The problem document of a failure."""
    fields = errors or (
        [{"field": failure.field, "message": failure.detail}] if failure.field else []
    )
    document = {
        "type": f"urn:farebox:problem:{failure.code}",
        "title": _TITLES.get(failure.status, "Not done"),
        "status": failure.status,
        "code": failure.code,
        "detail": failure.detail,
        "errors": fields,
    }
    headers = {"www-authenticate": "Bearer"} if failure.status == 401 else None
    return JSONResponse(document, failure.status, headers, media_type="application/problem+json")


async def _domain(_request: Request, error: Exception) -> Response:
    return answer(explain(error))


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = [{"field": _place(fault), "message": _words(fault)} for fault in error.errors()]
    unreadable = any(fault["type"] == "json_invalid" for fault in error.errors())
    detail = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults)
    return answer(Failure(400 if unreadable else 422, "request_invalid", detail), faults)


def _words(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        return "There is no such field here; leave it out, or mend its name."
    if fault["type"] == "json_invalid":
        why = fault.get("ctx", {}).get("error", "it breaks off")
        return f"This is no JSON: {why}, at character {fault['loc'][-1]}."
    return str(fault["msg"])


def _place(fault: Any) -> str:
    if fault["type"] == "json_invalid":
        return str(fault["loc"][0])
    return ".".join(str(part) for part in fault["loc"][1:]) or str(fault["loc"][0])


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, detail = _ELSEWHERE.get(error.status_code, ("request_invalid", str(error.detail)))
    return answer(Failure(error.status_code, code, detail))


async def _too_large(_request: Request, error: Exception) -> Response:
    return answer(Failure(413, "body_too_large", f"The body is too large: {error}."))


async def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("%s %s", request.method, request.url.path, exc_info=error)
    return answer(Failure(500, "internal_error", "The node's log says more."))
