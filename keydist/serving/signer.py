"""The agent's signer: what it mints, it mints for who asked at the socket, and the audit trail tells for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keydist.signing import Signer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class PeerSigner(Signer):
    """A `Signer` that mints for other users of this machine."""

    def mint_for(
        self,
        uid: int,
        claims: Mapping[str, Any],
        *,
        subject: str,
        audience: str | Sequence[str],
        issuer: str | None,
        lifetime: int,
        typ: str,
    ) -> str:
        """Return a JWT that the user `uid` asked for; the rest is as for `mint`."""
        return self._mint(
            claims, subject=subject, audience=audience, issuer=issuer, lifetime=lifetime, typ=typ, uid=uid
        )
