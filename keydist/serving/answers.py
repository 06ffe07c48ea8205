"""Answers over HTTP: JSON and its failures, which status a failure has, and how a request's body is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from keydist.core.strict import parse_object, serialise
from keydist.errors import (
    KeydistError,
    MalformedError,
    NotAllowedError,
    TransientError,
    TrustError,
    UsageError,
)
from keydist.services.defect import defect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping

    from keydist.ports import Journal

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Any]]
    Send = Callable[[Any], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BODY: Final = 16_384
MOST_HEAD: Final = 16_384
_MOST_READ_ON: Final = 4 * MOST_BODY
"""What is refused is read to its end up to here."""
_STATUS: Final = ((UsageError, 400), (NotAllowedError, 403), (TrustError, 422), (TransientError, 503))
_NO_STORE: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'",
}
_SCHEMES: Final = frozenset({b"http", b"https"})
_BODY: Final = frozenset({b"content-length", b"transfer-encoding"})


class RefusedRequest(Exception):  # noqa: N818 - an answer with a status of HTTP's own
    """A request that is not what this place takes; `status` is HTTP's."""

    def __init__(self, status: int, reason: KeydistError, **headers: str) -> None:
        super().__init__(reason.message)
        self.status = status
        self.reason = reason
        self.headers = headers


def answer(value: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return JSON that nobody keeps."""
    return Response(serialise(value), status, {**_NO_STORE, **(headers or {})}, "application/json")


def failure(exc: Exception) -> Response:
    """Return what tells a failure."""
    if isinstance(exc, RefusedRequest):
        return answer({"error": exc.reason.as_json()}, exc.status, exc.headers)
    if isinstance(exc, HTTPException):  # the router's, of a method
        methods = (exc.headers or {}).get("Allow", "")
        reason = UsageError("this method is not taken here", expected=methods)
        return answer({"error": reason.as_json()}, exc.status_code, {"allow": methods})
    told = defect(exc, while_="a request was answered")
    status = next((status for family, status in _STATUS if isinstance(told, family)), 500)
    return answer({"error": told.as_json()}, status)


async def read_object(request: Request) -> dict[str, Any]:
    """Return the JSON object in a request's body. Raises `UsageError`, `RefusedRequest`."""
    body = bytearray()
    too_large = RefusedRequest(413, UsageError("the request is too large", expected=f"at most {MOST_BODY} bytes"))
    if int(request.headers.get("content-length", "0")) > MOST_BODY:  # digits, as the server has checked
        raise too_large
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY:
            raise too_large
    try:
        return parse_object(bytes(body), "the request")
    except MalformedError as exc:
        raise UsageError(exc.message, expected=exc.expected) from None


class _Body:
    """The body of one request, and whether some of it was not read yet."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers = dict(scope["headers"])
        self._receive = receive
        self.is_left = not _BODY.isdisjoint(headers)
        size = int(headers.get(b"content-length", _MOST_READ_ON + 1))  # digits, as the server has checked
        self._is_coming = size <= _MOST_READ_ON and b"expect" not in headers

    async def read(self) -> Any:  # noqa: ANN401 - ASGI's
        """Receive one more message."""
        message = await self._receive()
        self.is_left = self.is_left and message.get("more_body", False)
        return message

    async def read_on(self) -> None:
        """Read what is left where that is little: a client that still sends would only find its pipe broken."""
        while self.is_left and self._is_coming:
            await self.read()


def guarded(app: App, log: Journal) -> App:
    """Return an application that fails with an answer, and leaves no connection open behind a body that nobody read."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        body, is_begun = _Body(scope, receive), False

        async def write(message: Any) -> None:  # noqa: ANN401 - ASGI's
            nonlocal is_begun
            if message["type"] == "http.response.start":
                is_begun = True
                await body.read_on()
                if body.is_left:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            _check_head(scope)
            # With an app, a method that is not taken is raised.
            await app({**_origin_form(scope), "app": app}, body.read, write)
        except ClientDisconnect:
            return
        except Exception as exc:  # noqa: BLE001 - a defect, whoever provokes it, is told and answered
            if not isinstance(exc, RefusedRequest | KeydistError | HTTPException):
                log.event("request-failed", level="error", reason=defect(exc, while_="a request was answered"))
            if not is_begun:
                await failure(exc)(scope, body.read, write)

    return run


def _origin_form(scope: Scope) -> Scope:
    """Return a request as if its target were a path; it may be the whole address (RFC 9112, section 3.2.2)."""
    scheme, is_whole, rest = scope["raw_path"].partition(b"://")
    if not is_whole or scheme.lower() not in _SCHEMES:
        return scope
    authority, slash, path = rest.partition(b"/")
    raw = slash + path or b"/"
    headers = [(b"host", authority), *((name, value) for name, value in scope["headers"] if name != b"host")]
    return {**scope, "raw_path": raw, "path": unquote(raw.decode("ascii")), "headers": headers}


def _check_head(scope: Scope) -> None:
    """Refuse a head that came in one piece and is too long all the same. Raises `RefusedRequest`."""
    size = len(scope["raw_path"]) + len(scope["query_string"])
    size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if size > MOST_HEAD:
        raise RefusedRequest(431, UsageError("the request's head is too large", expected=f"at most {MOST_HEAD} bytes"))
