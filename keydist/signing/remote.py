"""The library over the agent's socket: for processes that may not read the state directory, or should not.

What is refused there is raised here, as the class that the library itself would raise. Threads may share an object;
connections are kept open, and a forked child makes its own.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from keydist.core.jws import Claims, claims_of, compose_claims, segments_of
from keydist.core.strict import parse_object, serialise
from keydist.errors import (
    InternalError,
    InvalidJwtError,
    KeydistError,
    MalformedError,
    UnavailableError,
    UnreachableError,
    UsageError,
)

if TYPE_CHECKING:
    from typing import Self

SECONDS: Final = 10.0
_MOST: Final = 262_144
_MOST_ASKED: Final = 16_384
"""So much an agent takes; what goes beyond would be a connection that ends, and look like no agent."""
_KEPT: Final = 8
_LIFETIME: Final = 900
_OK: Final = 200


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The kernel has the deadline: a socket with one of Python's is refused at once where the agent's queue is full.
        seconds, rest = divmod(self.timeout or SECONDS, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(seconds), int(rest * 1e6)))
        self.sock.connect(self._path)
        self.sock.settimeout(self.timeout)


class Agent:
    """The agent behind a socket; each request has a deadline of `seconds` for each step of it."""

    def __init__(self, path: str, *, seconds: float = SECONDS) -> None:
        self._path = path
        self._seconds = seconds
        self._begin()

    def _begin(self) -> None:
        self._lock = Lock()
        self._idle: list[_Connection] = []
        self._pid = os.getpid()  # last: another thread of a child must not take the lock of before

    def ask(self, method: str, path: str, asked: Mapping[str, object] | None = None, **members: type) -> dict[str, Any]:
        """Return what the agent answers, with `members`. Raises `UnreachableError`, or what the agent refuses with."""
        if os.getpid() != self._pid:
            self._begin()  # what the parent has open is the parent's
        body = None if asked is None else _written(asked)
        try:
            status, raw = self._answer(method, path, body)
            told = parse_object(raw, "the agent's answer")
        except (OSError, http.client.HTTPException, MalformedError) as exc:
            raise self.silent(_why(exc)) from None
        if status != _OK:
            raise _failure(told)
        if any(not isinstance(told.get(name), kind) for name, kind in members.items()):
            raise self.silent("an answer to something else")
        return told

    def silent(self, found: str) -> UnreachableError:
        """Return what to raise where no agent answers."""
        return UnreachableError(
            "the agent does not answer at its socket",
            expected=f"an agent at {self._path}",
            found=found,
            fix="start it: keydist agent; and see that this user may connect: socket.path, socket.mode",
        )

    def close(self) -> None:
        """Close what is open."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _answer(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Return status and body; asked once more where the connection ended: it was kept, or the agent reloads."""
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        first = kept or _Connection(self._path, self._seconds)
        with suppress(ConnectionError, http.client.BadStatusLine):
            return self._ask(first, method, path, body)
        return self._ask(_Connection(self._path, self._seconds), method, path, body)

    def _ask(self, connection: _Connection, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        is_kept = False
        try:
            connection.request(method, path, body, {"content-type": "application/json"} if body is not None else {})
            with connection.getresponse() as answer:
                raw = answer.read(_MOST)
                is_whole = answer.isclosed() and not answer.will_close
            with self._lock:
                is_kept = is_whole and len(self._idle) < _KEPT
                if is_kept:
                    self._idle.append(connection)
            return answer.status, raw
        finally:
            if not is_kept:
                connection.close()


class _Remote:
    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next call opens one again."""
        self._agent.close()

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Return the JWK Set, as `Verifier.jwks` does. Raises `UnavailableError`, `UnreachableError`."""
        return self._agent.ask("GET", "/v1/jwks", keys=list)


class RemoteSigner(_Remote):
    """Mints JWTs at an agent, as far as its configuration allows this user."""

    def mint(
        self,
        claims: Mapping[str, Any],
        *,
        subject: str,
        audience: str | Sequence[str],
        issuer: str | None = None,
        lifetime: int = _LIFETIME,
        typ: str = "JWT",
    ) -> str:
        """Return a JWT, as `Signer.mint` does. Raises as that does, and `NotAllowedError`, `UnreachableError`."""
        several = audience if isinstance(audience, str) else list(audience)
        by = "of the agent" if issuer is None else issuer
        # JSON would make text of a name that is none, and the agent would not see it.
        compose_claims(claims, issuer=by, subject=subject, audience=several, issued=0, expires=0)
        asked: dict[str, object] = {
            "claims": dict(claims),
            "subject": subject,
            "audience": several,
            "lifetime": lifetime,
            "typ": typ,
        }
        if issuer is not None:
            asked["issuer"] = issuer
        return str(self._agent.ask("POST", "/v1/mint", asked, jwt=str)["jwt"])

    async def mint_async(
        self,
        claims: Mapping[str, Any],
        *,
        subject: str,
        audience: str | Sequence[str],
        issuer: str | None = None,
        lifetime: int = _LIFETIME,
        typ: str = "JWT",
    ) -> str:
        """As `mint`, in a thread: the event loop goes on meanwhile, and waits for so long only."""
        given: dict[str, Any] = {"subject": subject, "audience": audience, "issuer": issuer, "lifetime": lifetime}
        try:
            async with asyncio.timeout(SECONDS):
                return await asyncio.to_thread(self.mint, claims, **given, typ=typ)
        except TimeoutError:
            raise self._agent.silent(f"nothing within {SECONDS:g} s") from None


class RemoteVerifier(_Remote):
    """Verifies JWTs at an agent."""

    def verify(self, jwt: str, *, audience: str, issuer: str, leeway: int | None = None, typ: str = "JWT") -> Claims:
        """Return what a JWT says, as `Verifier.verify` does. Raises as that does."""
        segments_of(jwt)  # what is no JWT in the first place may not fit into a request, and is no trouble of an agent
        asked: dict[str, object] = {"jwt": jwt, "audience": audience, "issuer": issuer, "typ": typ}
        if leeway is not None:
            asked["leeway"] = leeway
        try:
            told = self._agent.ask("POST", "/v1/verify", asked, claims=dict, kid=str)
            return self._claims(told)
        except UnreachableError as exc:  # it says nothing about the JWT
            raise UnavailableError(exc.message, expected=exc.expected, found=exc.found, fix=exc.fix) from None

    def _claims(self, told: Mapping[str, Any]) -> Claims:
        try:
            return claims_of(told["claims"], kid=told["kid"])
        except InvalidJwtError:  # what an agent believed has all that it must have
            raise self._agent.silent("an answer to something else") from None

    async def verify_async(
        self, jwt: str, *, audience: str, issuer: str, leeway: int | None = None, typ: str = "JWT"
    ) -> Claims:
        """As `verify`, in a thread: the event loop goes on meanwhile, and waits for so long only."""
        try:
            async with asyncio.timeout(SECONDS):
                return await asyncio.to_thread(
                    self.verify, jwt, audience=audience, issuer=issuer, leeway=leeway, typ=typ
                )
        except TimeoutError:
            raise UnavailableError(
                "the agent does not answer in time", expected=f"an answer within {SECONDS:g} s", fix="try again"
            ) from None


def _written(asked: Mapping[str, object]) -> bytes:
    try:
        body = serialise(asked)
    except (TypeError, ValueError, RecursionError):
        raise UsageError("a request cannot be written as JSON", expected="text, integers, arrays, objects") from None
    if len(body) > _MOST_ASKED:
        raise UsageError("the request is too large", expected=f"at most {_MOST_ASKED} bytes", found=str(len(body)))
    return body


def _why(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror.lower()
    return exc.message if isinstance(exc, MalformedError) else type(exc).__name__


def _failure(told: Mapping[str, Any]) -> KeydistError:
    """Return the failure that an agent told; of a code that is not known here, one of its family."""
    error = told.get("error")
    members = error if isinstance(error, dict) else {}
    text = {name: str(members.get(name, "")) for name in ("message", "expected", "found", "fix")}
    if members.get("code") == InvalidJwtError.code:
        return InvalidJwtError(text.pop("message"), reason=str(members.get("reason", "")), **text)
    known = _known()
    kind = known.get(str(members.get("code"))) or known.get(str(members.get("family")), InternalError)
    found = kind.__new__(kind)
    KeydistError.__init__(found, text.pop("message") or "the agent refuses, and does not say why", **text)
    return found


def _known() -> dict[str, type[KeydistError]]:
    """Return every class that is made from what all have, by its code."""
    found: dict[str, type[KeydistError]] = {}
    kinds = [KeydistError]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.__init__ is KeydistError.__init__:
            found.setdefault(kind.code, kind)
    return found
