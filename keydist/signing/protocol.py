"""What an application needs of whatever mints and verifies for it: a keyset on disk, or a process that holds one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from keydist.core.jws import Claims


class MintsJwts(Protocol):
    """Mints JWTs. Threads may share one. `Signer.mint` says what the arguments mean and what is raised.

    In an event loop `Signer.mint` is called as it is, for it waits for nobody; what asks an agent has `mint_async`.
    """

    def mint(
        self,
        claims: Mapping[str, Any],
        *,
        subject: str,
        audience: str | Sequence[str],
        issuer: str | None = None,
        lifetime: int = ...,
        typ: str = ...,
    ) -> str:
        """Return a JWT of `claims` and the registered ones, valid from now for `lifetime` seconds."""
        ...

    def close(self) -> None:
        """Let go of what is held."""
        ...


class VerifiesJwts(Protocol):
    """Verifies JWTs. Threads may share one. `Verifier.verify` says what the arguments mean and what is raised."""

    def verify(self, jwt: str, *, audience: str, issuer: str, leeway: int | None = None, typ: str = ...) -> Claims:
        """Return what a JWT says, once it is believed."""
        ...

    async def verify_async(
        self, jwt: str, *, audience: str, issuer: str, leeway: int | None = None, typ: str = ...
    ) -> Claims:
        """As `verify`, and the event loop goes on where that waits."""
        ...

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Return the JWK Set (RFC 7517)."""
        ...
