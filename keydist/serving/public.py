"""HTTP, read only: the JWK Set and each public key for verifiers, health, metrics and a page for whoever watches.

The key documents are public, and any origin may read them. The page and the metrics tell about this node: at a
loopback address they are only given to who asks for it by an address of this machine, and not by a name that
somebody made point to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from starlette.responses import Response
from starlette.routing import Route, Router

from keydist.adapters.metrics import render_metrics
from keydist.adapters.page import PAGE_POLICY, render_page
from keydist.core.jwk import parse_public_jwk
from keydist.core.pem import pem
from keydist.core.plaintext import parse_kid
from keydist.errors import (
    CorruptError,
    InvalidJwtError,
    KeydistError,
    MalformedError,
    NotYetError,
    TrustError,
    UsageError,
)
from keydist.serving.answers import RefusedRequest, guarded
from keydist.serving.local import nowhere
from keydist.serving.published import WELL_KNOWN_JWKS

if TYPE_CHECKING:
    from starlette.requests import Request

    from keydist.core.crypto import PublicPart
    from keydist.core.report import Report
    from keydist.ports import Journal, PublicKeys
    from keydist.serving.answers import App
    from keydist.serving.published import Document, Published

_LOOPBACK: Final = re.compile(r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
_HEADERS: Final = {"x-content-type-options": "nosniff", "content-security-policy": "default-src 'none'"}
_OPEN: Final = {**_HEADERS, "access-control-allow-origin": "*", "cross-origin-resource-policy": "cross-origin"}
_PRIVATE: Final = {**_HEADERS, "cache-control": "no-store", "referrer-policy": "no-referrer"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Public:
    """What answers HTTP."""

    published: Published
    keys: PublicKeys
    report: Callable[[], Report | None]
    """How the node stands; None while there is nothing to say."""

    async def jwks(self, request: Request) -> Response:
        """Return the JWK Set."""
        return _cached(request, self.published.jwks(), "application/jwk-set+json")

    async def discovery(self, request: Request) -> Response:
        """Return where the JWK Set of the issuer is."""
        document = self.published.discovery()
        if document is None:
            raise RefusedRequest(404, UsageError("no issuer is configured", fix="set issuer: in the configuration"))
        return _cached(request, document, "application/json")

    async def jwk(self, request: Request) -> Response:
        """Return one public key as JWK."""
        raw, _ = self._key(kid := request.path_params["kid"])
        return _cached(request, self.published.kept(raw, f"{kid}.jwk"), "application/jwk+json")

    async def pem(self, request: Request) -> Response:
        """Return one public key as PEM."""
        _, key = self._key(kid := request.path_params["kid"])
        return _cached(
            request, self.published.kept(pem("PUBLIC KEY", key.spki), f"{kid}.pem"), "application/x-pem-file"
        )

    def _key(self, kid: str) -> tuple[bytes, PublicPart]:
        try:
            parse_kid(kid)
        except MalformedError as exc:
            raise RefusedRequest(404, UsageError(exc.message, expected=exc.expected)) from None
        try:
            if kid in self.published.revoked() or self.keys.was_revoked(kid):
                raise RefusedRequest(
                    410,
                    InvalidJwtError("the key was revoked", reason="kid-revoked", fix="believe nothing that it signed"),
                )
            raw = self.keys.public_jwk(kid)
            if raw is not None:
                return raw, parse_public_jwk(raw, kid)[1]
        except TrustError as exc:
            raise RefusedRequest(500, _altered(kid, exc)) from None
        if self.published.lists(kid):
            raise RefusedRequest(500, _missing(kid))
        raise RefusedRequest(404, UsageError("there never was such a key here", expected="the kid of a signing key"))

    async def health(self, _request: Request) -> Response:
        """Say that the process turns."""
        return Response("ok\n", 200, _PRIVATE, "text/plain")

    async def ready(self, _request: Request) -> Response:
        """Say whether there is a verified keyset on disk."""
        try:
            self.published.is_ready()
        except KeydistError as exc:
            return Response(f"not ready: {exc.message}\n", 503, _PRIVATE, "text/plain")
        return Response("ready\n", 200, _PRIVATE, "text/plain")

    async def metrics(self, request: Request) -> Response:
        """Return the metrics."""
        _check_host(request)
        body, kind = render_metrics(self._reported(), request.headers.get("accept", ""))
        return Response(body, 200, {**_PRIVATE, "content-type": kind})

    async def page(self, request: Request) -> Response:
        """Return the page."""
        _check_host(request)
        headers = {**_PRIVATE, "content-security-policy": PAGE_POLICY}
        return Response(render_page(self._reported()), 200, headers, "text/html")

    def _reported(self) -> Report:
        report = self.report()
        if report is None:
            raise NotYetError("there is nothing to report yet", fix="try again in a moment")
        return report

    def app(self, log: Journal, *, with_metrics: bool) -> App:
        """Return the application that publishes; the metrics may have a place of their own."""
        routes = [
            Route(WELL_KNOWN_JWKS, self.jwks),
            Route("/.well-known/openid-configuration", self.discovery),
            Route("/keys/{kid}.jwk", self.jwk),
            Route("/keys/{kid}.pem", self.pem),
            Route("/healthz", self.health),
            Route("/readyz", self.ready),
            Route("/", self.page),
        ]
        return self._routed(routes + [Route("/metrics", self.metrics)] * with_metrics, log)

    def metrics_app(self, log: Journal) -> App:
        """Return the application that has the metrics alone."""
        return self._routed([Route("/metrics", self.metrics)], log)

    def _routed(self, routes: list[Route], log: Journal) -> App:
        return guarded(Router(routes, redirect_slashes=False, default=nowhere), log)


def _altered(kid: str, why: TrustError) -> CorruptError:
    return CorruptError(
        f"the public key kept for {kid} was altered",
        expected="the key that the kid is the thumbprint of",
        found=why.message,
        fix="take the file from another node, or from a backup",
    )


def _missing(kid: str) -> CorruptError:
    return CorruptError(
        f"the public key kept for {kid} is missing",
        expected="a copy of each signing key of the keyset",
        found="none of this one",
        fix="take the file from another node, or from a backup; the JWK Set has the key",
    )


def _cached(request: Request, document: Document, kind: str) -> Response:
    caching = f"public, max-age={document.max_age}" if document.max_age else "no-cache"
    headers = {**_OPEN, "etag": document.etag, "cache-control": caching}
    if document.max_age is None:
        headers["keydist-unconfirmed"] = "this node has not confirmed its keyset lately: do not keep this"
    asked = request.headers.get("if-none-match", "")
    if document.etag in (tag.strip().removeprefix("W/") for tag in asked.split(",")) or asked.strip() == "*":
        return Response(None, 304, headers)
    return Response(document.body, 200, headers, kind)


def _check_host(request: Request) -> None:
    """Refuse a name that somebody made point to this machine's own address. Raises `RefusedRequest`."""
    server = request.scope.get("server")
    if server is None or not _LOOPBACK.fullmatch(f"[{server[0]}]" if ":" in server[0] else server[0]):
        return
    if not _LOOPBACK.fullmatch(request.headers.get("host", "")):
        raise RefusedRequest(
            421, UsageError("this is asked for by another name", expected="localhost, 127.0.0.1 or [::1] as host")
        )
