"""The agent's Unix socket: mint, verify, refresh, status and the JWK Set, for processes of this machine.

Requests and answers are JSON with exactly the members that are known. A kid that is unknown makes the agent look at
the store, once a second for all who ask, before it is called unknown.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from starlette.routing import Route, Router

from keydist.core.jws import Claims, parse_compact
from keydist.core.strict import exact_members, parse_object
from keydist.errors import InvalidJwtError, MalformedError, NotYetError, UnavailableError, UsageError
from keydist.serving.answers import RefusedRequest, answer, guarded, read_object
from keydist.serving.policy import Asked, MintPolicy

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from keydist.adapters.http.guard import Peer
    from keydist.ports import Clock, Journal
    from keydist.services.insight import Insight
    from keydist.serving.answers import App, Receive, Scope, Send
    from keydist.serving.signer import PeerSigner
    from keydist.signing import Verifier

LIFETIME: Final = 900
LOOK_SECONDS: Final = 5.0
_MINT: Final = frozenset({"subject", "audience"}), frozenset({"claims", "issuer", "lifetime", "typ"})
_VERIFY: Final = frozenset({"jwt", "audience", "issuer"}), frozenset({"leeway", "typ"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """What answers at the socket."""

    signer: PeerSigner
    verifier: Verifier
    policy: MintPolicy
    insight: Insight
    status: Callable[[], Mapping[str, object]]
    disbelieved: Counter[str]
    """Counts the JWTs that were not believed, by reason; `unavailable` where this node could not tell."""
    clock: Clock
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the one that signs: a flood of requests must not keep the rest of the agent from its turn."""

    async def mint(self, request: Request) -> Response:
        """Mint a JWT for who is allowed to."""
        asked = _parsed(await read_object(request), _MINT, "a request to mint")
        audience, lifetime = _audience(asked["audience"]), _whole(asked, "lifetime", LIFETIME)
        issuer, subject, typ = _text(asked, "issuer"), _text(asked, "subject") or "", _text(asked, "typ") or "JWT"
        claims = asked.get("claims", {})
        if not isinstance(claims, dict):
            raise UsageError("claims is not an object", expected="an object")
        several = (audience,) if isinstance(audience, str) else tuple(audience)
        wanted = Asked(subject=subject, audience=several, issuer=issuer, lifetime=lifetime)
        peer: Peer = request.state.peer
        self.policy.check(peer, wanted)
        async with self.turn:
            jwt = self.signer.mint_for(
                peer.uid, claims, subject=subject, audience=audience, issuer=issuer, lifetime=lifetime, typ=typ
            )
            await self.clock.sleep(0)  # whatever else is due comes before the next signature
        parsed = parse_compact(jwt)
        expires = parse_object(parsed.payload, "the JWT's claims")["exp"]
        return answer({"jwt": jwt, "kid": parsed.header.kid, "exp": expires})

    async def verify(self, request: Request) -> Response:
        """Verify a JWT for anybody."""
        try:
            claims = await self._verified(request)
        except InvalidJwtError as exc:
            self.disbelieved[exc.reason] += 1
            raise
        except UnavailableError as exc:
            self.disbelieved[exc.code] += 1
            raise
        return answer({"claims": dict(claims.all), "kid": claims.kid})

    async def _verified(self, request: Request) -> Claims:
        asked = _parsed(await read_object(request), _VERIFY, "a request to verify")
        wanted = {name: _text(asked, name) or "" for name in ("jwt", "audience", "issuer")}
        leeway = _whole(asked, "leeway", None)
        typ = _text(asked, "typ") or "JWT"

        def verified() -> Claims:
            jwt, audience, issuer = wanted.values()
            return self.verifier.verify(jwt, audience=audience, issuer=issuer, leeway=leeway, typ=typ)

        try:
            return verified()
        except (InvalidJwtError, UnavailableError) as exc:
            if isinstance(exc, InvalidJwtError) and exc.reason != "kid-unknown":
                raise
            if not await self.insight.look(LOOK_SECONDS):
                raise
            self.verifier.jwks()  # reads the disk as it is at this moment
            return verified()

    async def refresh(self, request: Request) -> Response:
        """Look at the store, and tell the epoch that this node holds then."""
        _parsed(await read_object(request), (frozenset(), frozenset()), "a request to refresh")
        present = self.insight.present
        if not await self.insight.look(LOOK_SECONDS) or present is None or present.held is None:
            raise NotYetError("the store was not looked at in time", expected="an answer", fix="try again")
        return answer({"epoch": present.held.keyset.epoch})

    async def jwks(self, _request: Request) -> Response:
        """Return the JWK Set."""
        return answer(self.verifier.jwks())

    async def state(self, _request: Request) -> Response:
        """Return how this node stands, as far as the agent knows it."""
        return answer(self.status())

    def app(self, log: Journal) -> App:
        """Return the application."""
        routes = [
            Route("/v1/mint", self.mint, methods=["POST"]),
            Route("/v1/verify", self.verify, methods=["POST"]),
            Route("/v1/refresh", self.refresh, methods=["POST"]),
            Route("/v1/status", self.state, methods=["GET"]),
            Route("/v1/jwks", self.jwks, methods=["GET"]),
        ]
        return guarded(Router(routes, redirect_slashes=False, default=nowhere), log)


async def nowhere(scope: Scope, _receive: Receive, _send: Send) -> None:
    """Refuse a path that does not exist."""
    raise RefusedRequest(404, UsageError("there is nothing here", found=scope["method"], fix="see docs/serving.md"))


def _parsed(asked: dict[str, Any], members: tuple[frozenset[str], frozenset[str]], what: str) -> dict[str, Any]:
    try:
        exact_members(asked, *members, what)
    except MalformedError as exc:
        raise UsageError(exc.message, expected=exc.expected, found=exc.found) from None
    return asked


def _text(asked: Mapping[str, Any], name: str) -> str | None:
    value = asked.get(name)
    if name in asked and (not isinstance(value, str) or not value):
        raise UsageError(f"{name} is not text", expected="text that is not empty")
    return value


def _whole(asked: Mapping[str, Any], name: str, default: Any) -> Any:  # noqa: ANN401 - an integer, or the default
    value = asked.get(name, default)
    if name in asked and type(value) is not int:
        raise UsageError(f"{name} is not an integer", expected="seconds")
    return value


def _audience(value: object) -> str | list[str]:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return value
    raise UsageError("audience is not an audience", expected="text, or an array of text")
